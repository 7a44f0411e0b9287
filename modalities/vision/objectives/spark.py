"""Pre-training a convolutional network by masked reconstruction (SparK, Tian et al. 2023, arXiv 2301.03580, section 3.3)."""

from dataclasses import dataclass

from torch import Tensor

from modalities.common.reconstruction import MaskedReconstruction, MaskedReconstructionConfig
from modalities.vision.models.spark import SparK, SparKOutput
from trainer.errors import ConfigError
from trainer.objective import Batch


@dataclass(frozen=True)
class SparKObjectiveConfig(MaskedReconstructionConfig):
    """The paper's objective: hide 60 % of the places, predict their normalised pixels."""

    mask_ratio: float = 0.6
    """Share of the places of 32 x 32 pixels hidden from the backbone; the number of visible ones is rounded. Paper: 0.6 (table 6)."""

    def build(self, model: SparK) -> "SparKReconstruction":
        """The objective around a model."""
        return SparKReconstruction(model, self)


class SparKReconstruction(MaskedReconstruction):
    """Loss = sum over the hidden places of their mean squared error / number of hidden places in the batch."""

    model: SparK

    def check(self, model: SparK, config: SparKObjectiveConfig) -> None:
        length = model.config.grid[0] * model.config.grid[1]
        if model.keep_count(config.mask_ratio) == length:
            raise ConfigError(
                f"mask_ratio={config.mask_ratio} hides none of the {length} places of 32 x 32 pixels, so there is nothing to predict. Raise it, or use larger images."
            )

    def predict(self, batch: Batch, noise: Tensor | None) -> SparKOutput:
        return self.model(batch, noise, self.config.mask_ratio)

    def error(self, out: SparKOutput, batch: Batch) -> Tensor:
        return self.loss(out.prediction, self.target(batch), out.masking.mask)

    def loss(self, prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Scalar from prediction and target (B, L, V) and mask (B, L), 1 = hidden."""
        per_patch = (prediction.float() - target.float()).square().mean(dim=-1)  # (B, L)
        return (per_patch * mask).sum() / (mask.sum() + 1e-8)  # 0 where nothing is hidden, as in the official code
