"""The mean and deviation of a series, of what was observed. Each system names its own epsilon: it is part of what a paper computes."""

from torch import Tensor


def statistics(series: Tensor, observed: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Mean and deviation (population, `epsilon` added to the variance) of the observed points of (B, C, T), two of (B, C, 1).

    Of a series without any: 0 and sqrt(epsilon).
    """
    count = observed.sum(2, keepdim=True).clamp(min=1)
    loc = (series * observed).sum(2, keepdim=True) / count
    variance = ((series - loc) * observed).square().sum(2, keepdim=True) / count
    return loc, (variance + epsilon).sqrt()


def scaled(series: Tensor, observed: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """The series with mean 0 and deviation 1; a missing point is the mean."""
    return (series - loc) * observed / scale
