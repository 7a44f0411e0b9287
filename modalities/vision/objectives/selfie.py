"""Selfie: pre-training by picking the right patch (Trinh, Luong, Le 2019, arXiv 1906.02940).

No official code is known; this is written from the paper's description. Patches of an image go through the first three stages of a network,
each alone. Attention pools most of them to one vector; from it and a position, the patch that stands there must be picked among those that
were held out of the same image. The fourth stage is not trained here. Sizes of the pooling are ours where the paper is silent.
Letters: B batch, L patches, K visible, H = L - K held out, D width of the third stage.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.masking import keep_count, mask_from_noise
from modalities.common.patches import patchify
from modalities.vision.models.convnet import ConvNet
from trainer.errors import ConfigError
from trainer.objective import Batch, Losses, Objective
from trainer.randomness import draws_on_device

STAGES = 3
"""Stages of the network that see patches; together they divide the size by 16."""
STRIDE = 16


@dataclass(frozen=True)
class SelfieConfig:
    """Patches and pooling."""

    patch_size: int = 32
    """Side of a patch in pixels: a multiple of 16 that divides the sides of the image. Paper: 32 at 224 pixels."""
    hidden: float = 0.25
    """Share of the patches that are held out and have to be picked; the visible ones are rounded down."""
    depth: int = 3
    """Layers of the attention pooling."""
    heads: int = 32
    """Attention heads; they divide the width of the third stage."""
    mlp: int = 640
    """Hidden width of the pooling's feed-forward layers."""
    dropout: float = 0.1
    """Dropout in the pooling."""

    def __post_init__(self) -> None:
        if self.patch_size < STRIDE or self.patch_size % STRIDE:
            raise ConfigError(f"patch_size must be a multiple of {STRIDE}, the stride of the third stage, found {self.patch_size}.")
        if min(self.depth, self.heads, self.mlp) < 1:
            raise ConfigError(f"depth, heads and mlp must be at least 1, found {self.depth}, {self.heads} and {self.mlp}.")
        if not 0 < self.hidden < 1 or not 0 <= self.dropout < 1:
            raise ConfigError(f"hidden must lie between 0 and 1 and dropout be from 0 up to but not 1, found {self.hidden} and {self.dropout}.")

    def build(self, model: ConvNet) -> "Selfie":
        """The objective around a backbone."""
        return Selfie(model, self)


class Selfie(Objective):
    """Batch: `image` (B, C, H, W). Cross-entropy of picking, for each held-out position, its patch among the held-out ones of that image."""

    def __init__(self, model: ConvNet, config: SelfieConfig) -> None:
        super().__init__()
        c = model.config
        width = c.channels[STAGES - 1]
        if any(side % config.patch_size for side in c.input_size):
            raise ConfigError(f"patch_size={config.patch_size} does not divide images of {c.input_size} pixels. Choose another.")
        self.grid = tuple(side // config.patch_size for side in c.input_size)
        self.visible = keep_count(math.prod(self.grid), config.hidden)
        if math.prod(self.grid) - self.visible < 2:
            raise ConfigError(
                f"Of {math.prod(self.grid)} patches, hidden={config.hidden} holds out {math.prod(self.grid) - self.visible}; at least 2 are needed to pick from. "
                "Use smaller patches, or hold out more."
            )
        if width % config.heads:
            raise ConfigError(f"The third stage's width of {width} cannot be split into heads={config.heads} equal heads.")
        self.model, self.config = model, config
        model.backbone.parts()[-1].requires_grad_(False)
        self.pool = nn.ModuleList(
            nn.TransformerEncoderLayer(width, config.heads, config.mlp, config.dropout, "gelu", batch_first=True) for _ in range(config.depth)
        )
        self.query = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.rows = nn.Parameter(torch.randn(self.grid[0], width) * 0.02)
        self.columns = nn.Parameter(torch.randn(self.grid[1], width) * 0.02)

    def no_weight_decay(self) -> set[str]:
        """Position tables and the query are not decayed."""
        return {"query", "rows", "columns"}

    def forward(self, batch: Batch, noise: Tensor | None = None) -> Losses:
        """`noise` (B, L) decides which patches are held out: those with the largest values."""
        image = self.model.input(batch)
        logits = self.logits(image, self._noise(image, batch) if noise is None else noise)  # (B, H, H)
        right = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape[:2])
        loss = F.cross_entropy(logits.flatten(0, 1).float(), right.flatten())
        return Losses(loss, {"accuracy": (logits.detach().argmax(dim=2) == right).float().mean()})

    def logits(self, image: Tensor, noise: Tensor) -> Tensor:
        """(B, H, H): for each held-out position, the scores of the held-out patches, both in the order of the noise."""
        side, channels = self.config.patch_size, image.shape[1]
        patches = patchify(image, (side, side))  # (B, L, side * side * C)
        count, length = patches.shape[:2]
        patches = patches.view(-1, side, side, channels).permute(0, 3, 1, 2)
        seen = self.model.backbone.maps(patches, stages=STAGES)[-1].mean(dim=(2, 3)).view(count, length, -1)  # (B, L, D)
        order = mask_from_noise(noise, length).ids_keep  # (B, L)
        seen = seen.gather(1, order[:, :, None].expand_as(seen))
        x = torch.cat([self.query.expand(count, -1, -1), seen[:, : self.visible]], dim=1)  # (B, 1+K, D)
        for layer in self.pool:
            x = layer(x)
        held = order[:, self.visible :]  # (B, H)
        places = self.rows[held // self.grid[1]] + self.columns[held % self.grid[1]]  # (B, H, D)
        return (x[:, :1] + places) @ seen[:, self.visible :].transpose(1, 2)

    def _noise(self, image: Tensor, batch: Batch) -> Tensor:
        length = math.prod(self.grid)
        return draws_on_device(batch["sample_key"], length) if "sample_key" in batch else torch.rand(len(image), length, device=image.device)

    def export(self) -> ConvNet:
        return self.model
