"""GPD, experimental: an unconditional diffusion model of windows of a series, which forecasts by drawing windows whose first part is the history.

A reconstruction from the description of "Generative Pre-Trained Diffusion Paradigm for Zero-Shot Time Series Forecasting" (arXiv 2406.02212), of which no code was found: a
stack of MLP blocks with skips learns the noise in windows, and no part of it is tuned for a task. Sizes, schedule and scaling are our own choice. The history
is kept in either of two ways: it replaces the known part after each step (RePaint, Lugmayr et al. 2022, arXiv 2201.09865), or each step is pulled towards it by a gradient
(DPS, Chung et al. 2022, arXiv 2209.14687). Letters: M windows, N points of a window, W width, S samples.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from modalities.common.diffusion import FREQUENCIES, LEAST, STEPS, Noising, ResidualLayer, cosine_signal, time_code
from modalities.common.linear import Linear
from modalities.time_series.models.forecaster import Forecast, Forecaster, require_series
from modalities.time_series.models.samples import DECILES, forecast_of
from modalities.time_series.models.scaling import scaled, statistics
from trainer.errors import ConfigError
from trainer.objective import Batch
from trainer.randomness import seeded

EPSILON = 1e-5
"""Added to the variance of a history, inside the square root."""


@dataclass(frozen=True)
class GPDConfig:
    """The network, and how it draws forecasts."""

    window: int = 384
    """Points of a window, history and future together."""
    horizon: int = 96
    """Most steps of the future in a window; longer forecasts come by roll-out."""
    width: int = 1024
    """Width of the blocks."""
    depth: int = 8
    """MLP blocks; the first half is joined to the second one by skips."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How noise is added in 1,000 steps: the variance of a step rises from 1e-4 to 0.02, or the cosine of Nichol and Dhariwal."""
    samples: int = 20
    """Futures that are drawn for a forecast."""
    steps: int = 50
    """Steps back from noise, of the 1,000."""
    guidance: Literal["replacement", "gradient"] = "replacement"
    """How the history is kept: put in its place after each step, or by a gradient that pulls towards it."""
    repeats: int = 2
    """Of replacement: how often each step is taken, with noise added again between."""
    pull: float = 1.0
    """Of the gradient: how far each step is pulled."""

    def __post_init__(self) -> None:
        for name in ("window", "horizon", "width", "depth", "samples", "repeats"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, found {getattr(self, name)}.")
        if self.horizon >= self.window or not 2 <= self.steps <= STEPS or self.pull <= 0:
            raise ConfigError(f"GPD needs a horizon below its window of {self.window}, 2 to {STEPS} steps and a pull above 0; found {self.horizon}, {self.steps} and {self.pull}.")


def linear_signal() -> Tensor:
    """What is left of a window's variance after each of STEPS steps, (STEPS,) float64, when the variance of a step rises linearly (Ho et al. 2020, arXiv 2006.11239)."""
    return (1 - torch.linspace(1e-4, 2e-2, STEPS, dtype=torch.float64)).cumprod(0)


class GPD(Forecaster):
    """Input `series` (B, C, T) with `observed`; channels are taken one by one. `forecast` draws samples, always of the same random numbers. `tokens` are what the network makes of the
    newest window without noise, one per channel (B, C, W)."""

    system = "time_series/gpd"
    config_class = GPDConfig
    levels = DECILES

    def __init__(self, config: GPDConfig) -> None:
        super().__init__(config)
        width, half = config.width, config.depth // 2
        self.inlet, self.outlet = Linear(config.window, width), Linear(width, config.window)
        self.time = nn.Sequential(Linear(FREQUENCIES, width), nn.SiLU(), Linear(width, width))
        self.layers = nn.ModuleList(ResidualLayer(width) for _ in range(config.depth))
        self.joins = nn.ModuleList(Linear(2 * width, width) for _ in range(half))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        for layer in (*(part.modulation for part in self.layers), self.outlet):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.noising = Noising(self.signal())

    def signal(self) -> Tensor:
        """What is left of a window's variance after each step."""
        return linear_signal() if self.config.schedule == "linear" else cosine_signal()

    def features(self, window: Tensor, time: Tensor) -> Tensor:
        """Windows (M, N) at steps (M,) -> (M, W)."""
        x, condition, earlier = self.inlet(window), self.time(time_code(time)), []
        for number, layer in enumerate(self.layers):
            later = number - (len(self.layers) - len(self.joins))
            if later >= 0:
                x = self.joins[later](torch.cat([x, earlier.pop()], 1))
            x = layer(x, condition)
            if number < len(self.joins):
                earlier.append(x)
        return self.norm(x)

    def noise(self, window: Tensor, time: Tensor) -> Tensor:
        """The noise in windows (M, N) at steps (M,)."""
        return self.outlet(self.features(window, time))

    @property
    def context_length(self) -> int:
        """What of a window is no horizon; for shorter horizons no more of the past is read."""
        return self.config.window - self.config.horizon

    @property
    def direct_horizon(self) -> int:
        return self.config.horizon

    def direct(self, batch: Batch, horizon: int) -> Forecast:
        known, seen, loc, scale = self.window(batch)
        channels, count = known.shape[1], self.config.samples
        rows = known.flatten(0, 1).repeat_interleave(count, 0), seen.flatten(0, 1).repeat_interleave(count, 0)
        with seeded(0):
            drawn = self.draw(*rows)[:, self.context_length :][:, :horizon]
        samples = drawn.unflatten(0, (-1, channels, count)).transpose(1, 2)  # (B, S, C, H)
        return forecast_of(samples * scale[:, None] + loc[:, None])

    def window(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Windows (B, C, N) of at most `context_length` points of history on its own scale, zeros for the rest, what of them is known, and mean and deviation (B, C, 1)."""
        loc, scale = statistics(batch["series"], batch["observed"], EPSILON)
        place = (self.context_length - batch["series"].shape[2], self.config.horizon)
        known = nn.functional.pad(scaled(batch["series"], batch["observed"], loc, scale), place)
        return known, nn.functional.pad(batch["observed"], place), loc, scale

    def draw(self, known: Tensor, seen: Tensor) -> Tensor:
        """Windows (M, N) that agree with `known` (M, N) where it is `seen` (M, N)."""
        config, signal = self.config, self.signal()
        last = int((signal > LEAST).sum()) - 1
        times = torch.linspace(0, last, config.steps).round().long()
        noising = Noising(signal[times]).to(known.device)
        x = _normal(known)
        for index in reversed(range(config.steps)):
            now, then = (torch.full_like(known[:, 0], step, dtype=torch.long) for step in (index, max(index - 1, 0)))
            time = times.to(known.device)[now]
            for repeat in range(config.repeats if config.guidance == "replacement" and index else 1):
                if repeat:  # one step towards noise again
                    kept = (noising.keep[index] / noising.keep[index - 1]).item()
                    x = kept * x + (1 - kept**2) ** 0.5 * _normal(x)
                before, pull = x, None
                if config.guidance == "gradient":
                    clean, pull = self._pulled(x, now, time, noising, known, seen)
                else:
                    clean = noising.clean(x, now, self.noise(x, time))
                x = noising.mean_back(clean, before, now)
                x = x if index == 0 else x + (noising.log_back[index] / 2).exp() * _normal(x)
                if pull is not None:
                    x = x - config.pull * pull
                else:
                    x = torch.where(seen, known if index == 0 else noising.noised(known, then, _normal(known)), x)
        return torch.where(seen, known, x)

    def _pulled(self, x: Tensor, now: Tensor, time: Tensor, noising: Noising, known: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """The clean windows, and the gradient of their distance from what is known, for each window."""
        with torch.inference_mode(False), torch.enable_grad():
            start = x.detach().clone().requires_grad_()
            clean = noising.clean(start, now.clone(), self.noise(start, time.clone()))
            distance = (((clean - known.clone()) * seen.clone()).square().sum(1) + 1e-12).sqrt()  # at 0 it has no gradient
            (gradient,) = torch.autograd.grad(distance.sum(), start)
        return clean.detach(), gradient

    def tokens(self, batch: Batch) -> Tensor:
        known, *_ = self.window(self._newest(require_series(batch)))
        time = torch.zeros(known.shape[0] * known.shape[1], dtype=torch.long, device=known.device)
        return self.features(known.flatten(0, 1), time).unflatten(0, known.shape[:2])

    def embed(self, batch: Batch) -> Tensor:
        return self.tokens(batch).mean(1)


def _normal(like: Tensor) -> Tensor:
    """Normal numbers that do not depend on the device."""
    return torch.randn(like.shape).to(like)
