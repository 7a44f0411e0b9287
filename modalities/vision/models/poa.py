"""POA: pre-training once for models of all sizes (Zhang et al., ECCV 2024, arXiv 2408.01031).

One vision transformer whose first channels, and an even choice of whose blocks, are a network of their own: 143 sizes in the
paper's. Computes what alipay/POA@00d9074 `poa/models/vision_transformer.py` (mode "order") and `poa/layers/mdino_head.py` compute;
official weights convert exactly (`modalities.vision.interop.poa`). A part of one size is cut out as a plain vision transformer by
`modalities.vision.models.poa_vit`. Letters: B batch, C channels, L patches, D full width, w active width, K prototypes.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.model import Model
from modalities.common.patches import PatchEmbed, grid_of
from modalities.vision.models.elastic import ElasticBlock, block_indices, first_norm, linear
from modalities.vision.preprocess import ImagePreprocess
from trainer.errors import ConfigError, DataError, did_you_mean, shorten
from trainer.objective import Batch

SIZES = {"small": (384, 12), "base": (768, 12), "large": (1024, 24)}
"""The published sizes by name: width and depth."""

Size = tuple[int, int]
"""Width and depth of a sub-network."""


@dataclass(frozen=True)
class POAConfig:
    """Architecture of the full network, the range of its sub-networks, and the heads. The defaults are the paper's (ViT-L/16 down to ViT-S/16)."""

    input_size: int | tuple[int, int] = (224, 224)
    """Height and width of the images, in pixels. One number stands for both."""
    patch_size: int | tuple[int, int] = (16, 16)
    """Height and width of a patch; it must divide the input size. One number stands for both."""
    in_chans: int = 3
    """Input channels."""
    embed_dim: int = 1024
    """Width of the full network, a multiple of head_dim."""
    depth: int = 24
    """Blocks of the full network."""
    head_dim: int = 64
    """Width of an attention head, the same in every sub-network."""
    min_embed_dim: int = 384
    """Width of the narrowest sub-network, a multiple of head_dim."""
    min_depth: int = 12
    """Blocks of the shallowest sub-network."""
    width_step: int = 1
    """Heads between one width and the next."""
    depth_step: int = 1
    """Blocks between one depth and the next."""
    small_share: float = 3.0
    """How many times as often as the largest width (and, apart from it, depth) the smallest is trained; linear in between."""
    mlp_ratio: float = 4.0
    """Hidden width of a block's MLP is int(embed_dim * mlp_ratio)."""
    qkv_bias: bool = True
    """Bias of the joint query-key-value layer."""
    layer_scale: float | None = 1e-5
    """First value of the factor of each residual branch (LayerScale). Null: no such factors."""
    norm_eps: float = 1e-6
    """Epsilon of every LayerNorm."""
    drop_path: float = 0.0
    """Stochastic depth in training, the same rate for all blocks."""
    init_std: float = 0.02
    """Standard deviation of the first weights of linear maps. The published value is for wide networks; with it the features
    of all images begin nearly alike in one of width 64, and with 0.1 less so."""
    prototypes: tuple[int, ...] = (8192, 16384, 32768, 65536)
    """Outputs of each head. Empty: an encoder without heads."""
    head_hidden_dim: int = 2048
    """Width inside a head's MLP."""
    head_bottleneck_dim: int = 256
    """Width of what is compared with the prototypes."""
    head_layers: int = 3
    """Linear layers of a head's MLP."""

    def __post_init__(self) -> None:
        for name in ("input_size", "patch_size"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value, value) if isinstance(value, int) else tuple(value))
        grid_of(self.input_size, self.patch_size)
        numbers = ("in_chans", "depth", "head_dim", "min_depth", "width_step", "depth_step", "mlp_ratio", "norm_eps", "init_std", "head_hidden_dim", "head_bottleneck_dim", "head_layers")
        for name in (*numbers, *(["layer_scale"] if self.layer_scale is not None else [])):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, found {getattr(self, name)}.")
        if not self.small_share >= 1 or not 0 <= self.drop_path < 1:
            raise ConfigError(f"small_share must be at least 1 and drop_path in [0, 1), found {self.small_share} and {self.drop_path}.")
        if any(k < 1 for k in self.prototypes):
            raise ConfigError(f"prototypes gives the outputs of each head, at least 1, found {self.prototypes}.")
        for low, high, step, what in (
            (self.min_embed_dim, self.embed_dim, self.width_step * self.head_dim, "embed_dim"),
            (self.min_depth, self.depth, self.depth_step, "depth"),
        ):
            if not 0 < low <= high or (high - low) % step:
                raise ConfigError(f"{what} must be reached from min_{what} in whole steps of {step}, found {low} to {high}.")
        if self.embed_dim % self.head_dim:
            raise ConfigError(f"embed_dim={self.embed_dim} is no multiple of head_dim={self.head_dim}. Choose another of the two.")

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of patches along each axis."""
        return grid_of(self.input_size, self.patch_size)

    @property
    def intact(self) -> Size:
        """The full network."""
        return self.embed_dim, self.depth

    def networks(self) -> list[Size]:
        """The sub-networks as they are drawn in training: small ones several times, the intact one last and once."""
        widths = range(self.min_embed_dim, self.embed_dim + 1, self.width_step * self.head_dim)
        depths = range(self.min_depth, self.depth + 1, self.depth_step)
        shares = [np.linspace(self.small_share, 1, len(axis)) for axis in (widths, depths)]
        return [(w, d) for w, ws in zip(widths, shares[0]) for d, ds in zip(depths, shares[1]) for _ in range(int(np.round(ws * ds)))]

    def size(self, name: str) -> Size:
        """Width and depth by a published name ("small") or as "384_12". ConfigError for a size that this network does not contain."""
        found = re.fullmatch(r"(\d+)_(\d+)", str(name))
        size = (int(found[1]), int(found[2])) if found else SIZES.get(str(name))
        if size is None:
            raise ConfigError(f"size must be {', '.join(SIZES)} or width_depth as in 384_12, found {shorten(name)}.{did_you_mean(str(name), SIZES)}")
        width, depth = size
        if width % self.head_dim or not self.min_embed_dim <= width <= self.embed_dim or not self.min_depth <= depth <= self.depth:
            raise ConfigError(
                f"This network has no part of width {width} and depth {depth}: widths go from {self.min_embed_dim} to {self.embed_dim} in steps of "
                f"{self.head_dim}, depths from {self.min_depth} to {self.depth}."
            )
        return size


class PrototypeHead(nn.Module):
    """Tokens (..., w) -> similarities to K prototypes (..., K): an MLP, then cosines with learned directions, each times its own gain."""

    def __init__(self, config: POAConfig, prototypes: int) -> None:
        super().__init__()
        widths = [config.embed_dim, *[config.head_hidden_dim] * (config.head_layers - 1), config.head_bottleneck_dim]
        self.mlp = nn.ModuleList(nn.Linear(*pair) for pair in zip(widths, widths[1:]))
        self.direction = nn.Parameter(nn.Linear(config.head_bottleneck_dim, prototypes, bias=False).weight.detach())
        self.gain = nn.Parameter(torch.ones(prototypes, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Only the first layer is elastic."""
        for i, layer in enumerate(self.mlp):
            x = layer(F.gelu(x)) if i else linear(layer, x, layer.out_features)
        x = F.normalize(x, dim=-1, eps=1e-6 if x.dtype == torch.float16 else 1e-12)
        return F.linear(x, self.direction * (self.gain / self.direction.norm(dim=1, keepdim=True)))


class POA(Model):
    """Input `image` (B, C, H, W) float, normalised as `preprocess` says. `embed` gives the normed class token (B, D) of the full
    network, `tokens` class token and patches (B, 1+L, D). `zoo.from_pretrained(..., size="384_12")` gives a smaller part instead."""

    system = "vision/poa"
    config_class = POAConfig
    input_key = "image"
    parts = {"heads.": "heads", "mask_token": "mask token", "": "encoder"}

    def __init__(self, config: POAConfig) -> None:
        super().__init__(config)
        width = config.embed_dim
        self.patch_embed = PatchEmbed(config.input_size, config.patch_size, config.in_chans, width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width).normal_(std=1e-6))
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1 + self.patch_embed.length, width), std=0.02))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        options = dict(mlp_ratio=config.mlp_ratio, qkv_bias=config.qkv_bias, init_values=config.layer_scale, drop_path=config.drop_path)
        self.blocks = nn.ModuleList(ElasticBlock(width, config.head_dim, config.norm_eps, **options) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.heads = nn.ModuleList(PrototypeHead(config, k) for k in config.prototypes)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=config.init_std)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def default_preprocess(self) -> ImagePreprocess | None:
        """ImageNet's statistics for RGB, -1..1 for grey; other channels have no usual ones."""
        return ImagePreprocess.usual(self.config.input_size, self.config.in_chans)

    def input_shape(self) -> tuple[int, ...]:
        return (self.config.in_chans, *self.config.input_size)

    def features(self, image: Tensor, mask: Tensor | None = None, size: Size | None = None) -> Tensor:
        """All tokens of a (sub-)network after the final norm, (B, 1+L, w), the class token first.

        `image` may have any size in whole patches (local crops); `mask` (B, L) is true where the mask token stands for a patch;
        `size` is a width and a depth, the full ones by default.
        """
        width, depth = size or self.config.intact
        proj = self.patch_embed.proj
        x = F.conv2d(image, proj.weight[:width], proj.bias[:width], proj.stride)  # (B, w, h, w')
        grid = tuple(x.shape[2:])
        x = x.flatten(2).transpose(1, 2)
        if mask is not None:
            x = torch.where(mask.bool()[:, :, None], self.mask_token[None, :, :width].to(x.dtype), x)
        x = torch.cat([self.cls_token[..., :width].expand(len(x), -1, -1).to(x.dtype), x], dim=1) + self.positions(grid, width)
        for i in block_indices(self.config.depth, depth):
            x = self.blocks[i](x)
        return first_norm(self.norm, x)

    def positions(self, grid: tuple[int, ...], width: int) -> Tensor:
        """The position table of a grid, (1, 1+L, w); for another grid than its own interpolated as DINO does it.

        DINO adds 0.1 to the new size before it divides, against rounding, so that the scale is not exactly new / old.
        """
        table, own = self.pos_embed[..., :width], self.config.grid
        if grid == own:
            return table
        rows = table[:, 1:].transpose(1, 2).unflatten(2, own).float()
        scale = tuple((new + 0.1) / old for new, old in zip(grid, own))
        rows = F.interpolate(rows, scale_factor=scale, mode="bicubic").flatten(2).transpose(1, 2)
        return torch.cat([table[:, :1], rows.to(table.dtype)], dim=1)

    def tokens(self, batch: Batch) -> Tensor:
        """All tokens of the full network, (B, 1+L, D)."""
        if self.input_key not in batch:
            raise DataError(f"{type(self).__name__} reads batch[{self.input_key!r}]; this batch holds: {', '.join(batch) or 'nothing'}.")
        self.patch_embed.require(batch[self.input_key])
        return self.features(batch[self.input_key])

    def embed(self, batch: Batch) -> Tensor:
        """The class token of the full network, (B, D)."""
        return self.tokens(batch)[:, 0]

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        tokens = self.tokens(batch)
        return {"features": tokens[:, 0], "tokens": tokens}

    def layer_ids(self) -> dict[str, int]:
        """Depth of each parameter for layer decay: 0 embeddings, i+1 block i, depth+1 the rest."""
        first = ("cls_token", "pos_embed", "mask_token", "patch_embed.")
        names = [name for name, _ in self.named_parameters()]
        return {n: 0 if n.startswith(first) else int(n.split(".")[1]) + 1 if n.startswith("blocks.") else self.config.depth + 1 for n in names}

    def part(self, size: str | None = None) -> Model:
        """A part, or without `size` the intact network, as a plain vision transformer with these weights."""
        from modalities.vision.models.poa_vit import extract  # it imports this module

        return extract(self, self.config.size(size) if size is not None else self.config.intact)

    @classmethod
    def sub_model(cls, config: POAConfig, size: str) -> tuple[type[Model], Any]:
        """A plain vision transformer of a size."""
        from modalities.vision.models.poa_vit import POAViT, plain_config  # it imports this module

        return POAViT, plain_config(config, config.size(size))
