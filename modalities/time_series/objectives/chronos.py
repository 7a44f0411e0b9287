"""What Chronos-Bolt and Chronos-2 minimise: twice the quantile loss on the normalised scale, reduced as their official code does it."""

from dataclasses import dataclass

import torch
from torch import nn

from modalities.time_series.models.chronos_bolt import ChronosBolt
from modalities.time_series.models.chronos_parts import pinball
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
        said, target, observed = (x.flatten(0, 1) for x in (terms.quantiles.transpose(1, 2), terms.target, terms.observed))
        levels = torch.tensor(terms.levels, device=said.device)
        error = pinball(said, target.masked_fill(~observed, 0.0), levels) * observed[:, None]
        loss = error.mean(dim=1).sum(dim=-1).mean()
        return Losses(loss, {"pinball": loss.detach()})

    def export(self) -> nn.Module:
        return self.model
