"""SparK: masked auto-encoding for convolutional networks (Tian et al. 2023, arXiv 2301.03580).

Computes what keyu-tian/SparK@a63e386 `pretrain/spark.py` computes (checked against its outputs). Places of 32 x 32 pixels are hidden;
the backbone sees the others alone; the holes in its maps are filled with learned tokens; a small U-Net predicts the pixels.
Letters: B batch, C channels, f x g the grid of places, L = f*g, V values per place.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from modalities.common.masking import Masking, mask_from_noise
from modalities.common.patches import patchify
from modalities.vision.models.convnet import STRIDE, ConvNet, ConvNetConfig
from modalities.vision.models.masked_convnet import Visible, masked_norm
from trainer.errors import ConfigError, ModelError
from trainer.objective import Batch
from trainer.randomness import draws_on_device


@dataclass(frozen=True)
class SparKConfig(ConvNetConfig):
    """A backbone and the light decoder that reconstructs the hidden places."""

    decoder_width: int = 768
    """Channels at the start of the decoder, halved five times on the way to full size; a multiple of 32."""
    densify_norm: Literal["bn", "ln", "none"] = "bn"
    """Norm of each map before its holes are filled: batch norm (the paper for ResNets), layer norm (for ConvNeXt), or none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoder_width < STRIDE or self.decoder_width % STRIDE:
            raise ConfigError(f"decoder_width is halved five times, so it must be a multiple of {STRIDE}, found {self.decoder_width}.")


@dataclass(frozen=True)
class Pass:
    """What the layers give for images of which parts are visible."""

    maps: list[Tensor]
    """Maps of the backbone (B, C_i, H_i, W_i), the finest first; hidden places are zero."""
    densified: list[Tensor]
    """The maps given to the decoder, the coarsest first."""
    image: Tensor
    """(B, C, H, W) the prediction."""


@dataclass(frozen=True)
class SparKOutput:
    """What a forward pass in training gives."""

    prediction: Tensor
    """(B, L, V) predicted places in raster order, visible ones included."""
    masking: Masking
    """Which places were hidden."""


class UpBlock(nn.Module):
    """Twice the size, half the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up_sample = nn.ConvTranspose2d(width, width, kernel_size=4, stride=2, padding=1)
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU6(),
            nn.Conv2d(width, width // 2, 3, padding=1, bias=False),
            nn.BatchNorm2d(width // 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C/2, 2H, 2W)."""
        return self.conv(self.up_sample(x))


class LightDecoder(nn.Module):
    """A U-Net's way up: from a 32nd of the size to the whole. Convolutions start truncated normal (0.02), upsampling ones by He's rule."""

    def __init__(self, width: int, in_chans: int) -> None:
        super().__init__()
        halvings = int(math.log2(STRIDE))
        self.dec = nn.ModuleList(UpBlock(width >> i) for i in range(halvings))
        self.proj = nn.Conv2d(width >> halvings, in_chans, 1)
        for layer in self.modules():
            if isinstance(layer, nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, nn.Conv2d):
                nn.init.trunc_normal_(layer.weight, std=0.02)
            if isinstance(layer, (nn.ConvTranspose2d, nn.Conv2d)) and layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, densified: list[Tensor]) -> Tensor:
        """Maps, the coarsest first, -> (B, C, H, W)."""
        x = torch.zeros_like(densified[0])
        for i, block in enumerate(self.dec):
            x = block(x + densified[i] if i < len(densified) else x)
        return self.proj(x)


class SparK(ConvNet):
    """Input `image` (B, C, H, W) float: RGB in 0..1, normalised by the ImageNet mean and deviation, or as `preprocess` says.

    `maps`, `tokens` and `embed` see the whole image and do not use the decoder.
    """

    system = "vision/spark"
    config_class = SparKConfig
    parts = {"backbone.": "encoder", "densify_": "decoder", "mask_tokens.": "decoder", "dense_decoder.": "decoder"}

    def __init__(self, config: SparKConfig) -> None:
        super().__init__(config)
        widths = config.channels[::-1]  # the coarsest first
        kinds = {"bn": nn.BatchNorm2d, "ln": ChannelNorm, "none": lambda width: nn.Identity()}
        self.densify_norms = nn.ModuleList(kinds[config.densify_norm](width) for width in widths)
        self.densify_projs = nn.ModuleList(_projection(width, config.decoder_width >> i, 3 if i else 1) for i, width in enumerate(widths))
        self.mask_tokens = nn.ParameterList(nn.init.trunc_normal_(torch.empty(1, width, 1, 1), std=0.02, a=-0.02, b=0.02) for width in widths)
        self.dense_decoder = LightDecoder(config.decoder_width, config.in_chans)

    def no_weight_decay(self) -> set[str]:
        return {f"mask_tokens.{i}" for i in range(len(self.mask_tokens))}

    def keep_count(self, mask_ratio: float) -> int:
        """How many of the L places stay visible: rounded, where MAE rounds down. ModelError when none would."""
        length = math.prod(self.config.grid)
        keep = round(length * (1 - mask_ratio))
        if not 1 <= keep <= length:
            raise ModelError(
                f"mask_ratio={mask_ratio} leaves {keep} of the {length} places of {STRIDE} x {STRIDE} pixels visible; at least one must be. "
                "Lower it, or use larger images."
            )
        return keep

    def draw_masking(self, x: Tensor, noise: Tensor | None, mask_ratio: float, keys: Tensor | None = None) -> Masking:
        """Choose the visible places of images (B, C, H, W) at random: by `noise` (B, L), by the trainer's sample `keys` (B,), or freely."""
        expected = (x.shape[0], math.prod(self.config.grid))
        if noise is None:
            noise = torch.rand(expected, device=x.device) if keys is None else draws_on_device(keys, expected[1])
        elif tuple(noise.shape) != expected:
            raise ModelError(f"Masking noise must be (samples, places) = {expected}, found {tuple(noise.shape)}.")
        return mask_from_noise(noise, self.keep_count(mask_ratio))

    def densify(self, maps: list[Tensor], visible: Visible) -> list[Tensor]:
        """Maps of the visible places, the finest first -> maps for the decoder, the coarsest first, without holes."""
        found = []
        for i, x in enumerate(reversed(maps)):
            x = masked_norm(self.densify_norms[i], x, visible)
            found.append(self.densify_projs[i](torch.where(visible.like(x), x, self.mask_tokens[i].to(x.dtype))))
        return found

    def see(self, batch: Batch, active: Tensor) -> Pass:
        """The images of a batch through all layers, where `active` (B, 1, f, g) bool says which places are visible."""
        visible = Visible(active)
        maps = self.maps(batch, visible)
        densified = self.densify(maps, visible)
        return Pass(maps, densified, self.dense_decoder(densified))

    def forward(self, batch: Batch, noise: Tensor | None = None, mask_ratio: float = 0.6) -> SparKOutput:
        """Hide `mask_ratio` of the places and predict all of them. `noise` (B, L): small values stay visible."""
        x = self.input(batch)
        masking = self.draw_masking(x, noise, mask_ratio, batch.get("sample_key"))
        out = self.see(batch, masking.mask.eq(0).view(len(x), 1, *self.config.grid))
        return SparKOutput(patchify(out.image, self.config.patch_size), masking)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of maps (B, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _projection(width: int, to: int, kernel: int) -> nn.Module:
    """The convolution before the decoder; where the coarsest map has its width already, there is none."""
    return nn.Identity() if kernel == 1 and width == to else nn.Conv2d(width, to, kernel, padding=kernel // 2)
