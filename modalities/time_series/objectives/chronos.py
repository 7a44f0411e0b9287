"""What Chronos-Bolt and Chronos-2 minimise: twice the quantile loss on the normalised scale, reduced as their official code does it."""

from dataclasses import dataclass

from torch import nn

from modalities.time_series.models.chronos_bolt import ChronosBolt
from modalities.time_series.objectives.forecasting import pinball
from trainer.objective import Batch, Losses, Objective


@dataclass(frozen=True)
class ChronosBoltLossConfig:
    """Chronos-Bolt's loss. It has no options."""

    def build(self, model: ChronosBolt) -> "ChronosBoltLoss":
        """The objective around a model."""
        return ChronosBoltLoss(model)


class ChronosBoltLoss(Objective):
    """Mean over the levels, sum over the steps, mean over all series. Missing truth counts as no error, not as a smaller mean."""

    def __init__(self, model: ChronosBolt) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Losses:
        terms = self.model.loss_terms(batch)
        target = terms.target.masked_fill(~terms.observed, 0.0)
        error = 2 * pinball(terms.quantiles, target, terms.levels) * terms.observed[:, None]  # (B, Q, C, H)
        loss = error.mean(dim=1).sum(dim=-1).mean()
        return Losses(loss, {"pinball": loss.detach()})

    def export(self) -> nn.Module:
        return self.model
