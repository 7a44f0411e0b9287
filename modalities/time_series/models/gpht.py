"""GPHT: a hierarchical transformer that predicts the next token of a series at several resolutions (Liu et al., KDD 2024, arXiv 2402.16516).

Computes what icantnamemyself/GPHT@cfdbbd2 `models/GPHT.py:Model` computes, for series without gaps. A stage pools the series, embeds one patch per
token, and says the next token of each; the next stage sees what is left of the series. All channels are taken apart, by the same weights.
Ours: missing points do not count in the statistics of the window and are its mean; a context that is no multiple of a token is filled up with
missing points on the left. Letters: B batch, C channels, L points of the window, N tokens, P points of a token, D width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.linear import Linear
from modalities.common.positions import sincos_table
from modalities.time_series.models.forecaster import Forecast, Forecaster, LossTerms, require_series
from modalities.time_series.models.pointwise import Pointwise
from modalities.time_series.models.scaling import scaled, statistics
from trainer.errors import ConfigError, DataError
from trainer.objective import Batch

EPSILON = 1e-5
"""Added to the variance of a window, inside the square root."""


@dataclass(frozen=True)
class GPHTConfig:
    """The architecture. The defaults are the paper's."""

    context_length: int = 336
    """Points of the window; a multiple of token_length. Shorter contexts are filled up, of longer ones the newest points are read."""
    token_length: int = 48
    """Points of a token, and so of a forecast in one step."""
    pooling: tuple[int, ...] = (8, 4, 2, 1)
    """Stages: each one sees the largest value of so many points. All must divide token_length."""
    embed_dim: int = 512
    """Width of a token; a multiple of num_heads."""
    hidden_dim: int = 2048
    """Width inside the feed-forward layers."""
    num_heads: int = 8
    """Attention heads."""
    stage_layers: int = 3
    """Transformer layers of each stage."""
    activation: Literal["gelu", "relu"] = "gelu"
    """Of the feed-forward layers."""
    dropout: float = 0.1
    """While training: after the embedding, of the attention, and after both parts of a layer."""

    def __post_init__(self) -> None:
        for name in ("context_length", "token_length", "embed_dim", "hidden_dim", "num_heads", "stage_layers"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, found {getattr(self, name)}.")
        if self.context_length % self.token_length:
            raise ConfigError(f"context_length must be a multiple of token_length={self.token_length}, found {self.context_length}.")
        if not self.pooling or any(rate < 1 or self.token_length % rate for rate in self.pooling):
            raise ConfigError(f"pooling needs at least one stage, and each rate must divide token_length={self.token_length}; found {self.pooling}.")
        if self.embed_dim % self.num_heads or self.embed_dim % 2:
            raise ConfigError(f"embed_dim must be even and a multiple of num_heads={self.num_heads}, found {self.embed_dim}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is a rate from 0 up to but not 1, found {self.dropout}.")


class Attention(nn.Module):
    """Multi-head attention in which a token sees itself and the earlier ones."""

    def __init__(self, config: GPHTConfig) -> None:
        super().__init__()
        width = config.embed_dim
        self.heads, self.dropout = config.num_heads, config.dropout
        self.query_projection, self.key_projection, self.value_projection, self.out_projection = (Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        q, k, v = (layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query_projection, self.key_projection, self.value_projection))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.dropout if self.training else 0.0)
        return self.out_projection(mixed.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention and feed-forward, each normed after its sum."""

    def __init__(self, config: GPHTConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.conv1, self.conv2 = Pointwise(config.embed_dim, config.hidden_dim), Pointwise(config.hidden_dim, config.embed_dim)
        self.norm1, self.norm2 = nn.LayerNorm(config.embed_dim), nn.LayerNorm(config.embed_dim)
        self.drop, self.activation = nn.Dropout(config.dropout), getattr(F, config.activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = self.norm1(x + self.drop(self.attention(x)))
        return self.norm2(x + self.drop(self.conv2(self.drop(self.activation(self.conv1(x))))))


class Stage(nn.Module):
    """One resolution: pooled patches in, the next token of each token out."""

    def __init__(self, config: GPHTConfig, rate: int) -> None:
        super().__init__()
        self.rate, self.patch, width = rate, config.token_length // rate, config.embed_dim
        self.patch_embedding = nn.ModuleDict({"value_embedding": Linear(self.patch, width, bias=False)})
        self.drop = nn.Dropout(config.dropout)
        self.encoder = nn.ModuleDict({"attn_layers": nn.ModuleList(Layer(config) for _ in range(config.stage_layers)), "norm": nn.LayerNorm(width)})
        self.forecast_head = Linear(width, config.token_length)

    def forward(self, series: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Series (B, L) and positions (1, N, D) -> features (B, N, D) and the next tokens (B, L)."""
        patches = F.max_pool1d(series[:, None], self.rate).squeeze(1).unflatten(1, (-1, self.patch))
        x = self.drop(self.patch_embedding["value_embedding"](patches) + positions)
        for layer in self.encoder["attn_layers"]:
            x = layer(x)
        x = self.encoder["norm"](x)
        return x, self.forecast_head(x).flatten(1)


@dataclass
class Stages:
    """What the network says of windows."""

    tokens: Tensor
    """Features of the last stage, (B * C, N, D)."""
    outputs: list[Tensor]
    """What each stage adds to the prediction, on the normalised scale, (B, C, L)."""
    loc: Tensor
    """Mean of the window, (B, C, 1)."""
    scale: Tensor
    """Deviation of the window, (B, C, 1)."""

    @property
    def normed(self) -> Tensor:
        """The window moved on by one token, on the normalised scale, (B, C, L)."""
        return torch.stack(self.outputs).sum(0)

    @property
    def prediction(self) -> Tensor:
        """The same in the units of the series."""
        return self.normed * self.scale + self.loc


class GPHT(Forecaster):
    """Input `series` (B, C, T) with `observed` (B, C, T); any T. `embed` gives the mean of the last stage's tokens over time and channels."""

    system = "time_series/gpht"
    config_class = GPHTConfig
    parts = {"encoders.": "stages"}

    def __init__(self, config: GPHTConfig) -> None:
        super().__init__(config)
        self.encoders = nn.ModuleList(Stage(config, rate) for rate in config.pooling)
        tokens = config.context_length // config.token_length
        self.positions = nn.Buffer(sincos_table(config.embed_dim, (tokens,), "interleaved", prefix=0), persistent=False)

    def stages(self, series: Tensor, observed: Tensor) -> Stages:
        """Run all stages over windows (B, C, L), L a multiple of a token and at most the context length."""
        loc, scale = statistics(series, observed, EPSILON)
        shape, left = series.shape, scaled(series, observed, loc, scale).flatten(0, 1)
        positions = self.positions[:, : shape[2] // self.config.token_length]
        outputs, tokens = [], None
        for stage in self.encoders:
            tokens, output = stage(left, positions)
            outputs.append(output.unflatten(0, shape[:2]))
            left = left - F.pad(output, (self.config.token_length, 0))[:, : shape[2]]  # what is said of a token is taken from it
        return Stages(tokens, outputs, loc, scale)

    @property
    def context_length(self) -> int:
        return self.config.context_length

    @property
    def direct_horizon(self) -> int:
        """One token; longer forecasts come by roll-out with a window of constant length, as the official tests do it."""
        return self.config.token_length

    def direct(self, batch: Batch, horizon: int) -> Forecast:
        return Forecast(self._read(batch).prediction[..., -self.config.token_length :][..., :horizon])

    def loss_terms(self, batch: Batch) -> LossTerms:
        """The window moved on by a token against the truth, on the scale of the whole window (the official loss is in the units of the series:
        `objective.units=user`). DataError unless the window is made of whole tokens and one token of the future is known."""
        token, length = self.config.token_length, batch["series"].shape[2]
        if length % token or length > self.context_length or batch["target"].shape[2] != token:
            raise DataError(
                f"GPHT trains on windows of whole tokens of {token} points, {self.context_length} at most, with a target of one token; "
                f"found {length} points and a target of {batch['target'].shape[2]}."
            )
        said = self.stages(batch["series"], batch["observed"])
        target = torch.cat([batch["series"][..., token:], batch["target"]], 2)
        observed = torch.cat([batch["observed"][..., token:], batch["target_observed"]], 2)
        return LossTerms(said.normed, (target - said.loc) / said.scale, observed, scale=said.scale)

    def tokens(self, batch: Batch) -> Tensor:
        """Features of the last stage, channel by channel, (B, C * N, D)."""
        batch = self._newest(require_series(batch))
        return self._read(batch).tokens.unflatten(0, (len(batch["series"]), -1)).flatten(1, 2)

    def embed(self, batch: Batch) -> Tensor:
        return self.tokens(batch).mean(1)

    def _read(self, batch: Batch) -> Stages:
        """The stages' words on a context, filled up on the left with missing points to whole tokens."""
        lacking = -batch["series"].shape[2] % self.config.token_length
        return self.stages(F.pad(batch["series"], (lacking, 0)), F.pad(batch["observed"], (lacking, 0)))
