"""Further pre-training that remembers where it came from (Lee et al., ICLR 2023, arXiv 2210.02871).

A model continues its pre-training on a small target set and becomes the teacher; the student begins again from the same start and
continues in the same way, while its hidden states of the whole input stay near the teacher's. Alone, the second would over-fit.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from modalities.common import pretrained
from modalities.common.model import Model
from modalities.common.terms import Term, require_term
from trainer.errors import ModelError
from trainer.frozen import Frozen
from trainer.objective import Batch


@dataclass(frozen=True)
class SelfDistillationConfig:
    """Which further pre-trained model the encoder stays near."""

    teacher: str = ""
    """A model of the same architecture that was trained from the same start: a run, folder, name or Hub id. Empty: no self-distillation."""
    weight: float = 1.0
    """Of this loss, beside the pre-training's. Paper: 1."""

    def __post_init__(self) -> None:
        require_term(self, "distill_to", "teacher")


class SelfDistillation(Term):
    """Mean squared difference of the student's and the teacher's tokens of the whole, unmasked input.

    For any model whose `tokens(batch)` are its encoder's hidden states. The mean is over samples, tokens and channels (ours: the paper
    gives a squared norm).
    """

    def __init__(self, config: SelfDistillationConfig, model: Model) -> None:
        super().__init__(config.weight)
        teacher = pretrained.load(config.teacher)
        own, found = ({name: tuple(p.shape) for name, p in m.state_dict().items()} for m in (model, teacher))
        if type(teacher) is not type(model) or own != found:
            raise ModelError(
                f"distill_to.teacher must be of the student's architecture, a {type(model).__name__} with the same sizes; {config.teacher} is "
                f"a {type(teacher).__name__}{'' if type(teacher) is not type(model) else ' of other sizes'}."
            )
        self.teacher = Frozen(teacher)

    def forward(self, model: Model, batch: Batch, out: Any) -> Tensor:
        said = model.tokens(batch).float()
        with torch.no_grad():
            target = self.teacher.on(said.device).tokens(batch).float()
        return F.mse_loss(said, target)
