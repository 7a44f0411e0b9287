"""What Chronos-Bolt and Chronos-2 have in common: the normalisation of a series, its patches, and layers in the manner of T5.

Computes what chronos-forecasting 2.3.2 (`chronos_bolt.py`, `chronos2/layers.py`) and T5 in transformers compute. Missing values are
False in a mask here, NaN there. Letters: B series, L steps, P patches of p steps, D width, Q quantile levels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.linear import Linear
from trainer.errors import ConfigError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
}
"""Non-linearities by their names in T5's config."""
CONSTANT_SCALE = 1e-5
"""Deviation that a constant series is given."""

Scaling = tuple[Tensor, Tensor]
"""Mean and deviation of each series, both (B, 1)."""


@dataclass(frozen=True)
class ChronosConfig:
    """What the configs of both systems have in common. The defaults are Chronos-Bolt-tiny's."""

    context_length: int = 2048
    """Steps of the past that are read; of a longer one the last ones."""
    patch_size: int = 16
    """Steps of an input patch."""
    quantiles: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Levels that are forecast, in ascending order."""
    embed_dim: int = 256
    """Width D of the tokens."""
    depth: int = 4
    """Blocks of the encoder."""
    num_heads: int = 4
    """Attention heads."""
    head_dim: int = 64
    """Width of a head; num_heads * head_dim may differ from embed_dim."""
    mlp_dim: int = 1024
    """Hidden width of the feed-forward layers and of the blocks that embed patches."""
    activation: Literal["relu", "gelu", "gelu_new", "silu"] = "relu"
    """Non-linearity of both."""
    dropout: float = 0.1
    """Share that is dropped in training: of tokens, hidden units and attention."""
    norm_eps: float = 1e-6
    """Added to the mean square in every norm."""
    init_factor: float = 0.05
    """Factor on all deviations with which weights start (T5's initializer_factor)."""

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in ("context_length", "patch_size", "embed_dim", "depth", "num_heads", "head_dim", "mlp_dim")}
        small = [f"{name}={value}" for name, value in sizes.items() if value < 1]
        if small:
            raise ConfigError(f"{type(self).__name__}: sizes must be at least 1, found {', '.join(small)}.")
        require_levels(self.quantiles, type(self).__name__)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"{type(self).__name__}: dropout must be in [0, 1), found {self.dropout}.")


def require_levels(levels: Sequence[float], where: str) -> None:
    """ConfigError unless `levels` are quantile levels in ascending order."""
    if not levels or list(levels) != sorted(set(levels)) or not (0 < levels[0] and levels[-1] < 1):
        raise ConfigError(f"{where}: quantiles must be levels between 0 and 1 in ascending order, found {list(levels)}.")


def scaling_of(series: Tensor, observed: Tensor) -> Scaling:
    """Mean and population deviation over what was observed; 0 and 1 where nothing was, and a constant series gets a small deviation."""
    values, weight = series.float(), observed.float()
    count = weight.sum(dim=-1, keepdim=True).clamp(min=1)
    loc = (values * weight).sum(dim=-1, keepdim=True) / count
    scale = (((values - loc) * weight).square().sum(dim=-1, keepdim=True) / count).sqrt()
    scale = torch.where(scale == 0, CONSTANT_SCALE, scale)
    return loc, torch.where(observed.any(dim=-1, keepdim=True), scale, 1.0)


def left_padded(x: Tensor, multiple: int) -> Tensor:
    """(B, L) with zeros in front, up to a multiple."""
    return F.pad(x, (-x.shape[-1] % multiple, 0))


class ResidualBlock(nn.Module):
    """One hidden layer beside a linear shortcut."""

    def __init__(self, inputs: int, outputs: int, config: ChronosConfig) -> None:
        super().__init__()
        self.hidden, self.output, self.residual = Linear(inputs, config.mlp_dim), Linear(config.mlp_dim, outputs), Linear(inputs, outputs)
        self.activation, self.dropout = ACTIVATIONS[config.activation], nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        return self.dropout(self.output(self.activation(self.hidden(x)))) + self.residual(x)

    def initialise(self, factor: float, fan_in: int) -> None:
        """First values: biases zero, deviations by the width that feeds each layer (`fan_in` for the two that read the input)."""
        for layer, width in ((self.hidden, fan_in), (self.residual, fan_in), (self.output, self.output.in_features)):
            nn.init.normal_(layer.weight, std=factor * width**-0.5)
            nn.init.zeros_(layer.bias)


class FeedForward(nn.Module):
    """Two layers without bias, perhaps gated."""

    def __init__(self, config: ChronosConfig, gated: bool = False) -> None:
        super().__init__()
        self.inner = Linear(config.embed_dim, config.mlp_dim, bias=False)
        self.gate = Linear(config.embed_dim, config.mlp_dim, bias=False) if gated else None
        self.outer = Linear(config.mlp_dim, config.embed_dim, bias=False)
        self.activation, self.dropout = ACTIVATIONS[config.activation], nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        hidden = self.inner(x)
        hidden = self.activation(hidden) if self.gate is None else self.activation(self.gate(x)) * hidden
        return self.outer(self.dropout(hidden))

    def initialise(self, factor: float) -> None:
        """First values, as T5's."""
        for layer in (self.inner, self.gate, self.outer):
            if layer is not None:
                nn.init.normal_(layer.weight, std=factor * layer.in_features**-0.5)


class SelfAttention(nn.Module):
    """Attention whose scores are not divided by the root of the head's width, with one matrix for queries, keys and values."""

    def __init__(self, config: ChronosConfig) -> None:
        super().__init__()
        inner = config.num_heads * config.head_dim
        self.heads, self.drop = config.num_heads, config.dropout
        self.qkv = Linear(config.embed_dim, 3 * inner, bias=False)
        self.out = Linear(inner, config.embed_dim, bias=False)

    def forward(self, x: Tensor, bias: Tensor | None = None, turn: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """(B, N, D), what is added to the scores, and what is done to queries and keys (positions) -> (B, N, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if turn is not None:
            q, k = turn(q), turn(k)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=self.drop if self.training else 0.0, scale=1.0)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def initialise(self, factor: float) -> None:
        """First values, as T5's: queries start smaller, since scores are not scaled."""
        width, inner = self.qkv.in_features, self.out.in_features
        query, key, value = self.qkv.weight.detach().split(inner)
        for part, deviation in ((query, (width * inner // self.heads) ** -0.5), (key, width**-0.5), (value, width**-0.5)):
            nn.init.normal_(part, std=factor * deviation)
        nn.init.normal_(self.out.weight, std=factor * inner**-0.5)
