"""What the auto-encoder of circuits is trained for: to give back the features of pins (Zhong et al. 2024, section 3.2)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch_geometric.data import Batch

from modalities.graph.models.circuit_autoencoder import CircuitAutoEncoder
from trainer.errors import ConfigError
from trainer.objective import Losses, Objective


@dataclass(frozen=True)
class CircuitReconstructionConfig:
    """How the latents are held."""

    kl_weight: float = 0.0
    """Weight of the distance between the latents of a batch and a normal distribution, as the official code measures it."""

    def __post_init__(self) -> None:
        if self.kl_weight < 0:
            raise ConfigError(f"objective.kl_weight must be at least 0, found {self.kl_weight}.")

    def build(self, model: CircuitAutoEncoder) -> "CircuitReconstruction":
        """The objective around a model."""
        return CircuitReconstruction(model, self)


class CircuitReconstruction(Objective):
    """Loss = squared error of the pins of a batch; pins that are not `valid` count as 0, and as pins."""

    def __init__(self, model: CircuitAutoEncoder, config: CircuitReconstructionConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, batch: Batch) -> Losses:
        latent = self.model.latent(batch)
        error = self.error(self.model.decode(batch, latent), batch)
        if not self.config.kl_weight:
            return Losses(error)
        spread = self.divergence(latent)
        return Losses(error + self.config.kl_weight * spread, {"reconstruction": error.detach(), "kl": spread.detach()})

    def error(self, decoded: Tensor, batch: Batch) -> Tensor:
        """Of decoded pins (N, 10)."""
        return over_pins(decoded, batch["x"], batch.get("valid"))

    @staticmethod
    def divergence(latent: Tensor) -> Tensor:
        """Distance of the mean and variance of latents (N, D) from 0 and 1; without the usual factor of one half, as in the official code."""
        variance, mean = torch.var_mean(latent.float(), dim=0)
        return (variance + mean.square() - 1 - variance.log()).mean()

    def export(self) -> CircuitAutoEncoder:
        return self.model


def over_pins(found: Tensor, true: Tensor, *counted: Tensor | None) -> Tensor:
    """Squared error of (N, D), the mean over columns and all pins; those that are 0 in one of `counted` (N,) add nothing."""
    each = (found.float() - true.float()).square().mean(dim=1)
    for share in counted:
        each = each if share is None else each * share
    return each.mean()
