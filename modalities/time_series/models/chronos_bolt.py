"""Chronos-Bolt: forecasts of nine quantiles by a T5 that reads patches of a series (Ansari et al. 2024, chronos-forecasting).

Computes what chronos-forecasting 2.3.2 `chronos_bolt.py:ChronosBoltModelForForecasting` and the roll-out of its pipeline compute; its weights
convert exactly (`modalities.time_series.interop.chronos_bolt`). Each channel is a series of its own. Two things are computed in fewer steps
than there, with the same result: the decoder has one token, which attends to itself whatever its scores, and asks the encoder's tokens
directly instead of first making keys and values of them all.
Letters: R series (batch x channels), L steps, N tokens, D width, h heads of width d, Q quantiles, H steps of a direct forecast.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.linear import Linear
from modalities.time_series.models.chronos_parts import ChronosConfig, FeedForward, ResidualBlock, Scaling, SelfAttention, left_padded, scaling_of
from modalities.time_series.models.forecaster import Forecast, Forecaster, LossTerms
from modalities.time_series.models.rows import by_parts
from trainer.errors import ConfigError, DataError
from trainer.objective import Batch

ROWS = 512
"""Series that are forecast at once."""
START, REG = 0, 1
"""Rows of the table of special tokens: what the decoder starts from, and what is put behind the patches."""


@dataclass(frozen=True)
class ChronosBoltConfig(ChronosConfig):
    """Chronos-Bolt. The defaults are those of the tiny model."""

    prediction_length: int = 64
    """Steps H of a direct forecast."""
    patch_stride: int = 16
    """Steps from the beginning of a patch to that of the next."""
    decoder_depth: int = 4
    """Blocks of the decoder."""
    gated: bool = False
    """Feed-forward layers with a gate (T5's "gated-..." kinds)."""
    use_reg_token: bool = True
    """Put a token of its own behind the patches."""
    start_token: int = START
    """Row of the special tokens that the decoder starts from."""
    num_buckets: int = 32
    """Entries of the table of relative positions, half of them for either side."""
    max_distance: int = 128
    """Distance in tokens from which on all are in the last entry."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.prediction_length, self.patch_stride, self.decoder_depth) < 1:
            raise ConfigError(f"ChronosBoltConfig: prediction_length, patch_stride and decoder_depth must be at least 1, found {self}.")
        if self.num_buckets < 4 or self.num_buckets % 2 or self.max_distance <= self.num_buckets // 4:
            raise ConfigError(
                f"ChronosBoltConfig: num_buckets must be even and at least 4, and max_distance above a quarter of it; found {self.num_buckets} and {self.max_distance}."
            )
        if not 0 <= self.start_token <= self.use_reg_token:
            raise ConfigError(f"ChronosBoltConfig: start_token must be a row of the {1 + self.use_reg_token} special token(s), found {self.start_token}.")


class Encoded(NamedTuple):
    """What the encoder makes of R series."""

    hidden: Tensor
    """Tokens (R, N, D), the last of them REG where there is one."""
    embedded: Tensor
    """The same before the first block."""
    seen: Tensor
    """Whether a token holds anything observed, (R, N) bool."""
    scaling: Scaling
    """Mean and deviation of each series, both (R, 1)."""


class ChronosBolt(Forecaster):
    """Input `series` (B, C, T) in any unit with `observed`; out come quantiles. `tokens` are the encoder's of all channels, one channel after the
    other (B, C * N, D); `embed` is what the decoder's token has become, the mean over the channels (B, D)."""

    system = "time_series/chronos-bolt"
    config_class = ChronosBoltConfig
    parts = {"encoder.": "encoder", "decoder.": "decoder", "special_tokens": "special tokens", "input_patch.": "patch embedding", "output_patch.": "forecast head"}

    def __init__(self, config: ChronosBoltConfig) -> None:
        super().__init__(config)
        c = config
        self.special_tokens = nn.Parameter(torch.empty(1 + c.use_reg_token, c.embed_dim))
        self.input_patch = ResidualBlock(2 * c.patch_size, c.embed_dim, c)
        self.encoder, self.decoder = Encoder(c), Decoder(c)
        self.output_patch = ResidualBlock(c.embed_dim, len(c.quantiles) * c.prediction_length, c)
        self._initialise()

    @property
    def levels(self) -> tuple[float, ...]:
        return self.config.quantiles

    @property
    def context_length(self) -> int:
        return self.config.context_length

    @property
    def direct_horizon(self) -> int:
        return self.config.prediction_length

    def encode(self, series: Tensor, observed: Tensor) -> Encoded:
        """(R, L) of any length with its mask -> tokens."""
        c = self.config
        series, observed = series[:, -c.context_length :], observed[:, -c.context_length :]
        loc, scale = scaling_of(series, observed)
        kind = self.special_tokens.dtype
        values = torch.where(observed, (series.float() - loc) / scale, 0.0).to(kind)
        patches, marks = (left_padded(x, c.patch_size).unfold(1, c.patch_size, c.patch_stride) for x in (values, observed.to(kind)))
        embedded = self.input_patch(torch.cat([patches, marks], dim=-1))
        seen = marks.sum(dim=-1) > 0
        if c.use_reg_token:
            embedded = torch.cat([embedded, self.special_tokens[REG].expand(embedded.shape[0], 1, -1)], dim=1)
            seen = F.pad(seen, (0, 1), value=True)
        return Encoded(self.encoder(embedded, seen), embedded, seen, (loc, scale))

    def decode(self, encoded: Encoded) -> Tensor:
        """What the decoder's single token becomes, (R, D)."""
        start = self.special_tokens[self.config.start_token].expand(encoded.hidden.shape[0], -1)
        return self.decoder(start, encoded.hidden, encoded.seen)

    def head(self, decoded: Tensor) -> Tensor:
        """(R, D) -> quantiles (R, Q, H) on the normalised scale."""
        return self.output_patch(decoded).unflatten(-1, (len(self.config.quantiles), -1))

    def quantiles(self, series: Tensor, observed: Tensor) -> Tensor:
        """(R, L) with its mask -> quantiles (R, Q, H) in the units of the series."""
        return by_parts(self._quantiles, ROWS, series, observed)

    def direct(self, batch: Batch, horizon: int) -> Forecast:
        """Forecast of up to H steps."""
        found = self.quantiles(batch["series"].flatten(0, 1), batch["observed"].flatten(0, 1))[..., :horizon]
        return of_rows(found, batch["series"].shape[0], self.levels)

    @torch.inference_mode()
    def forecast(self, batch: Batch, horizon: int) -> Forecast:
        """Forecast of any horizon.

        Beyond H as the official pipeline does it: every quantile of the last H steps is put behind the past as if it had happened, each of these Q
        pasts gives Q quantiles, and the quantiles of all Q * Q are the forecast. A channel without any observed value is forecast as NaN.
        """
        batch = self._newest(self.checked(batch, horizon))
        past, observed = batch["series"].flatten(0, 1), batch["observed"].flatten(0, 1)
        blank, rows, many = ~observed.any(dim=-1)[:, None, None], len(past), len(self.levels)
        parts = [self.quantiles(past, observed)]
        past, observed = (x[:, None].expand(-1, many, -1) for x in (past, observed))
        levels = torch.tensor(self.levels, device=past.device, dtype=parts[0].dtype)
        for _ in range(math.ceil(horizon / self.direct_horizon) - 1):
            past = torch.cat([past, parts[-1].to(past.dtype)], dim=-1)[..., -self.context_length :]
            observed = F.pad(observed, (0, self.direct_horizon), value=True)[..., -self.context_length :]
            found = self.quantiles(past.flatten(0, 1), observed.flatten(0, 1)).reshape(rows, many * many, -1)
            parts.append(torch.quantile(found, levels, dim=1).transpose(0, 1))
        return of_rows(torch.cat(parts, dim=-1)[..., :horizon].masked_fill(blank, torch.nan), len(batch["series"]), self.levels)

    def loss_terms(self, batch: Batch) -> LossTerms:
        """Quantiles and truth on the normalised scale, where the loss is computed. DataError for a target of more than H steps."""
        steps = batch["target"].shape[-1]
        if steps > self.direct_horizon:
            raise DataError(f"This model forecasts {self.direct_horizon} steps at once, and the target has {steps}. Give it windows with a shorter horizon.")
        encoded = self.encode(batch["series"].flatten(0, 1), batch["observed"].flatten(0, 1))
        loc, scale = (x.unflatten(0, batch["series"].shape[:2]) for x in encoded.scaling)
        said = of_rows(self.head(self.decode(encoded))[..., :steps], len(batch["series"]), self.levels)
        return LossTerms(said.point, (batch["target"].float() - loc) / scale, batch["target_observed"], said.quantiles, self.levels, scale)

    def tokens(self, batch: Batch) -> Tensor:
        hidden = self.encode(batch["series"].flatten(0, 1), batch["observed"].flatten(0, 1)).hidden
        return hidden.unflatten(0, batch["series"].shape[:2]).flatten(1, 2)

    def embed(self, batch: Batch) -> Tensor:
        decoded = self.decode(self.encode(batch["series"].flatten(0, 1), batch["observed"].flatten(0, 1)))
        return decoded.unflatten(0, batch["series"].shape[:2]).mean(dim=1)

    def no_weight_decay(self) -> set[str]:
        return {"special_tokens", "encoder.position_bias"}

    def _quantiles(self, series: Tensor, observed: Tensor) -> Tensor:
        encoded = self.encode(series, observed)
        return unscaled(self.head(self.decode(encoded)), encoded.scaling)

    def _initialise(self) -> None:
        """First values as in the official code, which scales all of T5's by init_factor."""
        c = self.config
        nn.init.normal_(self.special_tokens, std=c.init_factor)
        for module in self.modules():
            if isinstance(module, nn.RMSNorm):
                nn.init.constant_(module.weight, c.init_factor)
            elif isinstance(module, ResidualBlock):
                module.initialise(c.init_factor, 2 * c.patch_size)
            elif isinstance(module, (FeedForward, SelfAttention, LoneAttention, CrossAttention, PositionBias)):
                module.initialise(c.init_factor)


def of_rows(quantiles: Tensor, batch: int, levels: tuple[float, ...]) -> Forecast:
    """Forecast from (B * C, Q, H): the point is the median."""
    by_channel = quantiles.unflatten(0, (batch, -1)).transpose(1, 2)
    whole = Forecast(by_channel[:, 0], by_channel, levels)
    inside = levels[0] <= 0.5 <= levels[-1]
    return Forecast(whole.quantile(0.5) if inside else by_channel[:, len(levels) // 2], by_channel, levels)


def unscaled(quantiles: Tensor, scaling: Scaling) -> Tensor:
    """(R, Q, H) on the normalised scale -> in the units of the series."""
    loc, scale = scaling
    return quantiles.float() * scale[:, None] + loc[:, None]


class PositionBias(nn.Module):
    """What relative positions add to the scores of all blocks: an entry per bucket of distances and head."""

    def __init__(self, config: ChronosBoltConfig) -> None:
        super().__init__()
        self.max_distance = config.max_distance
        self.weight = nn.Parameter(torch.empty(config.num_buckets, config.num_heads))
        self._width = config.embed_dim

    def forward(self, length: int) -> Tensor:
        """(1, h, N, N) for N tokens."""
        places = torch.arange(length, device=self.weight.device)
        by_distance = self.weight[self.buckets(torch.arange(1 - length, length, device=self.weight.device))]
        return by_distance[places[None] - places[:, None] + length - 1].permute(2, 0, 1)[None]

    def buckets(self, distance: Tensor) -> Tensor:
        """Entry of each distance (key minus query): one for each small one, then ever wider ones; those after the query in the second half."""
        half = len(self.weight) // 2
        exact, far = half // 2, distance.abs()
        wide = exact + (torch.log(far.float().clamp(min=1) / exact) / math.log(self.max_distance / exact) * (half - exact)).long()
        return half * (distance > 0) + torch.where(far < exact, far, wide.clamp(max=half - 1))

    def initialise(self, factor: float) -> None:
        """First values, as T5's."""
        nn.init.normal_(self.weight, std=factor * self._width**-0.5)


class Encoder(nn.Module):
    """Pre-norm blocks with one table of relative positions."""

    def __init__(self, config: ChronosBoltConfig) -> None:
        super().__init__()
        self.position_bias = PositionBias(config)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.depth))
        self.norm, self.dropout = nn.RMSNorm(config.embed_dim, config.norm_eps), nn.Dropout(config.dropout)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """(R, N, D) and which tokens may be looked at -> (R, N, D)."""
        bias = self.position_bias(x.shape[1])
        if torch.compiler.is_exporting() or not seen.all():  # without gaps one bias serves all series
            bias = bias + hidden_scores(seen, bias.dtype)[:, None, None]
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, bias)
        return self.dropout(self.norm(x))


class EncoderBlock(nn.Module):
    """Self-attention and feed-forward, each on the normed input and added to it."""

    def __init__(self, config: ChronosBoltConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.RMSNorm(config.embed_dim, config.norm_eps) for _ in range(2))
        self.attention, self.mlp, self.dropout = SelfAttention(config), FeedForward(config, config.gated), nn.Dropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(R, N, D) -> (R, N, D)."""
        x = x + self.dropout(self.attention(self.norm1(x), bias))
        return x + self.dropout(self.mlp(self.norm2(x)))


class Decoder(nn.Module):
    """Pre-norm blocks for one token that asks the encoder's."""

    def __init__(self, config: ChronosBoltConfig) -> None:
        super().__init__()
        self.position_bias = PositionBias(config)
        self.position_bias.requires_grad_(False)  # without effect, see LoneAttention
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.decoder_depth))
        self.norm, self.dropout = nn.RMSNorm(config.embed_dim, config.norm_eps), nn.Dropout(config.dropout)

    def forward(self, x: Tensor, memory: Tensor, seen: Tensor) -> Tensor:
        """Token (R, D), the encoder's (R, N, D) and which of them may be looked at (R, N) -> (R, D)."""
        hidden = hidden_scores(seen, memory.dtype)[:, None]
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, memory, hidden)
        return self.dropout(self.norm(x))


class DecoderBlock(nn.Module):
    """Self-attention of a single token, cross-attention, feed-forward."""

    def __init__(self, config: ChronosBoltConfig) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.RMSNorm(config.embed_dim, config.norm_eps) for _ in range(3))
        self.self_attention, self.cross_attention = LoneAttention(config), CrossAttention(config)
        self.mlp, self.dropout = FeedForward(config, config.gated), nn.Dropout(config.dropout)

    def forward(self, x: Tensor, memory: Tensor, hidden: Tensor) -> Tensor:
        """(R, D), (R, N, D), (R, 1, N) -> (R, D)."""
        x = x + self.dropout(self.self_attention(self.norm1(x)))
        x = x + self.dropout(self.cross_attention(self.norm2(x), memory, hidden))
        return x + self.dropout(self.mlp(self.norm3(x)))


class LoneAttention(nn.Module):
    """A token that attends to itself alone: whatever the score, its weight is 1.

    So queries, keys and relative positions have no effect and no gradient. They are kept, not trained, because official files hold them.
    """

    def __init__(self, config: ChronosBoltConfig) -> None:
        super().__init__()
        inner = config.num_heads * config.head_dim
        self.heads, self.drop = config.num_heads, config.dropout
        self.query, self.key, self.value = (Linear(config.embed_dim, inner, bias=False) for _ in range(3))
        self.out = Linear(inner, config.embed_dim, bias=False)
        self.query.requires_grad_(False)
        self.key.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(R, D) -> (R, D)."""
        value = self.value(x)
        if self.training:  # dropout of attention drops whole heads
            value = (value.unflatten(-1, (self.heads, -1)) * F.dropout(value.new_ones(len(x), self.heads, 1), self.drop)).flatten(1)
        return self.out(value)

    def initialise(self, factor: float) -> None:
        """First values, as T5's."""
        initialise_separate(self, factor, self.heads)


class CrossAttention(nn.Module):
    """One token asks N others. Instead of N keys and values per head, the query is turned by the keys' matrix and the mean by the values'."""

    def __init__(self, config: ChronosBoltConfig) -> None:
        super().__init__()
        inner = config.num_heads * config.head_dim
        self.heads, self.dropout = config.num_heads, nn.Dropout(config.dropout)
        self.query, self.key, self.value = (Linear(config.embed_dim, inner, bias=False) for _ in range(3))
        self.out = Linear(inner, config.embed_dim, bias=False)

    def forward(self, x: Tensor, memory: Tensor, hidden: Tensor) -> Tensor:
        """(R, D), (R, N, D) and what is added to the scores (R, 1, N) -> (R, D)."""
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(0, 1)  # (h, R, d)
        asked = (query @ self.key.weight.unflatten(0, (self.heads, -1))).transpose(0, 1)  # (h, R, D) -> (R, h, D)
        shares = self.dropout((asked @ memory.transpose(1, 2) + hidden).float().softmax(dim=-1).to(memory.dtype))  # (R, h, N)
        mixed = (shares @ memory).transpose(0, 1) @ self.value.weight.unflatten(0, (self.heads, -1)).transpose(1, 2)  # (h, R, d)
        return self.out(mixed.transpose(0, 1).flatten(1))

    def initialise(self, factor: float) -> None:
        """First values, as T5's."""
        initialise_separate(self, factor, self.heads)


def initialise_separate(attention: LoneAttention | CrossAttention, factor: float, heads: int) -> None:
    """First values of an attention with separate matrices, as T5's."""
    inner, width = attention.query.weight.shape
    nn.init.normal_(attention.query.weight, std=factor * (width * inner // heads) ** -0.5)
    for layer in (attention.key, attention.value, attention.out):
        nn.init.normal_(layer.weight, std=factor * layer.in_features**-0.5)


def hidden_scores(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What hides tokens when it is added to scores, in the shape of `seen`."""
    return (~seen).to(dtype) * torch.finfo(dtype).min
