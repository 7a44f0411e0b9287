"""Learning from another model's outputs."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def soft_cross_entropy(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy of the student's logits (B, K) to the teacher's (B, K), both softened, times temperature^2.

    The factor keeps the size of the gradient when the temperature changes (Hinton et al. 2015, arXiv 1503.02531). The mean
    over the batch; no gradient goes to the teacher.
    """
    target = F.softmax(teacher.detach() / temperature, dim=-1)
    return F.cross_entropy(student / temperature, target) * temperature**2


def js_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two softmax outputs, from logits (B, K): KL(p || m) / 2 + KL(q || m) / 2 with m = (p + q) / 2, in nats.

    Between 0 and log 2, the same in both directions (Cui et al. 2021, arXiv 2103.05959). The mean over the batch; no gradient goes to
    the teacher.
    """
    p, q = teacher.detach().log_softmax(dim=-1), student.log_softmax(dim=-1)
    m = torch.logaddexp(p, q) - math.log(2)
    return (F.kl_div(m, p, reduction="batchmean", log_target=True) + F.kl_div(m, q, reduction="batchmean", log_target=True)) / 2
