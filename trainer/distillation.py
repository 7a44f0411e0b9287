"""Learning from another model's outputs."""

from torch import Tensor
from torch.nn import functional as F


def soft_cross_entropy(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of the student's logits (B, K) to the teacher's (B, K), both softened, times temperature^2.

    The factor keeps the size of the gradient when the temperature changes (Hinton et al. 2015, arXiv 1503.02531). The mean
    over the batch; no gradient goes to the teacher.
    """
    target = F.softmax(teacher.detach() / temperature, dim=-1)
    return F.cross_entropy(student / temperature, target) * temperature**2
