"""What Time-MoE minimises: the Huber error of every head at every point, and the balance of its experts (Shi et al. 2025, section 3.2)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.time_series.models.time_moe import Decoded, TimeMoE
from trainer.errors import ConfigError
from trainer.objective import Batch, Losses, Objective


@dataclass(frozen=True)
class TimeMoELossConfig:
    """Time-MoE's loss."""

    balance: float = 0.02
    """Weight of the experts' balance; 0 leaves it out. Without effect for a dense model."""
    delta: float = 2.0
    """Error from which the Huber loss is linear."""
    standardise: bool = True
    """Take mean and deviation out of each window. False: the data is standardised already."""

    def __post_init__(self) -> None:
        if self.balance < 0 or self.delta <= 0:
            raise ConfigError(f"TimeMoELossConfig: balance must be at least 0 and delta above 0, found {self.balance} and {self.delta}.")

    def build(self, model: TimeMoE) -> "TimeMoELoss":
        """The objective around a model."""
        return TimeMoELoss(model, self)


class TimeMoELoss(Objective):
    """Past and target of a batch are one sequence, of which every point is asked for what comes next."""

    def __init__(self, model: TimeMoE, config: TimeMoELossConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, batch: Batch) -> Losses:
        whole = {
            "series": torch.cat([batch["series"], batch["target"].masked_fill(~batch["target_observed"], 0.0)], dim=2),
            "observed": torch.cat([batch["observed"], batch["target_observed"]], dim=2),
        }
        values, real, mean, deviation = self.model.standardised(whole)
        if not self.config.standardise:
            values = values * deviation + mean
        counts = whole["observed"].flatten(0, 1)[:, 1:].float()
        padding = None if real.all() else real[:, :-1]
        return self.of_sequence(values[:, :-1], values[:, 1:], counts, padding)

    def of_sequence(self, values: Tensor, following: Tensor, counts: Tensor | None = None, real: Tensor | None = None) -> Losses:
        """Sequences (R, L) on the network's scale and what follows each of their points.

        `counts` (R, L) is 0 where the truth must not count; None: all counts, and so do the zeros behind the end of a sequence (as the official code
        has it). `real` (R, L) is False at padding.
        """
        decoded = self.model.decode(values, real)
        errors = [self._error(head(decoded.hidden), following, counts) for head in self.model.heads]
        error = torch.stack(errors).mean()
        parts = {"huber": error.detach()}
        balance = balance_of(decoded, self.model.config.chosen, real)
        if balance is not None:
            parts["balance"] = balance.detach()
            error = error + self.config.balance * balance
        return Losses(error, parts)

    def _error(self, found: Tensor, following: Tensor, counts: Tensor | None) -> Tensor:
        """Mean error of a head's answers (R, L, h)."""
        horizon = found.shape[-1]
        errors = F.huber_loss(found.float(), windows(following.float(), horizon), reduction="none", delta=self.config.delta)
        if counts is None:
            return errors.mean()
        weight = windows(counts.float(), horizon)
        return (errors * weight).sum() / weight.sum().clamp(min=1)

    def export(self) -> nn.Module:
        return self.model


def windows(x: Tensor, horizon: int) -> Tensor:
    """(R, L) -> (R, L, h): each point with those after it, zeros behind the end."""
    return F.pad(x, (0, horizon - 1)).unfold(1, horizon, 1)


def balance_of(decoded: Decoded, chosen: int, real: Tensor | None = None) -> Tensor | None:
    """How unevenly tokens go to experts, over all layers together; 1 for each chosen expert where it is even. None for a dense model.

    From the Switch transformer (Fedus et al. 2021, arXiv 2101.03961, equations 4 to 6). Points where `real` (R, L) is False do not count.
    """
    if not decoded.routes:
        return None
    shares = torch.cat(decoded.routes).float().softmax(dim=-1)
    weight = shares.new_ones(len(shares)) if real is None else real.flatten().repeat(len(decoded.routes)).float()
    picked = F.one_hot(shares.topk(chosen, dim=-1).indices, shares.shape[-1]).float().sum(dim=1)
    taken, probable = (torch.einsum("n,ne->e", weight, x) / weight.sum() for x in (picked, shares))
    return shares.shape[-1] * (taken * probable).sum()
