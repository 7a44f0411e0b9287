"""KernelSynth: paths of Gaussian processes with random kernels (Chronos, Ansari et al. 2024, arXiv 2403.07815, appendix A.2).

A kernel is one to five of the bank, joined by + or * from the left. All of them are functions of the distance, but for the linear one, s^2 + x x'.
So any sum or product of them is a polynomial in x x' whose coefficients are functions of the distance: one vector per power, and the matrix
is made once. It is factorised once, too, and several paths are drawn with the factor, since that is what the time goes into.
"""

from collections.abc import Callable

import numpy as np

from modalities.time_series.synthetic.draws import Paths, Rng

GRID = 1024
"""Points of a path: periods of the bank are in units of 1/GRID."""
PERIODS = (24, 48, 96, 168, 336, 672, 7, 14, 30, 60, 365, 730, 4, 26, 52, 4, 6, 12, 4, 40, 10)
"""Of the periodic kernels, in steps. What is there twice is drawn twice as often, as in the reference."""
MOST = 5
"""Kernels that are joined, at most."""
PER_KERNEL = 32
"""Paths that are drawn of a kernel."""
SHAKE = (1e-6, 1e-5, 1e-4, 1e-3)
"""Added to the diagonal, relative to its mean, until the matrix can be factorised."""

Kernel = dict[int, np.ndarray]
"""Power of x x' -> its coefficient by distance in steps, (points,)."""


def bank(points: int) -> list[Callable[[], Kernel]]:
    """The 33 kernels, as functions of the distance in steps of 1 / (points - 1)."""
    away = np.arange(points) / (points - 1)
    one = np.ones(points)

    def periodic(period: float) -> Kernel:
        return {0: np.exp(-2 * np.sin(np.pi * away / (period / points)) ** 2)}

    def linear(offset: float) -> Kernel:
        return {0: offset**2 * one, 1: one}

    def smooth(scale: float) -> Kernel:
        return {0: np.exp(-0.5 * (away / scale) ** 2)}

    def rational(mixture: float) -> Kernel:
        return {0: (1 + away**2 / (2 * mixture)) ** -mixture}

    def white(variance: float) -> Kernel:
        return {0: np.where(away == 0, variance, 0.0)}

    kinds = [(periodic, PERIODS), (linear, (0, 1, 10)), (smooth, (0.1, 1, 10)), (rational, (0.1, 1, 10)), (white, (0.1, 1)), (lambda value: {0: value * one}, (1,))]
    return [lambda kind=kind, value=value: kind(value) for kind, values in kinds for value in values]


def random_kernel(rng: Rng, points: int) -> Kernel:
    """One to MOST kernels of the bank, joined by + or * with equal chances."""
    known = bank(points)
    kernel = known[rng.integers(len(known))]()
    for _ in range(rng.integers(MOST)):
        other = known[rng.integers(len(known))]()
        kernel = added(kernel, other) if rng.random() < 0.5 else multiplied(kernel, other)
    return kernel


def added(a: Kernel, b: Kernel) -> Kernel:
    """The sum of two kernels."""
    return {power: a.get(power, 0) + b.get(power, 0) for power in a.keys() | b.keys()}


def multiplied(a: Kernel, b: Kernel) -> Kernel:
    """The product of two kernels."""
    product: Kernel = {}
    for power, by_distance in a.items():
        for other, factor in b.items():
            product[power + other] = product.get(power + other, 0) + by_distance * factor
    return product


def covariance(kernel: Kernel) -> np.ndarray:
    """The matrix (points, points) of a kernel on the grid 0 .. 1."""
    points = len(next(iter(kernel.values())))
    x = np.linspace(0, 1, points)
    matrix = np.zeros((points, points))
    for power, by_distance in kernel.items():
        mirrored = np.concatenate([by_distance[:0:-1], by_distance])  # row i of the Toeplitz matrix begins at points - 1 - i
        toeplitz = np.lib.stride_tricks.as_strided(mirrored[points - 1 :], (points, points), (-mirrored.strides[0], mirrored.strides[0]), writeable=False)
        scale = x**power
        matrix += toeplitz if power == 0 else (scale[:, None] * toeplitz) * scale
    return matrix


def factor(matrix: np.ndarray) -> np.ndarray:
    """A lower triangular factor of a covariance (points, points), float32; the diagonal is raised as little as that needs."""
    scale = max(float(np.trace(matrix)) / len(matrix), 1e-12)
    diagonal = np.einsum("ii->i", matrix)
    for shake in SHAKE:
        diagonal += shake * scale
        try:
            return np.linalg.cholesky(matrix).astype(np.float32)
        except np.linalg.LinAlgError:
            continue
    values, vectors = np.linalg.eigh(matrix)  # never needed so far: rounding alone makes these matrices indefinite
    return (vectors * np.sqrt(np.maximum(values, 0))).astype(np.float32)


def kernel_synth(rng: Rng, count: int, length: int) -> Paths:
    """(count, length) paths, up to PER_KERNEL of each kernel, each a random piece where `length` is less than GRID."""
    points = max(GRID, length)
    paths = []
    for begun in range(0, count, PER_KERNEL):
        some = min(PER_KERNEL, count - begun)
        root = factor(covariance(random_kernel(rng, points)))
        paths.append(rng.standard_normal((some, points), np.float32) @ root.T)
    values = np.concatenate(paths)
    begins = rng.integers(0, points - length + 1, count)
    return Paths.untimed(np.take_along_axis(values, begins[:, None] + np.arange(length), 1))
