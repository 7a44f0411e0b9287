"""FlowState: a state-space encoder and a decoder of basis functions, which know how long a step is (Graf et al. 2025, arXiv 2508.05287).

Computes what granite-tsfm 0.3.11 `modeling_flowstate.py:FlowStateForPrediction` computes; its weights convert exactly
(`modalities.time_series.interop.flowstate`). Each channel is a series of its own. `speed` (the official scale factor) is 24 divided by the steps of a
season: 1 for hours of a day. Letters: R series (batch x channels), L steps, D width, Q quantiles, n basis functions, K steps of a patch at a speed.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.linear import Linear
from modalities.time_series.frequency import TOKENS, UNKNOWN
from modalities.time_series.models.chronos_parts import require_levels
from modalities.time_series.models.forecaster import Forecast, Forecaster, LossTerms
from modalities.time_series.models.rows import by_parts
from modalities.time_series.models.s5 import S5Layer
from trainer.errors import ConfigError, DataError
from trainer.objective import Batch

RANGES = {"legs": (-1.0, 0.95), "hlegs": (0.0, 0.95), "four": (0.0, 1.0)}
"""Where the basis functions are evaluated over a patch."""
ROWS = 32
"""Series that are forecast at once."""
LONGEST_CONTEXT = 16 * 1024
"""Most points that are read, however slow the series."""
EPS = 1e-5
"""Smallest variance."""
DAY = 24.0
"""Steps of a season at speed 1: the hours of a day."""
SEASONS = {
    "s": 3600, "min": 1440, "2min": 720, "5min": 288, "10min": 144, "15min": 96, "30min": 48, "h": 24, "B": 261, "W": 365 / 7, "ME": 12, "QE": 4, "YE": 4,
}  # fmt: skip
"""Steps of the season of each interval but days, as the official table has them: the hour of seconds, the day up to hours, then the year."""


@dataclass(frozen=True)
class FlowStateConfig:
    """FlowState. The defaults are those of the first release (r1)."""

    context_length: int = 2048
    """Points of the past that are read at speed 1; at another speed divided by it."""
    embed_dim: int = 512
    """Width D."""
    depth: int = 6
    """Layers of the encoder."""
    state_dim: int = 512
    """Complex states of a layer."""
    hippo_blocks: int = 8
    """Blocks of the matrix that the states start from; state_dim is a multiple."""
    mlp: Literal["gated", "transformer"] = "gated"
    """Non-linearity of a layer: one gate, or a gated feed-forward layer (r1.1)."""
    out_gating: bool = False
    """A gate behind the states, too (r1.1)."""
    with_missing: bool = True
    """Tell the network which values are missing. Without it there must be none, and long horizons are rolled out."""
    patch_length: int = 24
    """Steps that a position forecasts at speed 1."""
    basis_dim: int = 256
    """Basis functions n of the decoder."""
    basis: Literal["legs", "hlegs", "four"] = "legs"
    """Legendre polynomials, those on the right half of their range, or sines and cosines (n must be odd)."""
    quantiles: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Levels that are forecast, in ascending order."""
    speed: float = 1.0
    """How long a step is when a batch does not say it: 24 divided by the steps of a season."""
    days: int = 365
    """Steps of a season of daily series: 365, or 7 where the days of the week count (traffic, sales, health)."""
    point: Literal["mean", "median"] = "mean"
    """Point forecast: mean of the quantiles, those near the middle counting most, or the median."""

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in ("context_length", "embed_dim", "depth", "state_dim", "hippo_blocks", "patch_length", "basis_dim", "days")}
        small = [f"{name}={value}" for name, value in sizes.items() if value < 1]
        if small:
            raise ConfigError(f"FlowStateConfig: sizes must be at least 1, found {', '.join(small)}.")
        if self.state_dim % self.hippo_blocks:
            raise ConfigError(f"FlowStateConfig: state_dim must be a multiple of hippo_blocks, found {self.state_dim} and {self.hippo_blocks}.")
        if self.basis == "four" and self.basis_dim % 2 == 0:
            raise ConfigError(f"FlowStateConfig: basis_dim must be odd for basis='four', found {self.basis_dim}.")
        require_levels(self.quantiles, "FlowStateConfig")
        if self.point == "median" and 0.5 not in self.quantiles:
            raise ConfigError(f"FlowStateConfig: point='median' needs the level 0.5 among quantiles, found {self.quantiles}.")
        patch_steps(self.patch_length, self.speed)


def patch_steps(patch_length: int, speed: float) -> int:
    """Steps K that a position forecasts at a speed. ConfigError for a speed at which that is none."""
    if not 0 < speed <= patch_length:
        raise ConfigError(f"The speed must be above 0 and at most the length of a patch, {patch_length}; found {speed}.")
    return int(patch_length / speed + 1e-6)


class Normalised(NamedTuple):
    """Series (R, L) by the mean and deviation of what was observed up to each step."""

    values: Tensor
    """(R, L); 0 where missing."""
    mean: Tensor
    """(R, L)."""
    deviation: Tensor
    """(R, L)."""


class FlowState(Forecaster):
    """Input `series` (B, C, T) in any unit with `observed`; out come quantiles. `tokens` are those of the points of all channels, one channel after the other
    (B, C * T, D); `embed` is the last point's, the mean over the channels (B, D)."""

    system = "time_series/flowstate"
    config_class = FlowStateConfig
    parts = {"embed_layer.": "embedding", "layers.": "encoder", "coefficients.": "decoder"}

    def __init__(self, config: FlowStateConfig) -> None:
        super().__init__(config)
        c = config
        self.embed_layer = Linear(1 + c.with_missing, c.embed_dim)
        self.layers = nn.ModuleList(S5Layer(c.embed_dim, c.state_dim, c.hippo_blocks, c.out_gating, c.mlp) for _ in range(c.depth))
        self.coefficients = Linear(c.embed_dim, len(c.quantiles) * c.basis_dim)

    @property
    def levels(self) -> tuple[float, ...]:
        return self.config.quantiles

    @property
    def context_length(self) -> int:
        """As much as the slowest series needs; of others less is read, see `longest`."""
        return LONGEST_CONTEXT

    @property
    def direct_horizon(self) -> int:
        """One patch at the config's speed. Longer horizons come in one pass, too, but are less certain."""
        return patch_steps(self.config.patch_length, self.config.speed)

    def longest(self, speed: float) -> int:
        """Points of past and unknown future together that are read at a speed."""
        return min(LONGEST_CONTEXT, max(1, int(self.config.context_length / speed)))

    def normalised(self, series: Tensor, observed: Tensor) -> Normalised:
        """(R, L) with its mask. A step's deviation is taken from the mean that was known then; no gradient goes through mean and deviation."""
        values, weight = series.float() * observed, observed.float()
        count = weight.cumsum(dim=1).clamp(min=1)
        mean = (values.cumsum(dim=1) / count).detach()
        deviation = (((values - mean) * weight).square().cumsum(dim=1) / count).clamp(min=EPS).sqrt().detach()
        return Normalised((values - mean) / deviation * weight, mean, deviation)

    def encode(self, normalised: Tensor, observed: Tensor, speed: float, first: int) -> list[Tensor]:
        """Normalised (R, L) with its mask -> what each layer says, (R, L, D), of the last one only the steps from `first` on."""
        told = [normalised, (~observed).to(normalised.dtype)] if self.config.with_missing else [normalised]
        x = self.embed_layer(torch.stack(told, dim=-1).to(self.embed_layer.weight.dtype))
        found = []
        for i, layer in enumerate(self.layers):
            x = layer(x, speed, first if i == len(self.layers) - 1 else 0)
            found.append(x)
        return found

    def decode(self, hidden: Tensor, speed: float) -> Tensor:
        """(..., D) -> (..., Q, K): what each level's function says of the next K steps, on the normalised scale."""
        functions = basis(self.config, patch_steps(self.config.patch_length, speed), speed, hidden.device)
        return self.coefficients(hidden).unflatten(-1, (len(self.levels), -1)).float() @ functions.t()

    def quantiles(self, series: Tensor, observed: Tensor, horizon: int, speed: float, official: bool = False) -> Tensor:
        """(R, L) with its mask -> quantiles (R, Q, H) in the units of the series.

        Steps beyond a patch are put behind the past as missing, and each position forecasts its own patch. `official`: for a horizon one short of a
        multiple of a patch and longer than it, too few steps come back, as in the official code.
        """
        patch = patch_steps(self.config.patch_length, speed)
        unknown = max(0, horizon - patch)
        keep = max(1, self.longest(speed) - unknown)
        series, observed = (F.pad(x[:, -keep:], (0, unknown)) for x in (series, observed))
        scaled = self.normalised(series, observed)
        first = series.shape[1] - unknown - 1
        raw = self.decode(self.encode(scaled.values, observed, speed, first)[-1], speed)  # (R, unknown + 1, Q, K)
        raw = raw * scaled.deviation[:, first:, None, None] + scaled.mean[:, first:, None, None]
        asked = torch.tensor(self.levels, device=raw.device, dtype=raw.dtype)
        return torch.quantile(joined(raw, official)[..., :horizon], asked, dim=1).transpose(0, 1)

    def speeds(self, batch: Batch) -> list[float]:
        """Speed of each sample, by its `frequency` where it has one."""
        tokens = batch["frequency"].tolist() if "frequency" in batch else [UNKNOWN] * len(batch["series"])
        known = {TOKENS[name]: DAY / steps for name, steps in {**SEASONS, "D": self.config.days}.items()}
        return [known.get(token, self.config.speed) for token in tokens]

    def direct(self, batch: Batch, horizon: int) -> Forecast:
        """Forecast of any number of steps, each sample at its own speed."""
        if not self.config.with_missing and not batch["observed"].all():
            raise DataError("This FlowState was not trained with missing values (with_missing=False), and the series has some. Fill them first.")
        speeds = torch.tensor(self.speeds(batch), dtype=torch.float64)
        said = batch["series"].new_empty(len(speeds), batch["series"].shape[1], len(self.levels), horizon, dtype=torch.float32)
        for speed in speeds.unique().tolist():
            rows = (speeds == speed).nonzero()[:, 0].to(said.device)
            series, observed = (batch[key][rows].flatten(0, 1) for key in ("series", "observed"))
            said[rows] = self._rolled(series, observed, horizon, speed).unflatten(0, (len(rows), -1))
        said = said.transpose(1, 2)
        return Forecast(self.point_of(said), said, self.levels)

    @torch.inference_mode()
    def forecast(self, batch: Batch, horizon: int) -> Forecast:
        """Forecast of any horizon, with unknown steps told as missing as far as that leaves half of what is read to the past; beyond, by roll-out of the
        median. A channel without any observed value is forecast as NaN."""
        batch = self._newest(self.checked(batch, horizon))
        said, blank = self.direct(batch, horizon), ~batch["observed"].any(dim=2, keepdim=True)
        return Forecast(said.point.masked_fill(blank, torch.nan), said.quantiles.masked_fill(blank[:, None], torch.nan), self.levels)

    def _rolled(self, series: Tensor, observed: Tensor, horizon: int, speed: float) -> Tensor:
        """(R, L) with its mask -> quantiles (R, Q, H)."""
        patch = patch_steps(self.config.patch_length, speed)
        most, parts, left = max(patch, self.longest(speed) // 2) if self.config.with_missing else patch, [], horizon
        while left:
            step = min(left, most)
            parts.append(by_parts(lambda *rows: self.quantiles(*rows, step, speed), ROWS, series, observed))
            left -= parts[-1].shape[-1]
            middle = parts[-1][:, len(self.levels) // 2].to(series.dtype)
            series, observed = torch.cat([series, middle], dim=1), F.pad(observed, (0, middle.shape[1]), value=True)
        return torch.cat(parts, dim=-1)

    def point_of(self, quantiles: Tensor) -> Tensor:
        """(B, Q, ...) -> (B, ...): the point forecast."""
        if self.config.point == "median":
            return quantiles[:, self.levels.index(0.5)]
        weights = 0.5 - (0.5 - torch.tensor(self.levels, device=quantiles.device)).abs()
        return torch.einsum("q,bq...->b...", weights / weights.sum(), quantiles)

    def loss_terms(self, batch: Batch) -> LossTerms:
        """Raw quantiles at the config's speed and the truth, both by mean and deviation of the past; the future is told as missing, as in a forecast."""
        steps, patch = batch["target"].shape[-1], patch_steps(self.config.patch_length, self.config.speed)
        past = batch["series"].shape[2]
        if not self.config.with_missing and steps > patch:
            raise DataError(f"This FlowState (with_missing=False) is trained with targets of at most {patch} steps, found {steps}.")
        series, observed = (F.pad(batch[key].flatten(0, 1), (0, max(0, steps - patch))) for key in ("series", "observed"))
        scaled = self.normalised(series, observed)
        raw = self.decode(self.encode(scaled.values, observed, self.config.speed, past - 1)[-1], self.config.speed)
        mean, deviation = (x[:, past - 1].unflatten(0, batch["series"].shape[:2])[..., None] for x in (scaled.mean, scaled.deviation))
        said = joined(raw)[..., :steps].unflatten(0, batch["series"].shape[:2]).transpose(1, 2)
        return LossTerms(self.point_of(said), (batch["target"].float() - mean) / deviation, batch["target_observed"], said, self.levels, deviation)

    def tokens(self, batch: Batch) -> Tensor:
        return self._encoded(batch, 0).unflatten(0, batch["series"].shape[:2]).flatten(1, 2)

    def embed(self, batch: Batch) -> Tensor:
        return self._encoded(batch, batch["series"].shape[2] - 1)[:, 0].unflatten(0, batch["series"].shape[:2]).mean(dim=1)

    def no_weight_decay(self) -> set[str]:
        """What the states are: their matrices must not shrink either."""
        return {name for name, _ in self.named_parameters() if ".ssm.in_" in name or ".ssm.out_" in name}

    def _encoded(self, batch: Batch, first: int) -> Tensor:
        series, observed = batch["series"].flatten(0, 1), batch["observed"].flatten(0, 1)
        return self.encode(self.normalised(series, observed).values, observed, self.config.speed, first)[-1]


def joined(raw: Tensor, official: bool = False) -> Tensor:
    """Patches (R, m + 1, Q, K) of neighbouring positions -> (R, Q, m + K): a whole patch of every K-th position, and the end of the last one's."""
    positions, steps = raw.shape[1], raw.shape[-1]
    whole = raw[:, ::steps].transpose(1, 2).flatten(2)
    rest = positions % steps - 1 if official else (positions - 1) % steps
    return torch.cat([whole, raw[:, -1, :, steps - rest :]], dim=-1) if rest > 0 else whole


def basis(config: FlowStateConfig, steps: int, speed: float, device: torch.device) -> Tensor:
    """(K, n): the basis functions at the steps of a patch, divided by 4."""
    begin, end = RANGES[config.basis]
    t = (begin + torch.arange(1, steps + 1, dtype=torch.float32, device=device) * (speed * (end - begin) / config.patch_length)).clamp(min=begin)
    functions = [torch.ones_like(t)]
    if config.basis == "four":
        for n in range(1, config.basis_dim // 2 + 1):
            functions += [torch.sin(2 * torch.pi * n * t), torch.cos(2 * torch.pi * n * t)]
    else:
        functions += [t]
        for n in range(1, config.basis_dim - 1):
            functions.append(((2 * n + 1) * t * functions[n] - n * functions[n - 1]) / (n + 1))
    return torch.stack(functions[: config.basis_dim], dim=1) / 4
