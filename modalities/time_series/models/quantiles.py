"""Quantiles of forecasts of forecasts, as Chronos-2's roll-out makes them."""

from collections.abc import Sequence

import torch
from torch import Tensor


def masses(levels: Sequence[float]) -> Tensor:
    """Share of the probability that each level stands for: half of the distance between its neighbours, 0 and 1 being the outermost."""
    ends = torch.tensor([0.0, *levels, 1.0])
    found = (ends[2:] - ends[:-2]) / 2
    return found / found.sum()


def weighted_quantiles(samples: Tensor, weights: Tensor, levels: Sequence[float]) -> Tensor:
    """(R, S, H) with the weight of each sample (S,) -> (R, Q, H).

    Linear between the sorted samples, each at the sum of the weights up to it; the smallest below its own weight.
    """
    values, order = samples.float().transpose(1, 2).sort(dim=-1)  # (R, H, S)
    reached = (weights / weights.sum())[order].cumsum(dim=-1).clamp(max=1.0)
    asked = torch.tensor(levels, device=samples.device).expand(*values.shape[:2], -1).contiguous()
    above = torch.searchsorted(reached, asked, right=True).clamp(max=values.shape[-1] - 1)
    below = (above - 1).clamp(min=0)
    low, high, first, last = (x.gather(-1, i) for x in (reached, values) for i in (below, above))
    share = ((asked - low) / (high - low)).clamp(0.0, 1.0).where(above > below, 0.0)
    return torch.lerp(first, last, share).transpose(1, 2)


def spread(x: Tensor, paths: int) -> Tensor:
    """(R, L) -> (R paths, L): each row so many times, one after the other."""
    return x.repeat_interleave(paths, dim=0)
