"""The joint space-time vision transformer of VideoMAE, and the classifier with which it is fine-tuned.

Computes what MCG-NJU/VideoMAE@14ef8d8 `modeling_finetune.py:VisionTransformer` computes (Tong et al. 2022, arXiv 2203.12602):
every tubelet is a token, and every token attends to all of space and time. Only queries and values have a bias, positions are
a fixed table over the flattened index of (time, row, column), which no checkpoint holds.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modalities.common import vit_classifier
from modalities.common.linear import linear
from modalities.common.loading import Change, Rule
from modalities.common.model import Model
from modalities.common.positions import Layout, sincos_table
from modalities.common.vit import ViTConfig, ViTEncoder
from modalities.common.vit_classifier import LAST_NORM
from modalities.video.preprocess import VideoPreprocess
from trainer.errors import ConfigError


@dataclass(frozen=True)
class VideoViTConfig(ViTConfig):
    """Architecture of a ViT over (frames, height, width). The defaults are ViT-B on 16 frames of 224 pixels."""

    input_size: int | tuple[int, ...] = (16, 224, 224)
    """Frames, height and width of a clip. One number stands for all three."""
    patch_size: int | tuple[int, ...] = (2, 16, 16)
    """A tubelet: frames, height and width of a token; it must divide the input size."""
    class_token: bool = False
    """Put a learned class token before the tubelets (VideoMAE has none)."""
    position_layout: Layout = "interleaved"
    """Order of the fixed sine-cosine table. It is made anew for another input size, never interpolated."""
    last_norm_eps: float = 1e-6
    """Epsilon of the norm before an output: that of the decoder, or of the mean that a classifier reads (official code: as norm_eps;
    transformers: 1e-5 whatever its layer_norm_eps is)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.input_size) != 3:
            raise ConfigError(f"A video model needs input_size as (frames, height, width) and patch_size alike, found {self.input_size} and {self.patch_size}.")
        if not 0 < self.last_norm_eps < 1:
            raise ConfigError(f"last_norm_eps is a small number that keeps a division finite, found {self.last_norm_eps}.")


class QueryValueLinear(nn.Linear):
    """The joint query-key-value map, with a bias for queries and values only. For keys it is a constant zero: it would change no output
    (the softmax takes it away again), and must be neither trained nor decayed."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., 3 D)."""
        return linear(x, self.weight, torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias]))


class VideoViT(ViTEncoder):
    """Input `video` (B, C, T, H, W) float, normalised as `preprocess` says; tokens in the order of time, row, column."""

    config_class = VideoViTConfig
    input_key = "video"

    def new_positions(self, width: int) -> Tensor:
        """The table (1, L, width) as a buffer that is not stored: it follows from the config."""
        return nn.Buffer(sincos_table(width, self.config.grid, self.config.position_layout, self.prefix), persistent=False)

    def new_blocks(self, width: int, depth: int, heads: int, mlp_ratio: float, drop_path: float = 0.0) -> nn.Sequential:
        blocks = super().new_blocks(width, depth, heads, mlp_ratio, drop_path)
        for block in blocks if self.config.qkv_bias else ():
            joint = QueryValueLinear(width)
            joint.weight = block.attn.qkv.weight
            block.attn.qkv = joint
        return blocks

    def default_preprocess(self) -> VideoPreprocess | None:
        """ImageNet's statistics for RGB, -1..1 for grey; other channels have no usual ones."""
        return VideoPreprocess.usual(self.config.input_size, self.config.in_chans)

    @classmethod
    def change_from(cls, source: type[Model], old: VideoViTConfig, new: VideoViTConfig, new_head: bool = False) -> Change:
        """As for images, but positions are not stored, so none are resized."""
        change = super().change_from(source, old, new, new_head)
        kept = {name: adaptation for name, adaptation in change.adapted.items() if not name.endswith("pos_embed")}
        return Change(kept, change.new, change.unused)


@dataclass(frozen=True)
class VideoClassifierConfig(VideoViTConfig, vit_classifier.ViTClassifierConfig):
    """A ViT encoder for videos, the way to pool its tokens, and a linear head."""

    num_classes: int = 400
    """Outputs of the head. 0: no head, the logits are the features."""
    head_dropout: float = 0.0
    """Dropout before the head while training (UCF101: 0.5)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.head_dropout < 1:
            raise ConfigError(f"head_dropout is a rate from 0 up to but not 1, found {self.head_dropout}.")


class VideoClassifier(VideoViT, vit_classifier.ViTClassifier):
    """Input `video` (B, C, T, H, W) float, normalised as `preprocess` says; `forward` gives logits (B, num_classes).

    With pool "avg" the head reads the normed mean of all tokens. With "token" it reads the first one after `norm`, which is that of an
    ordinary tubelet unless the model has a class token.
    """

    system = "video/videomae-vit"
    config_class = VideoClassifierConfig
    encoder_config = VideoViTConfig

    def __init__(self, config: VideoClassifierConfig) -> None:
        super().__init__(config)
        self.head_drop = nn.Dropout(config.head_dropout)

    def _new_norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.config.embed_dim, eps=self.config.last_norm_eps)

    def pooled(self, tokens: Tensor) -> Tensor:
        return self.head_drop(super().pooled(tokens))

    @classmethod
    def change_from(cls, source: type[Model], old: VideoViTConfig, new: VideoClassifierConfig, new_head: bool = False) -> Change:
        """An encoder that does not norm its output (encoder_norm=False) leaves no norm behind, and gives none."""
        change = super().change_from(source, old, new, new_head)
        if getattr(old, "encoder_norm", True):
            return change
        fresh = (Rule(LAST_NORM, "the encoder had none"),) if new.pool == "token" else ()
        return Change(change.adapted, (*change.new, *fresh), tuple(rule for rule in change.unused if rule.pattern != LAST_NORM))

    def init_new(self, names: set[str]) -> None:
        if any(name.startswith("norm.") for name in names):
            self.norm = nn.LayerNorm(self.config.embed_dim, eps=self.config.norm_eps)
        super().init_new(names)
