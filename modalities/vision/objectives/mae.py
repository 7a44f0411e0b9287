"""Pre-training by masked reconstruction of pixels (He et al. 2021, arXiv 2111.06377, section 3), and what others added to it."""

from dataclasses import dataclass, field

from modalities.common.masked_autoencoder import MaskedAutoencoder
from modalities.common.reconstruction import MaskedReconstruction, MaskedReconstructionConfig
from modalities.common.self_distillation import SelfDistillation, SelfDistillationConfig
from modalities.common.terms import Term
from modalities.common.token_optimisation import TokenOptimisation, TokenOptimisationConfig
from modalities.vision.objectives.mimic import Mimic, MimicConfig


@dataclass(frozen=True)
class MAEObjectiveConfig(MaskedReconstructionConfig):
    """The paper's objective: hide 75 % of the patches, predict their normalised pixels. The further terms are off by default."""

    mimic: MimicConfig = field(default_factory=MimicConfig)
    """MR-MAE: visible tokens mimic a frozen teacher."""
    distill_to: SelfDistillationConfig = field(default_factory=SelfDistillationConfig)
    """Self-distilled further pre-training: stay near a teacher that was trained from the same start (`zoo further` runs both stages)."""
    mto_approx: TokenOptimisationConfig = field(default_factory=TokenOptimisationConfig)
    """Our approximation of masked-token optimisation: mask tokens that are told from visible ones early in the decoder."""

    def build(self, model: MaskedAutoencoder) -> MaskedReconstruction:
        """The objective around a model."""
        terms: dict[str, Term] = {}
        if self.mimic.teacher:
            terms["mimic"] = Mimic(self.mimic, model)
        if self.distill_to.teacher:
            terms["distill_to"] = SelfDistillation(self.distill_to, model)
        if self.mto_approx.weight:
            terms["mto_approx"] = TokenOptimisation(self.mto_approx, model)
        return MaskedReconstruction(model, self, terms)
