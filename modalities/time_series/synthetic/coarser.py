"""Generated series at coarser rates, each with the token of its rate."""

from functools import lru_cache

import numpy as np

from modalities.time_series.down_sampling import step_means
from modalities.time_series.frequency import TOKENS, UNKNOWN, coarser, token
from modalities.time_series.synthetic.draws import Paths, Rng, some

FACTORS = (2, 3, 4, 5, 6, 7, 10, 12, 15, 24, 30, 60)
"""Steps that may become one."""


@lru_cache(maxsize=1)
def coarse_tokens() -> np.ndarray:
    """(tokens, FACTORS): the token of an interval made so many times longer, `UNKNOWN` where it has none."""
    table = np.full((len(TOKENS), len(FACTORS)), UNKNOWN)
    for name, number in TOKENS.items():
        if number != UNKNOWN:
            table[number] = [token(coarser(name, factor)) for factor in FACTORS]
    return table


def some_coarser(rng: Rng, share: float, paths: Paths, least: int) -> tuple[Paths, np.ndarray]:
    """The series (n, T), a share of them down-sampled to at least `least` points, and where each begins, (n,): those are at the end of a row, zeros before them.

    A series whose interval is known is down-sampled to one that has a token, and stays as it is where there is none; one whose interval
    is not known by any of `FACTORS`.
    """
    count, length = paths.values.shape
    possible = (np.array(FACTORS) <= length // least) & ((coarse_tokens()[paths.token] != UNKNOWN) | (paths.token == UNKNOWN)[:, None])
    possible &= some(rng, share, count)[:, None]
    place = np.where(possible, rng.random(possible.shape), -1.0).argmax(1)
    chosen = possible.any(1)
    values, tokens, begin = paths.values.copy(), paths.token.copy(), np.zeros(count, np.int64)
    tokens[chosen] = coarse_tokens()[tokens[chosen], place[chosen]]
    for number, factor in enumerate(FACTORS):
        rows = np.flatnonzero(chosen & (place == number))
        first = length - length // factor
        begin[rows] = first
        values[rows, :first] = 0
        values[rows, first:] = step_means(paths.values[rows], factor)
    return Paths(values, tokens), begin
