"""Pre-training by masked reconstruction of pixels (He et al. 2021, arXiv 2111.06377, section 3)."""

from dataclasses import dataclass

from modalities.common.masked_autoencoder import MaskedAutoencoder
from modalities.common.reconstruction import MaskedReconstruction, MaskedReconstructionConfig


@dataclass(frozen=True)
class MAEObjectiveConfig(MaskedReconstructionConfig):
    """The paper's objective: hide 75 % of the patches, predict their normalised pixels."""

    def build(self, model: MaskedAutoencoder) -> MaskedReconstruction:
        """The objective around a model."""
        return MaskedReconstruction(model, self)
