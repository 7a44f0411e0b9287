"""The blocks of TimelyGPT (Song et al. 2024, arXiv 2312.00817): retention, a convolution over time, and a feed-forward layer, each on a norm and added.

Written from the formulas; with `causal=False` they compute what the authors' code computes, whose convolutions see future tokens while the next one is
to be said. Letters: B batch, N tokens, D width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.linear import Linear
from modalities.time_series.models.pointwise import Pointwise
from modalities.time_series.models.retention import Retention, decays, retnet_decays
from trainer.errors import ConfigError

KERNEL = 31
"""Tokens that the convolution over time reads."""


@dataclass(frozen=True)
class TimelyGPTBlocksConfig:
    """The transformer of both kinds of TimelyGPT. The defaults are the authors'."""

    embed_dim: int = 200
    """Width of a token."""
    key_dim: int = 200
    """Width of queries and keys; a multiple of twice the heads."""
    value_dim: int = 200
    """Width of values; a multiple of num_heads."""
    hidden_dim: int = 800
    """Width inside the feed-forward layers."""
    depth: int = 4
    """Blocks."""
    num_heads: int = 4
    """Retention heads."""
    decay: Literal["even", "retnet"] = "even"
    """How fast the heads forget: evenly spread (in logarithms), or by RetNet's rule. Stored with the weights."""
    qkv_bias: bool = False
    """Biases of queries, keys and values."""
    gate_bias: bool = False
    """Bias of the gate of the retention."""
    out_bias: bool = False
    """Bias after the retention."""
    mlp_bias: bool = True
    """Biases of the feed-forward layers."""
    dropout: float = 0.1
    """While training: after the embedding, and after the convolution."""
    causal: bool = True
    """No token sees a later one. False: the convolutions are centred, as in the authors' code: a token sees up to 15 later ones, the next one among them."""
    chunk: int = 512
    """Sequences longer than this are taken in chunks by the retention, which gives the same with less memory."""

    def __post_init__(self) -> None:
        for name in ("embed_dim", "key_dim", "value_dim", "hidden_dim", "depth", "num_heads", "chunk"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, found {getattr(self, name)}.")
        if self.key_dim % (2 * self.num_heads) or self.value_dim % self.num_heads:
            raise ConfigError(
                f"key_dim must be a multiple of twice num_heads={self.num_heads} and value_dim one of num_heads, found {self.key_dim} and {self.value_dim}."
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is a rate from 0 up to but not 1, found {self.dropout}.")


class TimeConv(nn.Conv1d):
    """A convolution over tokens (B, N, I) -> (B, N', O), centred, or, if causal, of a token and earlier ones."""

    def __init__(self, inputs: int, outputs: int, kernel: int, causal: bool, stride: int = 1, groups: int = 1, bias: bool = True) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=bias)
        self.left, self.right = (kernel - 1, 0) if causal else (kernel // 2, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x.transpose(1, 2), (self.left, self.right))).transpose(1, 2)


class TokenNorm(nn.BatchNorm1d):
    """Batch norm of tokens (B, N, D) over all of them."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class _Named(nn.Module):
    """A layer under the name `conv`, as the checkpoints have it."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class ConvModule(nn.Module):
    """Norm, gated widening, depthwise convolution over time, batch norm, narrowing (Conformer, Gulati et al. 2020, arXiv 2005.08100)."""

    def __init__(self, width: int, causal: bool, dropout: float) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {
            "0": nn.LayerNorm(width),
            "2": _Named(Pointwise(width, 2 * width)),
            "3": nn.GLU(dim=-1),
            "4": _Named(TimeConv(width, width, KERNEL, causal, groups=width, bias=False)),
            "5": TokenNorm(width),
            "6": nn.SiLU(),
            "7": _Named(Pointwise(width, width)),
            "8": nn.Dropout(dropout),
        }
        self.sequential = nn.ModuleDict(layers)  # the numbers of the checkpoints, in which a transposition is 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        for layer in self.sequential.values():
            x = layer(x)
        return x


class Block(nn.Module):
    """x + retention, + convolution, + feed-forward, each on a norm of the sum so far."""

    def __init__(self, config: TimelyGPTBlocksConfig, decay: Tensor) -> None:
        super().__init__()
        width = config.embed_dim
        self.ln1, self.ln2, self.ln3 = (nn.LayerNorm(width) for _ in range(3))
        self.msr = Retention(width, config.key_dim, config.value_dim, decay, config.qkv_bias, config.gate_bias, config.out_bias, config.chunk)
        self.tcm = ConvModule(width, config.causal, config.dropout)
        self.ffn = nn.Sequential(Linear(width, config.hidden_dim, config.mlp_bias), nn.GELU(), Linear(config.hidden_dim, width, config.mlp_bias))

    def forward(self, x: Tensor, times: Tensor | None = None) -> Tensor:
        """(B, N, D), and perhaps times (B, N) -> (B, N, D)."""
        x = x + self.msr(self.ln1(x), times)
        x = x + self.tcm(self.ln2(x))
        return x + self.ffn(self.ln3(x))


def new_blocks(config: TimelyGPTBlocksConfig, first: float) -> nn.ModuleList:
    """The blocks; the first head forgets `first` per step where the decays are evenly spread."""
    decay = retnet_decays(config.num_heads) if config.decay == "retnet" else decays(config.num_heads, first)
    return nn.ModuleList(Block(config, decay.clone()) for _ in range(config.depth))


def new_start(width: int) -> nn.Parameter:
    """The learned token before the first one, (D,)."""
    return nn.Parameter(torch.randn(width) * 0.02)
