"""From the maps of an encoder to a class for every pixel: a linear head, and one like UPerNet.

A map is what a stage of a convolutional network gives, or the tokens of a vision transformer after some block at their places. Every map is normed by the
head itself, so that encoders with and without a last norm are treated alike. Letters: B batch, D width of a map, E width of the head, K classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.classifier import check_names
from modalities.common.loading import Rule
from modalities.vision.maps import IGNORED
from trainer.errors import ConfigError

BINS = (1, 2, 3, 6)
"""Sides of the grids that the pyramid pools to (Zhao et al. 2016, arXiv 1612.01105)."""
LEVELS = 4
"""Maps that the UPerNet-like head reads: the stages of a convolutional network, or as many depths of a transformer, evenly spread."""


@dataclass(frozen=True)
class SegmentationFields:
    """What the configs of all segmenters share. It comes before the encoder's config among the bases."""

    num_classes: int = 150
    """Classes of a pixel. ADE20K has 150."""
    head: Literal["linear", "upernet"] = "linear"
    """linear: a norm and a linear layer on the last map. upernet: four maps as a pyramid, pooled and merged (Xiao et al. 2018, arXiv 1807.10221),
    with group norm for batch norm."""
    head_dim: int = 256
    """Width of the UPerNet-like head; the linear one has none."""
    class_names: tuple[str, ...] = ()
    """What the classes are called, in order; empty when unknown."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.num_classes <= IGNORED:
            raise ConfigError(f"num_classes must be 2 to {IGNORED} (a pixel of {IGNORED} has no label), found {self.num_classes}.")
        check_names(self.class_names, self.num_classes)
        if self.head_dim < 1:
            raise ConfigError(f"head_dim must be at least 1, found {self.head_dim}.")

    def levels(self, depth: int) -> tuple[int, ...]:
        """After how many of the `depth` blocks of a transformer the head reads, ascending."""
        return (depth,) if self.head == "linear" else tuple(math.ceil(depth * (i + 1) / LEVELS) for i in range(LEVELS))


def token_head(config: SegmentationFields, width: int) -> nn.Module:
    """The head of a config for maps of tokens, all of one width and size."""
    if config.head == "linear":
        return LinearHead(width, config.num_classes)
    return UPerHead([width] * LEVELS, config.head_dim, config.num_classes, token_scales(width))


def pyramid_head(config: SegmentationFields, widths: Sequence[int]) -> nn.Module:
    """The head of a config for the stages of a convolutional network."""
    return LinearHead(widths[-1], config.num_classes) if config.head == "linear" else UPerHead(widths, config.head_dim, config.num_classes)


def run_levels(blocks: Sequence[nn.Module], x: Tensor, after: Sequence[int]) -> list[Tensor]:
    """Tokens (B, N, D) after so many blocks each; numbers may repeat."""
    found = {}
    for number, block in enumerate(blocks, 1):
        x = block(x)
        if number in after:
            found[number] = x
    return [found[number] for number in after]


def as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, L, D) -> (B, D, h, w)."""
    return tokens.transpose(1, 2).unflatten(2, grid)


class LinearHead(nn.Module):
    """Maps of which the last is read: (B, D, h, w) -> logits (B, K, h, w)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.classifier = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.norm(maps[-1].permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class UPerHead(nn.Module):
    """Maps (B, D_i, h_i, w_i) from fine to coarse -> logits (B, K, h_0, w_0): the coarsest is pooled to several grids, then they are merged downwards.

    `scales`: what each map goes through before; for maps of one size what makes a pyramid of them.
    """

    def __init__(self, widths: Sequence[int], dim: int, classes: int, scales: Sequence[nn.Module] | None = None) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for width in widths)
        self.scales = nn.ModuleList(scales or [nn.Identity() for _ in widths])
        self.laterals = nn.ModuleList(_convolved(width, dim, 1) for width in widths[:-1])
        self.pools = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(side), *_convolved(widths[-1], dim, 1)) for side in BINS)
        self.bottleneck = _convolved(widths[-1] + len(BINS) * dim, dim, 3)
        self.smooth = nn.ModuleList(_convolved(dim, dim, 3) for _ in widths[:-1])
        self.merge = _convolved(len(widths) * dim, dim, 3)
        self.classifier = nn.Conv2d(dim, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        normed = (norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for norm, x in zip(self.norms, maps))
        levels = [scale(x) for scale, x in zip(self.scales, normed)]  # from fine to coarse
        top = torch.cat([levels[-1], *(_resized(pool(levels[-1]), levels[-1]) for pool in self.pools)], dim=1)
        merged = [self.bottleneck(top)]
        for lateral, x in zip(reversed(self.laterals), reversed(levels[:-1])):
            side = lateral(x)
            merged.insert(0, side + _resized(merged[0], side))
        merged[:-1] = [smooth(x) for smooth, x in zip(self.smooth, merged)]
        return self.classifier(self.merge(torch.cat([_resized(x, merged[0]) for x in merged], dim=1)))


def token_scales(width: int) -> list[nn.Module]:
    """What makes a pyramid of four maps of tokens: 4, 2, 1 and 1/2 times their size."""
    larger = nn.Sequential(nn.ConvTranspose2d(width, width, 2, 2), nn.GELU(), nn.ConvTranspose2d(width, width, 2, 2))
    return [larger, nn.ConvTranspose2d(width, width, 2, 2), nn.Identity(), nn.MaxPool2d(2, ceil_mode=True)]


def _convolved(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """A convolution with norm and activation. The norm is over all channels of a sample: it works for a batch of one, too."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.GroupNorm(1, outputs), nn.ReLU())


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def enlarged(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (B, K, h, w) at the size of the picture."""
    return F.interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=False)


def fields_for(config_class: type, base: type, config: object, num_outputs: int | None, task: str) -> dict[str, object]:
    """Fields of a segmenter on the weights of a model of `config`: those of the encoder (`base`), and of a head for `num_outputs` classes.

    Without `num_outputs` the head that there is. ConfigError when there is none.
    """
    has_head = isinstance(config, SegmentationFields)
    kept = config_class if has_head else base
    own: dict[str, object] = {field.name: getattr(config, field.name) for field in fields(kept)}
    if num_outputs is None and has_head:
        return own
    if not isinstance(num_outputs, int) or isinstance(num_outputs, bool):
        raise ConfigError(f"The task {task!r} needs a head: say num_outputs, the number of classes, found {num_outputs!r}.")
    return own | {"num_classes": num_outputs, "class_names": ()}


def head_rules(old: object, new: SegmentationFields, new_head: bool) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
    """(new, unused) rules about the head of a segmenter that takes weights of a model of config `old`."""
    fresh = (Rule(r"head\..*", f"for {new.num_classes} classes of pixels"),)
    if not isinstance(old, SegmentationFields):
        return fresh, ()
    return (fresh, (Rule(r"head\..*", "another head was asked for"),)) if new_head or old.head != new.head else ((), ())
