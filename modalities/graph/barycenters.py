"""Graphons as Gromov-Wasserstein barycentres of graphs (Xu et al., Learning Graphons via Structured Gromov-Wasserstein Barycenters, AAAI 2021).

Of the four methods the fused ones (F) also move nodes by their degrees, and the smoothed ones (S) let the result bend little. They
compute what the authors' public code (HongtengXu/SGWB-Graphon, MIT licence) computes, which W2PGNN took over; its numbers of iterations are W2PGNN's.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.errors import ConfigError

BARYCENTERS = ("GWB", "FGWB", "SGWB", "SFGWB")
"""Methods of this family."""
FUSED, SMOOTHED = ("FGWB", "SFGWB"), ("SGWB", "SFGWB")
LEAST_SHARE = 1e-3
"""Added to the weight of each step."""
LEAST_PRIOR = 1e-16
"""Added to the plans that later plans are kept near to."""


@dataclass(frozen=True)
class BarycenterConfig:
    """How a barycentre is computed."""

    outer_iterations: int = 3
    """GWB, FGWB, SGWB, SFGWB: how often the barycentre is renewed."""
    inner_iterations: int = 5
    """GWB, FGWB, SGWB, SFGWB: Sinkhorn steps for each plan."""
    beta: float = 5e-3
    """GWB, FGWB, SGWB, SFGWB: softness of the plans."""
    edge_share: float = 0.5
    """FGWB, SFGWB: weight of the edges in the cost of moving a node; the rest is that of the degrees."""
    bending: float = 3e-4
    """SGWB, SFGWB: weight of the second differences of the steps."""

    def __post_init__(self) -> None:
        if min(self.outer_iterations, self.inner_iterations) < 1:
            raise ConfigError(f"outer_iterations and inner_iterations must be at least 1, found {self.outer_iterations} and {self.inner_iterations}.")
        if not 0 < self.beta < math.inf or not 0 <= self.edge_share <= 1 or not 0 <= self.bending < math.inf:
            raise ConfigError(f"beta must be above 0, edge_share between 0 and 1 and bending at least 0, found {self.beta}, {self.edge_share} and {self.bending}.")


def barycenter(aligned: Sequence[tuple[np.ndarray, np.ndarray]], steps: int, method: str = "FGWB", config: BarycenterConfig = BarycenterConfig()) -> np.ndarray:
    """The step function (steps, steps) in 0..1 that is nearest to graphs given as (adjacency (N, N), shares of degrees (N,), falling)."""
    p = shares([degrees for _, degrees in aligned], steps)
    edge_share = config.edge_share if method in FUSED else 1.0
    renew = smoothing(p, config.bending) if method in SMOOTHED else lambda moved: moved / np.outer(p, p)
    by_degree = [scaled((p[:, None] - degrees[None]) ** 2) for _, degrees in aligned]
    priors = [transport(cost, p, degrees, np.ones_like(cost), config) for cost, (_, degrees) in zip(by_degree, aligned)]
    plans, result = priors, np.zeros((steps, steps))
    for number in range(config.outer_iterations):
        if number:
            plans = [
                transport(scaled(edge_share * _edge_cost(result, p, matrix, degrees, plan) + (1 - edge_share) * cost), p, degrees, prior + LEAST_PRIOR, config)
                for (matrix, degrees), cost, prior, plan in zip(aligned, by_degree, priors, plans)
            ]
        result = renew(sum(plan @ matrix @ plan.T for plan, (matrix, _) in zip(plans, aligned)) / len(aligned))
    return np.clip(result, 0, 1)


def smoothing(p: np.ndarray, bending: float) -> Callable[[np.ndarray], np.ndarray]:
    """Function from the moved adjacency (K, K) to the smoothed steps (K, K), whose weights are `p` (K,).

    With U S U' the decomposition of `bending` times the squared second differences, it is the sum of X A X' for X = U diag(S / (S^2 + p^2)) U' and
    X = diag(p / (S^2 + p^2)). As in the code of the authors S is in falling order, whatever the order of the steps.
    """
    differences = np.diff(np.eye(len(p)), 2, axis=0)
    basis, values, _ = np.linalg.svd(bending * differences.T @ differences)
    both = values**2 + p**2
    bent, own = basis @ np.diag(values / both) @ basis.T, np.diag(p / both)
    return lambda moved: bent @ moved @ bent.T + own @ moved @ own.T


def shares(degrees: Sequence[np.ndarray], steps: int) -> np.ndarray:
    """Weights of the steps, (steps,): the falling shares of degrees of all graphs, stretched to one length and averaged."""
    places = np.linspace(0, 1, steps)
    mean = np.mean([np.interp(places, np.linspace(0, 1, len(own)), own) for own in degrees], axis=0) + LEAST_SHARE
    return mean / mean.sum()


def scaled(cost: np.ndarray) -> np.ndarray:
    """A cost with 1 as its largest value."""
    return cost / max(float(cost.max()), 1e-300)


def transport(cost: np.ndarray, p: np.ndarray, q: np.ndarray, prior: np.ndarray, config: BarycenterConfig) -> np.ndarray:
    """Plan (K, N) between weights `p` and `q` near to `prior`, by a few steps of Sinkhorn."""
    kernel = np.exp(-cost / config.beta) * prior
    a = np.ones_like(p)
    b = np.ones_like(q)
    for _ in range(config.inner_iterations):
        b = q / np.maximum(kernel.T @ a, 1e-300)
        a = p / np.maximum(kernel @ b, 1e-300)
    return a[:, None] * kernel * b


def _edge_cost(steps: np.ndarray, p: np.ndarray, matrix: np.ndarray, q: np.ndarray, plan: np.ndarray) -> np.ndarray:
    return (steps**2 @ p)[:, None] + (matrix**2 @ q)[None] - 2 * steps @ plan @ matrix.T
