"""Distances between graphons: entropic Gromov-Wasserstein with gradients (torch), and Gromov-Wasserstein by conditional gradient (POT)."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from trainer.errors import ConfigError, MissingDependencyError

Loss = Literal["kl", "square"]
SMALLEST = 1e-8
"""Added to weights before their logarithm."""
CHECK_EVERY = 10
"""Outer iterations between two looks at how much the plan changes."""


@dataclass(frozen=True)
class EntropicConfig:
    """Precision of the entropic distance; the defaults are those of W2PGNN's code."""

    epsilon: float = 1e-5
    """Weight of the entropy."""
    iterations: int = 100
    """Renewals of the plan, at most."""
    tolerance: float = 1e-6
    """Change of the plan (norm) below which it is done."""
    sinkhorn_iterations: int = 100
    """Steps of Sinkhorn for each plan, at most."""
    sinkhorn_tolerance: float = 0.1
    """Change of the potentials (sum) below which Sinkhorn is done. So large a one leaves plans that need not keep to their weights, and losses that can be negative."""

    def __post_init__(self) -> None:
        if min(self.epsilon, self.tolerance, self.sinkhorn_tolerance) <= 0 or min(self.iterations, self.sinkhorn_iterations) < 1:
            raise ConfigError(f"epsilon and the tolerances of the entropic distance must be above 0, its iterations at least 1, found {self}.")


def uniform(matrix: Tensor) -> Tensor:
    """Equal weights (N,) for the rows of a matrix."""
    return matrix.new_full((len(matrix),), 1 / len(matrix))


def entropic_gw(first: Tensor, second: Tensor, config: EntropicConfig = EntropicConfig()) -> Tensor:
    """Entropic Gromov-Wasserstein distance (), with half the square as loss, of two graphons (N, N) and (M, M) with equal weights.

    The gradient goes through all steps of Sinkhorn. The plan starts at the product of the weights.
    """
    p, q = uniform(first), uniform(second)
    constant = (first.square() / 2 @ p)[:, None] + (second.square() / 2 @ q)[None]
    plan = torch.outer(p, q)
    for number in range(config.iterations):
        last, plan = plan, sinkhorn(2 * (constant - first @ plan @ second.T), p, q, config)
        if number % CHECK_EVERY == 0 and float((plan - last).detach().norm()) < config.tolerance:
            break
    return ((constant - first @ plan @ second.T) * plan).sum()


def sinkhorn(cost: Tensor, p: Tensor, q: Tensor, config: EntropicConfig) -> Tensor:
    """Entropic transport plan (N, M) between weights `p` and `q`, computed with logarithms."""
    u, v = torch.zeros_like(p), torch.zeros_like(q)
    log_p, log_q, epsilon = (p + SMALLEST).log(), (q + SMALLEST).log(), config.epsilon
    scaled = lambda: (u[:, None] + v[None] - cost) / epsilon  # noqa: E731
    for _ in range(config.sinkhorn_iterations):
        last = torch.cat([u, v])
        u = epsilon * (log_p - scaled().logsumexp(dim=1)) + u
        v = epsilon * (log_q - scaled().logsumexp(dim=0)) + v
        if float((torch.cat([u, v]) - last).detach().abs().sum()) < config.sinkhorn_tolerance:
            break
    return scaled().exp()


def gromov_wasserstein(first: np.ndarray, second: np.ndarray, loss: Loss = "kl") -> float:
    """Root of the Gromov-Wasserstein distance of two graphons (N, N) and (M, M) with equal weights: a local optimum, found by conditional gradient from the product of the weights.

    `kl` is not symmetric, and becomes large where `second` has zeros. MissingDependencyError without POT.
    """
    try:
        from ot.gromov import gromov_wasserstein2
    except ImportError as error:
        raise MissingDependencyError("Distances of graphons need the library POT: pip install 'modality-zoo[graph]'.") from error
    p, q = (np.full(len(m), 1 / len(m)) for m in (first, second))
    squared = gromov_wasserstein2(np.asarray(first, np.float64), np.asarray(second, np.float64), p, q, loss_fun=f"{loss}_loss")
    return math.sqrt(max(float(squared), 0.0))
