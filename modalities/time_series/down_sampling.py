"""Series as they would have been with longer steps: augmentation that comes with a frequency of its own.

Tiny Time Mixers (Ekambaram et al. 2024, arXiv 2401.03955) are trained on each set also at coarser rates, with the token of that rate; FlowState (Graf et
al. 2025, arXiv 2508.05287) with the speed that belongs to it. Here the points of a longer step are replaced by their mean.
"""

from dataclasses import replace

import numpy as np

from modalities.time_series.frequency import coarser
from modalities.time_series.series import Item


def step_means(values: np.ndarray, factor: int) -> np.ndarray:
    """(..., T) -> (..., T // factor): means over `factor` steps, aligned to the end; NaN, which is missing, does not count, and is all that comes of nothing else."""
    count = values.shape[-1] // factor
    steps = values[..., values.shape[-1] - count * factor :].reshape(*values.shape[:-1], count, factor)
    known = ~np.isnan(steps)
    total, number = np.where(known, steps, 0).sum(-1), known.sum(-1)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan).astype(values.dtype)


def down_sampled(item: Item, factor: int, end: int) -> Item:
    """The first `end` points of a series with steps `factor` times as long, with its covariates, times (of the beginnings of steps) and frequency."""
    first = end % factor
    covariates = {key: getattr(item, key) for key in ("past_covariates", "future_covariates")}
    return replace(
        item,
        values=step_means(item.values[:, :end], factor),
        times=None if item.times is None else item.times[first:end:factor],
        frequency=None if item.frequency is None else coarser(item.frequency, factor),
        **{key: None if values is None else step_means(values[:, :end], factor) for key, values in covariates.items()},
    )
