"""What objectives of self-distillation share: targets, cross-entropies, a spread of features, masks of blocks.

DINO (Caron et al. 2021, arXiv 2104.14294), iBOT (Zhou et al. 2021, arXiv 2111.07832), DINOv2 (Oquab et al. 2023, arXiv 2304.07193).
Letters: B samples, K prototypes, D width.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def sinkhorn(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Assignments of samples to prototypes, (B, K) -> (B, K): each sample's sum to 1, and all prototypes are used about equally.

    Sinkhorn-Knopp as in SwAV (Caron et al. 2020, arXiv 2006.09882), over the samples of all processes; in logarithms, so that no
    prototype is lost to rounding, however far away it is.
    """
    found = logits.float() / temperature
    samples = _over_processes(torch.tensor(float(len(logits)), device=logits.device)).log()
    for _ in range(iterations):
        found = found - (_log_sum_of_samples(found) + math.log(logits.shape[1]))
        found = found - (found.logsumexp(dim=1, keepdim=True) + samples)
    return (found + samples).exp()


def soften(logits: Tensor, temperature: float) -> Tensor:
    """Another network's logits (B, K) as a target, without gradient."""
    return F.softmax(logits.detach() / temperature, dim=-1)


def cross_entropy(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Of logits (B, K), softened, to shares (B, K): (B,)."""
    return -(target * F.log_softmax(logits / temperature, dim=-1)).sum(dim=-1)


def spread(features: Tensor, eps: float = 1e-8) -> Tensor:
    """KoLeo (Sablayrolles et al. 2018, arXiv 1806.03198): minus the mean logarithm of the distance to the nearest other sample, for (B, D).

    It is small when the directions of the features lie evenly apart. The samples are those of one process.
    """
    with torch.autocast(features.device.type, enabled=False):
        features = F.normalize(features.float(), dim=-1, eps=eps)
        similar = (features @ features.T).detach().fill_diagonal_(-1.0)
        nearest = features[similar.argmax(dim=1)]
        return -torch.log(F.pairwise_distance(features, nearest, eps=eps) + eps).mean()


def _log_sum_of_samples(x: Tensor) -> Tensor:
    """log of the sum of exp(x) over all samples of all processes, (B, K) -> (K,); a process may have none."""
    largest = x.amax(dim=0) if len(x) else x.new_full(x.shape[1:], -torch.inf)
    largest = _over_processes(largest, dist.ReduceOp.MAX)
    return largest + _over_processes((x - largest).exp().sum(dim=0)).log()


def _over_processes(value: Tensor, operation: dist.ReduceOp = dist.ReduceOp.SUM) -> Tensor:
    """A sum, or another reduction, over all processes; the value itself where there is one."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        value = value.clone()
        dist.all_reduce(value, operation)
    return value
