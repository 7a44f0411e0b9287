"""Contrastive learning of series: the embeddings of two views of a series are near, those of different series far apart.

The loss is NT-Xent of SimCLR (Chen et al. 2020, arXiv 2002.05709, equation 1) on a projection that is dropped afterwards; Tang et al. 2020
(arXiv 2011.11542) learn series of sensors so. The views are those of TS2Vec (Yue et al. 2022, arXiv 2106.10466): random crops with masked points.
Its own loss compares each point with those of the same and of other series; the models here embed patches, or a series as a whole.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.time_series.models.forecaster import Forecaster
from trainer.errors import ConfigError, DataError
from trainer.objective import Batch, Losses, Objective
from trainer.randomness import draws_on_device

PROBE = 64
"""Points of the series that tells the width of a model's embedding."""


@dataclass(frozen=True)
class ContrastiveSeriesConfig:
    """What views are, and how they are compared. The models scale each series inside, so that no view changes level or size."""

    temperature: float = 0.1
    """Cosines are divided by it. SimCLR: 0.1 (table 5)."""
    crop: float = 0.5
    """Length of a view, as a share of the series. Views of a history that is shorter are the same piece."""
    hidden: float = 0.2
    """Share of the points of a view that is taken away, in all channels at once. TS2Vec: half, after its first layer."""
    projection: int = 64
    """Width of what is compared. SimCLR: 128, for pictures."""

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.projection < 1:
            raise ConfigError(f"objective.temperature must be above 0 and objective.projection at least 1, found {self.temperature} and {self.projection}.")
        if not 0 < self.crop <= 1 or not 0 <= self.hidden < 1:
            raise ConfigError(f"objective.crop is a share above 0 and at most 1, objective.hidden one of at least 0 and below 1; found {self.crop} and {self.hidden}.")

    def build(self, model: Forecaster) -> "ContrastiveSeries":
        """The objective around a model that embeds series. ConfigError for one that needs covariates or a certain number of channels."""
        return ContrastiveSeries(model, self)


class ContrastiveSeries(Objective):
    """Mean NT-Xent over the views of all series that have values, with `accuracy`, the share of views nearest to their partner.

    The other views are those of the (micro-)batch on this device. What forecasts in the exported model is as it was: fine-tuning trains it.
    """

    def __init__(self, model: Forecaster, config: ContrastiveSeriesConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        width = embedding_width(model)
        self.projector = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.projection))

    def forward(self, batch: Batch) -> Losses:
        views = self.views(batch)
        first, second = views["observed"].flatten(1).any(1).chunk(2)
        projected = self.projector(self.model.embed(views))[(first & second).repeat(2)]
        count = len(projected)
        if not count:
            return Losses(projected.sum(), {"loss": projected.sum().detach(), "accuracy": projected.new_zeros(())}, 0)
        logits, partner = similarities(projected, self.config.temperature)
        loss = F.cross_entropy(logits, partner)
        return Losses(loss, {"loss": loss.detach(), "accuracy": (logits.argmax(1) == partner).float().mean()}, count)

    def views(self, batch: Batch) -> Batch:
        """Two views of each series, first one of all, then the other (2 B, C, n). With `sample_key` (B,) they follow from it, otherwise they are drawn."""
        series, observed = torch.where(batch["observed"], batch["series"], 0.0), batch["observed"]
        count, channels, length = series.shape
        size = max(1, round(length * self.config.crop))
        keys = batch.get("sample_key")
        numbers = torch.rand(count, 2 + 2 * size, device=series.device) if keys is None else draws_on_device(keys, 2 + 2 * size)
        begin = observed.any(1).int().argmax(1).clamp(max=length - size)  # a short history stands at the end
        found: dict[str, list[Tensor]] = {"series": [], "observed": []}
        for place, away in zip(numbers[:, :2].T, numbers[:, 2:].chunk(2, 1)):
            start = begin + (place * (length - size - begin + 1)).long()
            where = (start[:, None] + torch.arange(size, device=series.device))[:, None].expand(-1, channels, -1)
            seen = observed.gather(2, where) & (away >= self.config.hidden)[:, None]
            found["observed"].append(seen)
            found["series"].append(torch.where(seen, series.gather(2, where), 0.0))
        told = {key: batch[key].repeat(2, *[1] * (batch[key].ndim - 1)) for key in ("frequency", "static") if key in batch}
        return {**{key: torch.cat(parts) for key, parts in found.items()}, **told}

    def export(self) -> Forecaster:
        return self.model


def similarities(projected: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Views (2 N, D), the second of each series N rows after the first -> cosines over the temperature (2 N, 2 N), none with itself, and each partner's row (2 N,)."""
    unit = F.normalize(projected.float(), dim=1)
    logits = (unit @ unit.T / temperature).fill_diagonal_(-torch.inf)
    return logits, torch.arange(len(unit), device=unit.device).roll(len(unit) // 2)


@torch.no_grad()
def embedding_width(model: Forecaster) -> int:
    """Width of what `model.embed` says of a series. ConfigError for a model that does not embed one channel alone."""
    training, series = model.training, torch.zeros(1, 1, PROBE, device=model.device)
    try:
        return model.eval().embed({"series": series, "observed": torch.ones_like(series, dtype=torch.bool)}).shape[1]
    except DataError as error:
        raise ConfigError(f"Contrastive learning needs a model that embeds one channel without covariates, and this {type(model).__name__} does not: {error}") from error
    finally:
        model.train(training)
