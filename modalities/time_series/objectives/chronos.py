"""What Chronos-Bolt and Chronos-2 minimise: twice the quantile loss on the normalised scale, reduced as their official code does it."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from modalities.time_series.models.chronos2 import Chronos2
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


@dataclass(frozen=True)
class Chronos2LossConfig:
    """Chronos-2's loss. It has no options."""

    def build(self, model: Chronos2) -> "Chronos2Loss":
        """The objective around a model."""
        return Chronos2Loss(model)


class Chronos2Loss(Objective):
    """Mean over the steps of whole patches, sum over the levels, mean over all channels. Missing truth counts as no error.

    Covariates are not forecast here, so they take no part in the mean; the official code counts them, with no error, among the rows.
    """

    def __init__(self, model: Chronos2) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Losses:
        terms = self.model.loss_terms(batch)
        padding = -terms.target.shape[-1] % self.model.config.patch_size
        said, target, observed = (F.pad(x, (0, padding)) for x in (terms.quantiles.transpose(1, 2), terms.target, terms.observed))
        loss = over_patches(said.flatten(0, 1), target.flatten(0, 1), observed.flatten(0, 1), terms.levels)
        return Losses(loss, {"pinball": loss.detach()})

    def export(self) -> nn.Module:
        return self.model


def over_patches(said: Tensor, target: Tensor, counts: Tensor, levels: tuple[float, ...]) -> Tensor:
    """Loss of quantiles (R, Q, F) against (R, up to F), of which those count that `counts` says; the mean is over all F steps."""
    steps = target.shape[-1]
    target = target.masked_fill(~counts, 0.0)
    error = 2 * pinball(said[:, :, None, :steps], target[:, None], levels)[:, :, 0] * counts[:, None]  # (R, Q, up to F)
    return error.sum(dim=-1).div(said.shape[-1]).sum(dim=-1).mean()
