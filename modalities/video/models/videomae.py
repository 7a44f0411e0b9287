"""VideoMAE: masked auto-encoders for video (Tong et al. 2022, arXiv 2203.12602).

Computes what MCG-NJU/VideoMAE@14ef8d8 `modeling_pretrain.py:PretrainVisionTransformer` computes; weights of the official and of
transformers' layout convert exactly (`modalities.video.interop.videomae`). What differs from MAE: tubes are hidden, the same places in
all frames; visible tokens keep their order; there is no class token; the official decoder predicts the hidden tubelets only.
Letters: B batch, L tubelets, N places of one frame, K visible tubelets, M hidden ones, D encoder width, E decoder width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modalities.common.linear import Linear
from modalities.common.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from modalities.common.masking import Masking, tube_counts, tube_mask
from modalities.video.models.vit import VideoViT, VideoViTConfig


@dataclass(frozen=True)
class VideoMAEConfig(VideoViTConfig, MaskedAutoencoderConfig):
    """VideoMAE for clips of (frames, height, width). The defaults are the paper's base model."""

    decoder_embed_dim: int = 384
    """Width of the decoder; a multiple of decoder_num_heads."""
    decoder_depth: int = 4
    """Number of decoder blocks (paper, table 1a)."""
    decoder_num_heads: int = 6
    """Attention heads per decoder block."""
    encoder_norm: bool = True
    """Norm the output of the encoder (transformers' VideoMAEForPreTraining does not with use_mean_pooling, its default)."""


class VideoMAE(VideoViT, MaskedAutoencoder):
    """Input `video` (B, C, T, H, W) float: RGB in 0..1, normalised by the ImageNet mean and deviation (the paper's models) or as
    `preprocess` says. `embed` gives the mean token (B, D), `tokens` all of them."""

    system = "video/videomae"
    config_class = VideoMAEConfig

    def __init__(self, config: VideoMAEConfig) -> None:
        super().__init__(config)
        width = config.decoder_embed_dim
        if not config.encoder_norm:
            self.norm = nn.Identity()
        self.decoder_embed = Linear(config.embed_dim, width, bias=False)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)
        self.decoder_norm = nn.LayerNorm(width, eps=config.last_norm_eps)

    @property
    def noise_length(self) -> int:
        """A random number for each place of a frame: what it hides is hidden in all frames."""
        _, rows, columns = self.config.grid
        return rows * columns

    def visible_count(self, mask_ratio: float) -> int:
        """How many tokens of a clip the encoder sees: of each of its frames the same places."""
        visible, _ = tube_counts(self.noise_length, mask_ratio)
        return visible * self.config.grid[0]

    def mask(self, noise: Tensor, mask_ratio: float) -> Masking:
        """Tubes out of random numbers (B, noise_length): the places with the largest are hidden in all frames."""
        return tube_mask(noise, self.config.grid[0], mask_ratio)

    def no_weight_decay(self) -> set[str]:
        return {"mask_token"}
