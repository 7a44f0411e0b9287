"""The vision transformer encoder (Dosovitskiy et al. 2020) on patches of one, two or three dimensions.

Blocks are timm's `Block`; parameter names are those of timm's `VisionTransformer` and of the official MAE
code, so that their checkpoints load without renaming. Checked numerically against timm.
Letters: B batch, C channels, L patches, P 1 with a class token and 0 without, D width.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.layers import QuickGELU
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.linear import use_faster
from modalities.common.loading import Adaptation, Change
from modalities.common.model import Model
from modalities.common.patches import PatchEmbed, adapt_patch_embedding, grid_of
from modalities.common.positions import Layout, resize_positions, sincos_table
from trainer.errors import ConfigError, DataError, did_you_mean, shorten
from trainer.objective import Batch

ACTIVATIONS = {
    "gelu": nn.GELU,
    "gelu_new": partial(nn.GELU, approximate="tanh"),
    "gelu_pytorch_tanh": partial(nn.GELU, approximate="tanh"),
    "quick_gelu": QuickGELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
}
"""Activations by the names that transformers' configs use."""


class Checked:
    """What configs of transformers check of themselves."""

    def _require_positive(self, *names: str) -> None:
        for name in names:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, found {getattr(self, name)}.")

    def _require_heads(self, width: str, heads: str) -> None:
        d, h = getattr(self, width), getattr(self, heads)
        if h < 1 or d % h:
            fitting = [n for n in range(1, min(d, 4096) + 1) if d % n == 0] or [1]
            near = sorted(sorted(fitting, key=lambda n: abs(n - h))[:3])
            raise ConfigError(
                f"{width}={d} cannot be split into {heads}={h} equal heads. "
                f"Choose another {heads} (for instance {', '.join(map(str, near))}) or width."
            )


@dataclass(frozen=True)
class ViTConfig(Checked):
    """Architecture of a ViT encoder. The defaults are ViT-B/16 at 224 pixels."""

    input_size: int | tuple[int, ...] = (224, 224)
    """Size of the input along each spatial axis. One number stands for all axes (two, unless patch_size says otherwise)."""
    patch_size: int | tuple[int, ...] = (16, 16)
    """Size of a patch along each axis; it must divide the input size. One number stands for all axes."""
    in_chans: int = 3
    """Input channels."""
    embed_dim: int = 768
    """Width of the tokens; a multiple of num_heads."""
    depth: int = 12
    """Number of blocks."""
    num_heads: int = 12
    """Attention heads per block."""
    mlp_ratio: float = 4.0
    """Hidden width of a block's MLP is int(embed_dim * mlp_ratio)."""
    qkv_bias: bool = True
    """Bias of the joint query-key-value layer."""
    norm_eps: float = 1e-6
    """Epsilon of every LayerNorm (MAE: 1e-6; transformers' configs say 1e-12; torch's default is 1e-5)."""
    class_token: bool = True
    """Put a learned class token before the patches."""
    position_layout: Layout = "column-first"
    """Order of the fixed sine-cosine table of a fresh model (`modalities.common.positions`)."""
    activation: str = "gelu"
    """Activation of the MLPs: gelu (exact), gelu_new, gelu_pytorch_tanh, quick_gelu, relu, silu, swish."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last block; it grows linearly from 0 at the first."""
    layer_scale: float | None = None
    """First value of a learned factor of each residual branch (LayerScale, Touvron et al. 2021). Null: no such factors."""

    def __post_init__(self) -> None:
        axes = next((len(v) for v in (self.input_size, self.patch_size) if not isinstance(v, int)), 2)
        for name in ("input_size", "patch_size"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) * axes if isinstance(value, int) else tuple(value))
        grid_of(self.input_size, self.patch_size)
        self._require_positive("in_chans", "embed_dim", "depth", "mlp_ratio", "norm_eps")
        if not self.norm_eps < 1:
            raise ConfigError(f"norm_eps is a small number that keeps a division finite, found {self.norm_eps}.")
        self._require_heads("embed_dim", "num_heads")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, found {shorten(self.activation)}.{did_you_mean(self.activation, ACTIVATIONS)}"
            )
        if self.layer_scale is not None:
            self._require_positive("layer_scale")
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"drop_path is a rate from 0 up to but not 1, found {self.drop_path}.")

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of patches along each axis."""
        return grid_of(self.input_size, self.patch_size)


class ViTEncoder(Model):
    """All patches of an input to tokens.

    Input: `batch[input_key]` (B, C, *input_size), float, normalised as in training. The position table is a
    frozen parameter that starts as the fixed sine-cosine table. Initialisation follows MAE (official code):
    Xavier uniform for all linear maps (the patch convolution as a matrix), zero biases, class token normal 0.02.
    """

    config_class = ViTConfig
    parts = {"": "encoder"}

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        width = config.embed_dim
        self.prefix = int(config.class_token)
        """Tokens before the patches."""
        self.patch_embed = PatchEmbed(config.input_size, config.patch_size, config.in_chans, width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02)) if config.class_token else None
        self.pos_embed = self.new_positions(width)
        self.blocks = self.new_blocks(width, config.depth, config.num_heads, config.mlp_ratio, config.drop_path)
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))

    def new_positions(self, width: int) -> Tensor:
        """The fixed table (1, P+L, width): a frozen parameter here; a model whose checkpoints do not hold it gives a buffer."""
        table = sincos_table(width, self.config.grid, self.config.position_layout, self.prefix)
        return nn.Parameter(table, requires_grad=False)

    def new_blocks(self, width: int, depth: int, heads: int, mlp_ratio: float, drop_path: float = 0.0) -> nn.Sequential:
        """Fresh blocks of one width, of the encoder or of a decoder."""
        return transformer(self.config, width, depth, heads, mlp_ratio, drop_path)

    def input(self, batch: Batch) -> Tensor:
        """The tensor of the batch that this model reads. DataError when the batch has none."""
        if self.input_key not in batch:
            raise DataError(f"{type(self).__name__} reads batch[{self.input_key!r}]; this batch holds: {', '.join(batch) or 'nothing'}.")
        return batch[self.input_key]

    def input_shape(self) -> tuple[int, ...]:
        return (self.config.in_chans, *self.config.input_size)

    @classmethod
    def change_from(cls, source: type[Model], old: ViTConfig, new: ViTConfig, new_head: bool = False) -> Change:
        """Another grid resizes the position table; other channels or patches adapt the patch embedding."""
        adapted = adapted_table("pos_embed", old, new)
        if (old.in_chans, old.patch_size) != (new.in_chans, new.patch_size):
            how = f"{old.in_chans} channels of {_times(old.patch_size)} pixels to {new.in_chans} of {_times(new.patch_size)}"
            adapted["patch_embed.proj.weight"] = Adaptation(how, lambda weight: adapt_patch_embedding(weight, new.in_chans, new.patch_size))
        return Change(adapted)

    def embed_patches(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        """(B, C, *input_size) -> (B, L, D): patches with their positions; or only the patches `ids` (B, K), (B, K, D)."""
        positions = self.pos_embed[:, self.prefix :]
        return self.patch_embed(x, ids) + (positions if ids is None else positions[0, ids])

    def prepend_class_token(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, P+N, D): the class token, with its row of the table, comes first."""
        if self.cls_token is None:
            return x
        token = self.cls_token + self.pos_embed[:, :1]
        return torch.cat([token.expand(x.shape[0], -1, -1), x], dim=1)

    def tokens(self, batch: Batch) -> Tensor:
        """All tokens after the final norm, (B, P+L, D); the class token comes first."""
        return self.norm(self.blocks(self.prepend_class_token(self.embed_patches(self.input(batch)))))

    def embed(self, batch: Batch) -> Tensor:
        """One vector per sample, (B, D): `pooled` of the tokens."""
        return self.pooled(self.tokens(batch))

    def pooled(self, tokens: Tensor) -> Tensor:
        """(B, P+L, D) -> (B, D): the mean of the patch tokens; the class token is left out."""
        return tokens[:, self.prefix :].mean(dim=1)

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        tokens = self.tokens(batch)
        return {"features": self.pooled(tokens), "tokens": tokens}

    def layer_ids(self) -> dict[str, int]:
        """Depth of each parameter for layer decay: 0 embeddings, i+1 block i, depth+1 the rest (BEiT's and MAE's rule)."""
        return {name: self._layer_id(name) for name, _ in self.named_parameters()}

    def _layer_id(self, name: str) -> int:
        if name in ("cls_token", "pos_embed") or name.startswith("patch_embed."):
            return 0
        return int(name.split(".")[1]) + 1 if name.startswith("blocks.") else self.config.depth + 1


class ViTBlock(Block):
    """timm's block, which can leave out what nobody reads."""

    def forward(self, x: Tensor, last: int | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D). With `last`: the same for the last so many tokens alone, (B, last, D); the others are only attended to."""
        if last is None:
            return super().forward(x)
        attn = self.attn
        qkv = attn.qkv(self.norm1(x)).unflatten(-1, (3, attn.num_heads, -1))  # (B, N, 3, heads, width of a head)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(attn.q_norm(query[:, :, -last:]), attn.k_norm(key), value)
        seen = attn.proj_drop(attn.proj(attn.norm(seen.transpose(1, 2).flatten(2))))  # (B, last, D)
        x = x[:, -last:] + self.drop_path1(self.ls1(seen))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


def adapted_table(name: str, old: ViTConfig, new: ViTConfig) -> dict[str, Adaptation]:
    """How the position table `name` comes to another grid; nothing when the grid is the same."""
    if old.grid == new.grid:
        return {}
    how = f"position table interpolated from {_times(old.grid)} to {_times(new.grid)} patches"
    return {name: Adaptation(how, lambda table: resize_positions(table, old.grid, new.grid, int(old.class_token)))}


def _times(sides: tuple[int, ...]) -> str:
    return " x ".join(map(str, sides))


def transformer(config: Any, width: int, depth: int, heads: int, mlp_ratio: float, drop_path: float = 0.0) -> nn.Sequential:
    """Pre-norm blocks of one width, initialised as MAE does; bias, norm and activation follow the config."""
    blocks = nn.Sequential(
        *(
            ViTBlock(
                width,
                heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=config.qkv_bias,
                init_values=config.layer_scale,
                drop_path=drop_path * i / max(depth - 1, 1),
                norm_layer=partial(nn.LayerNorm, eps=config.norm_eps),
                act_layer=ACTIVATIONS[config.activation],
            )
            for i in range(depth)
        )
    )
    for layer in blocks.modules():
        if isinstance(layer, nn.Linear):
            init_linear(layer)
    return use_faster(blocks)


def init_linear(layer: nn.Linear) -> nn.Linear:
    """Xavier uniform weight, zero bias. The joint qkv is one matrix here, as in MAE (MultiMAE treats it as three)."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
