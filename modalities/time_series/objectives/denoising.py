"""Learning to tell the noise in windows of series, for GPD."""

from dataclasses import dataclass

import torch
from torch import Tensor

from modalities.common.diffusion import STEPS
from modalities.time_series.models.gpd import GPD
from trainer.errors import ConfigError, DataError
from trainer.objective import Batch, Losses, Objective
from trainer.randomness import draws_on_device


@dataclass(frozen=True)
class DenoisingConfig:
    """What counts."""

    clip: float = 10.0
    """Points further from the history's mean than so many of its deviations are limited to that: a jump after a flat history must not drown the batch."""

    def __post_init__(self) -> None:
        if self.clip <= 0:
            raise ConfigError(f"objective.clip must be above 0, found {self.clip}.")

    def build(self, model: GPD) -> "Denoising":
        """The objective around a model."""
        return Denoising(model, self)


class Denoising(Objective):
    """Mean squared error of the noise over the observed points. Batch: as for forecasting, with a target of the model's horizon, and `sample_key` (B,) for the amount of noise."""

    def __init__(self, model: GPD, config: DenoisingConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, batch: Batch) -> Losses:
        windows, seen = self.windows(batch)
        channels = len(windows) // len(batch["series"])
        steps = (draws_on_device(batch["sample_key"], channels) * STEPS).long().flatten()
        noise = torch.randn_like(windows)
        error = (self.model.noise(self.model.noising.noised(windows, steps, noise), steps) - noise).square() * seen
        count = seen.sum()
        return Losses(error.sum() / count.clamp(min=1), count=count)

    def windows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """History and future as windows (B * C, N) on the scale of the history, and what of them was observed."""
        known, seen, loc, scale = self.model.window(batch)
        horizon, context = self.model.config.horizon, self.model.context_length
        if batch["target"].shape[2] != horizon:
            raise DataError(f"GPD learns windows with a future of {horizon} points, found a target of {batch['target'].shape[2]}.")
        future = (batch["target"] - loc) / scale * batch["target_observed"]
        windows = torch.cat([known[..., :context], future], 2).clamp(-self.config.clip, self.config.clip)
        return windows.flatten(0, 1), torch.cat([seen[..., :context], batch["target_observed"]], 2).flatten(0, 1)

    def export(self) -> GPD:
        return self.model
