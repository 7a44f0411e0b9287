"""Chronos-2: one encoder for single series, several at once, and series with covariates (Ansari et al. 2025, arXiv 2510.15821).

Computes what chronos-forecasting 2.3.2 `chronos2/model.py:Chronos2Model` computes and its pipeline's roll-out; its weights convert exactly
(`modalities.time_series.interop.chronos2`). Every row is a series: a channel to forecast or a covariate. Rows of one group see each other by
attention over the group at each place in time. Letters: R rows, L steps, N tokens, D width, h heads, Q quantiles, F steps of the future.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.time_series.models.chronos_bolt import hidden_scores, of_rows
from modalities.time_series.models.chronos_parts import ChronosConfig, FeedForward, ResidualBlock, Scaling, SelfAttention, left_padded, scaling_of
from modalities.time_series.models.forecaster import Forecast, Forecaster, LossTerms
from modalities.time_series.models.quantiles import masses, spread, weighted_quantiles
from modalities.time_series.models.rotary import rotated, rotation
from trainer.errors import ConfigError, DataError
from trainer.objective import Batch

PAD, REG = 0, 1
"""Rows of the table of special tokens: one that nothing reads, and what stands between past and future."""
PATHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Levels of the quantiles that a roll-out goes on from, as in the official pipeline."""


@dataclass(frozen=True)
class Chronos2Config(ChronosConfig):
    """Chronos-2. The defaults are those of the released base model."""

    context_length: int = 8192
    """Steps of the past that are read; of a longer one the last ones."""
    quantiles: tuple[float, ...] = (0.01, 0.05, *(n / 20 for n in range(2, 19)), 0.95, 0.99)
    """Levels that are forecast, in ascending order."""
    embed_dim: int = 768
    """Width D of the tokens."""
    depth: int = 12
    """Blocks."""
    num_heads: int = 12
    """Attention heads."""
    mlp_dim: int = 3072
    """Hidden width of the feed-forward layers and of the blocks that embed patches."""
    patch_stride: int = 16
    """Steps from the beginning of a patch of the past to that of the next."""
    use_arcsinh: bool = True
    """Take the inverse hyperbolic sine of the standardised values, which tames outliers."""
    max_output_patches: int = 64
    """Patches that are forecast at once."""
    time_scale: int | None = None
    """Steps that the time of a point is divided by. Null: context_length."""
    rope_theta: float = 10000.0
    """Base of the rotary positions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.patch_stride, self.max_output_patches, self.time_scale or 1) < 1 or self.head_dim % 2:
            raise ConfigError(f"Chronos2Config: patch_stride, max_output_patches and time_scale must be at least 1 and head_dim even, found {self}.")


class Future(NamedTuple):
    """What is known of the future of R rows."""

    values: Tensor
    """(R, F), anything where it is not known."""
    known: Tensor
    """(R, F) bool."""


class Encoded(NamedTuple):
    """What the encoder makes of R rows."""

    hidden: Tensor
    """Tokens (R, N, D): past, REG, future."""
    scaling: Scaling
    """Mean and deviation of each row, both (R, 1)."""
    known: Tensor
    """What of the future was known, (R, F) bool, up to whole patches."""


class Chronos2(Forecaster):
    """Input `series` (B, C, T) in any unit with `observed`, and `past_covariates` (B, P, T) and `future_covariates` (B, F, T + H) where there are some; out
    come quantiles. All channels and covariates of a sample are one group. `tokens` are those of the past and REG of all channels (B, C * N, D);
    `embed` is the mean of the REG tokens (B, D)."""

    system = "time_series/chronos-2"
    config_class = Chronos2Config
    parts = {"special_tokens": "special tokens", "input_patch.": "patch embedding", "output_patch.": "forecast head", "": "encoder"}

    def __init__(self, config: Chronos2Config) -> None:
        super().__init__(config)
        c = config
        self.special_tokens = nn.Parameter(torch.empty(2, c.embed_dim))
        self.input_patch = ResidualBlock(3 * c.patch_size, c.embed_dim, c)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.depth))
        self.norm, self.dropout = nn.RMSNorm(c.embed_dim, c.norm_eps), nn.Dropout(c.dropout)
        self.output_patch = ResidualBlock(c.embed_dim, len(c.quantiles) * c.patch_size, c)
        self._initialise()

    @property
    def levels(self) -> tuple[float, ...]:
        return self.config.quantiles

    @property
    def context_length(self) -> int:
        return self.config.context_length

    @property
    def direct_horizon(self) -> int:
        return self.config.max_output_patches * self.config.patch_size

    def encode(self, series: Tensor, observed: Tensor, groups: Tensor, patches: int, future: Future | None = None) -> Encoded:
        """Rows (R, L) with their mask, a number per row that those of its group share, and how many patches of the future -> tokens."""
        c = self.config
        size, count = c.patch_size, patches * c.patch_size
        series, observed = series[:, -c.context_length :], observed[:, -c.context_length :]
        scaling = scaling_of(series, observed)
        past, marks = (left_padded(x, size).unfold(1, size, c.patch_stride) for x in (self.scaled(series, observed, scaling), observed.float()))
        if future is None:
            future = Future(series.new_zeros(len(series), count), observed.new_zeros(len(series), count))
        future = Future(*(F.pad(x[:, :count], (0, count - min(count, x.shape[1]))) for x in future))
        coming = self.scaled(future.values, future.known, scaling).unflatten(1, (patches, size))
        embedded = [
            self._embedded(past, marks, -past.shape[1] * size),
            self.special_tokens[REG].expand(len(series), 1, -1),
            self._embedded(coming, future.known.float().unflatten(1, (patches, size)), 0),
        ]
        seen = F.pad(marks.sum(dim=-1) > 0, (0, 1 + patches), value=True)
        return Encoded(self._blocks(torch.cat(embedded, dim=1), seen, groups), scaling, future.known)

    def scaled(self, values: Tensor, known: Tensor, scaling: Scaling) -> Tensor:
        """On the network's scale, 0 where it is not known: (..., L), scaling of the same number of axes."""
        loc, scale = scaling
        found = (values.float() - loc) / scale
        return torch.where(known, found.arcsinh() if self.config.use_arcsinh else found, 0.0)

    def unscaled(self, found: Tensor, scaling: Scaling) -> Tensor:
        """Quantiles (R, Q, F) on the network's scale -> in the units of the rows."""
        loc, scale = scaling
        found = found.float().sinh() if self.config.use_arcsinh else found.float()
        return found * scale[:, None] + loc[:, None]

    def head(self, hidden: Tensor, patches: int) -> Tensor:
        """All tokens (R, N, D) -> quantiles (R, Q, F) on the network's scale."""
        return self.output_patch(hidden[:, -patches:]).unflatten(-1, (len(self.levels), -1)).transpose(1, 2).flatten(2)

    def quantiles(self, series: Tensor, observed: Tensor, groups: Tensor, patches: int, future: Future | None = None) -> Tensor:
        """As `encode` -> quantiles (R, Q, F) in the units of the rows."""
        encoded = self.encode(series, observed, groups, patches, future)
        return self.unscaled(self.head(encoded.hidden, patches), encoded.scaling)

    def direct(self, batch: Batch, horizon: int) -> Forecast:
        """Forecast of up to `direct_horizon` steps."""
        found = self.quantiles(*_rows(batch, horizon), *self._asked(batch, horizon))
        return self._of_channels(found[..., :horizon], batch)

    @torch.inference_mode()
    def forecast(self, batch: Batch, horizon: int) -> Forecast:
        """Forecast of any horizon.

        Beyond `direct_horizon` as the official pipeline does it: nine quantiles of all rows are put behind the past as if they had happened, the k-th of
        all rows together, and the quantiles of all their forecasts, weighted by their share of the probability, are the forecast. A channel without any
        observed value is forecast as NaN.
        """
        batch = self._newest(self.checked(batch, horizon))
        series, observed, groups = _rows(batch, horizon)
        patches, future = self._asked(batch, horizon)
        parts = [self.quantiles(series, observed, groups, patches, future)]
        done, rows = parts[0].shape[-1], len(series)
        if done < horizon:
            paths = [level for level in PATHS if level in self.levels] or list(self.levels)
            chosen = [self.levels.index(level) for level in paths]
            weights = torch.outer(masses(paths), masses(self.levels)).flatten().to(series.device)
            groups = (groups[:, None] * len(paths) + torch.arange(len(paths), device=series.device)).flatten()
            series, observed = spread(series, len(paths)), spread(observed, len(paths))
        while done < horizon:
            step = parts[-1].shape[-1]
            happened = parts[-1][:, chosen].to(series.dtype).flatten(0, 1)
            if future is not None:
                known, values = (spread(F.pad(x, (0, max(0, step - x.shape[1])))[:, :step], len(paths)) for x in (future.known, future.values))
                happened, future = torch.where(known, values, happened), Future(future.values[:, step:], future.known[:, step:])
            series = torch.cat([series, happened], dim=1)[:, -self.context_length :]
            observed = F.pad(observed, (0, step), value=True)[:, -self.context_length :]
            patches = min(math.ceil((horizon - done) / self.config.patch_size), self.config.max_output_patches)
            ahead = None if future is None else Future(*(spread(x, len(paths)) for x in future))
            found = self.quantiles(series, observed, groups, patches, ahead).unflatten(0, (rows, len(paths))).flatten(1, 2)
            parts.append(weighted_quantiles(found, weights, self.levels))
            done += parts[-1].shape[-1]
        said = self._of_channels(torch.cat(parts, dim=-1)[..., :horizon], batch)
        blank = ~batch["observed"].any(dim=2, keepdim=True)
        return Forecast(said.point.masked_fill(blank, torch.nan), said.quantiles.masked_fill(blank[:, None], torch.nan), self.levels)

    def loss_terms(self, batch: Batch) -> LossTerms:
        """Quantiles and truth on the network's scale, where the loss is computed. DataError for a target that is longer than `direct_horizon`.

        Errors on that scale are no multiple of the user's, so `scale` holds the plain deviation.
        """
        steps = batch["target"].shape[-1]
        if steps > self.direct_horizon:
            raise DataError(f"This model forecasts {self.direct_horizon} steps at once, and the target has {steps}. Give it windows with a shorter horizon.")
        patches, future = self._asked(batch, steps)
        encoded = self.encode(*_rows(batch, steps), patches, future)
        said = self._of_channels(self.head(encoded.hidden, patches)[..., :steps], batch)
        loc, scale = (x.unflatten(0, (len(batch["series"]), -1))[:, : batch["series"].shape[1]] for x in encoded.scaling)
        target = self.scaled(batch["target"], batch["target_observed"], (loc, scale))
        return LossTerms(said.point, target, batch["target_observed"], said.quantiles, self.levels, scale)

    def tokens(self, batch: Batch) -> Tensor:
        return self._past_tokens(batch).flatten(1, 2)

    def embed(self, batch: Batch) -> Tensor:
        return self._past_tokens(batch)[:, :, -1].mean(dim=1)

    def no_weight_decay(self) -> set[str]:
        return {"special_tokens"}

    def _asked(self, batch: Batch, horizon: int) -> tuple[int, Future | None]:
        """Patches that a forecast of so many steps needs, at most `max_output_patches`, and all that is known of the future."""
        return min(math.ceil(horizon / self.config.patch_size), self.config.max_output_patches), _future(batch, horizon)

    def _of_channels(self, found: Tensor, batch: Batch) -> Forecast:
        """Forecast of the channels from quantiles (B * (C + P + F), Q, H) of all rows."""
        samples, channels = batch["series"].shape[:2]
        return of_rows(found.unflatten(0, (samples, -1))[:, :channels].flatten(0, 1), samples, self.levels)

    def _past_tokens(self, batch: Batch) -> Tensor:
        """(B, C, N, D): the tokens of the past and REG."""
        rows = {key: batch[key] for key in ("series", "observed", "past_covariates") if key in batch}
        hidden = self.encode(*_rows(rows, 0), 1).hidden[:, :-1]
        return hidden.unflatten(0, (len(batch["series"]), -1))[:, : batch["series"].shape[1]]

    def _embedded(self, values: Tensor, marks: Tensor, begin: int) -> Tensor:
        """Patches (R, P, p) with their masks and the time of their first step -> tokens (R, P, D)."""
        times = torch.arange(begin, begin + values.shape[1] * values.shape[2], device=values.device).unflatten(0, values.shape[1:]) / (self.config.time_scale or self.context_length)
        return self.input_patch(torch.cat([times.expand_as(values), values, marks], dim=-1).to(self.special_tokens.dtype))

    def _blocks(self, x: Tensor, seen: Tensor, groups: Tensor) -> Tensor:
        """(R, N, D), which tokens may be looked at (R, N) and the group of each row (R,) -> (R, N, D)."""
        cos, sin = (part.to(x.dtype) for part in rotation(torch.arange(x.shape[1], device=x.device), self.config.head_dim, self.config.rope_theta))
        hidden = None if seen.all() else hidden_scores(seen, x.dtype)[:, None, None]
        grouping = Grouping.of(groups, seen, x.dtype)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, hidden, lambda heads: rotated(heads, cos, sin), grouping)
        return self.dropout(self.norm(x))

    def _initialise(self) -> None:
        """First values as in the official code."""
        factor = self.config.init_factor
        nn.init.normal_(self.special_tokens, std=factor)
        for module in self.modules():
            if isinstance(module, nn.RMSNorm):
                nn.init.constant_(module.weight, factor)
            elif isinstance(module, ResidualBlock):
                module.initialise(factor, module.hidden.in_features)
            elif isinstance(module, (FeedForward, SelfAttention)):
                module.initialise(factor)


class Grouping(NamedTuple):
    """Rows put together by group, each group with as many places as the largest has rows."""

    rows: Tensor
    """Row in each place, (G S,); any where a place is empty."""
    places: Tensor
    """Place of each row, (R,)."""
    size: int
    """Places S of a group."""
    hidden: Tensor
    """What is added to scores, (G N, 1, 1, S)."""

    @classmethod
    def of(cls, groups: Tensor, seen: Tensor, dtype: torch.dtype) -> "Grouping":
        """From a number per row (R,) and which tokens may be looked at, (R, N)."""
        _, group, counts = groups.unique(return_inverse=True, return_counts=True)
        order = group.argsort(stable=True)
        size, first = int(counts.max()), counts.cumsum(0) - counts
        slot = torch.arange(len(groups), device=groups.device) - first[group[order]]
        places = torch.empty_like(order).scatter(0, order, group[order] * size + slot)
        rows = order.new_zeros(len(counts) * size).scatter(0, places, torch.arange(len(groups), device=groups.device))
        taken = torch.zeros_like(rows, dtype=torch.bool).scatter(0, places, torch.ones_like(places, dtype=torch.bool))
        visible = (seen[rows] & taken[:, None]).unflatten(0, (-1, size)).transpose(1, 2).flatten(0, 1)  # (G N, S)
        return cls(rows, places, size, hidden_scores(visible, dtype)[:, None, None])


class Block(nn.Module):
    """Attention over time, attention over the group, feed-forward; each on the normed input and added to it."""

    def __init__(self, config: Chronos2Config) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.RMSNorm(config.embed_dim, config.norm_eps) for _ in range(3))
        self.over_time, self.over_group = SelfAttention(config), SelfAttention(config)
        self.mlp, self.dropout = FeedForward(config), nn.Dropout(config.dropout)

    def forward(self, x: Tensor, hidden: Tensor | None, turn: Callable[[Tensor], Tensor], grouping: Grouping) -> Tensor:
        """(R, N, D) -> (R, N, D)."""
        x = x + self.dropout(self.over_time(self.norm1(x), hidden, turn))
        x = x + self.dropout(self._grouped(self.norm2(x), grouping))
        return x + self.dropout(self.mlp(self.norm3(x)))

    def _grouped(self, x: Tensor, grouping: Grouping) -> Tensor:
        """Each token with those of its group at the same place in time."""
        tokens = x.shape[1]
        by_group = x.index_select(0, grouping.rows).unflatten(0, (-1, grouping.size)).transpose(1, 2).flatten(0, 1)  # (G N, S, D)
        mixed = self.over_group(by_group, grouping.hidden)
        return mixed.unflatten(0, (-1, tokens)).transpose(1, 2).flatten(0, 1).index_select(0, grouping.places)


def _rows(batch: Batch, horizon: int) -> tuple[Tensor, Tensor, Tensor]:
    """Past of all rows of a batch, what of it was observed, and the number of their sample: channels, past covariates, covariates known ahead."""
    samples, _, length = batch["series"].shape
    covariates = [batch[key][:, :, :length] for key in ("past_covariates", "future_covariates") if key in batch]
    series = torch.cat([batch["series"], *(x.to(batch["series"].dtype) for x in covariates)], dim=1)
    observed = torch.cat([batch["observed"], *(torch.ones_like(x, dtype=torch.bool) for x in covariates)], dim=1)
    groups = torch.arange(samples, device=series.device).repeat_interleave(series.shape[1])
    return series.flatten(0, 1), observed.flatten(0, 1), groups


def _future(batch: Batch, horizon: int) -> Future | None:
    """What is known of the future of all rows of a batch; None where nothing is."""
    if "future_covariates" not in batch:
        return None
    samples, channels, length = batch["series"].shape
    known = batch["future_covariates"][:, :, length : length + horizon]
    unknown = channels + (batch["past_covariates"].shape[1] if "past_covariates" in batch else 0)
    values = F.pad(known, (0, 0, unknown, 0))
    marks = F.pad(torch.ones_like(known, dtype=torch.bool), (0, 0, unknown, 0))
    return Future(values.flatten(0, 1), marks.flatten(0, 1))
