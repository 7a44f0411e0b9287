"""Graphons as Gromov-Wasserstein barycentres of graphs (Xu et al., Learning Graphons via Structured Gromov-Wasserstein Barycenters, AAAI 2021), as W2PGNN has them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BARYCENTERS = ("GWB", "FGWB")
"""Methods of this family: the second also moves nodes by their degrees."""
LEAST_SHARE = 1e-3
"""Added to the weight of each step."""
LEAST_PRIOR = 1e-16
"""Added to the plans that later plans are kept near to."""


@dataclass(frozen=True)
class BarycenterConfig:
    """How a barycentre is computed."""

    fused: bool = True
    """Add the difference of degrees to the cost of moving a node, with the same weight as the edges."""
    outer_iterations: int = 3
    """How often the barycentre is renewed."""
    inner_iterations: int = 5
    """Sinkhorn steps for each plan."""
    beta: float = 5e-3
    """Softness of the plans."""


def barycenter(aligned: Sequence[tuple[np.ndarray, np.ndarray]], steps: int, config: BarycenterConfig = BarycenterConfig()) -> np.ndarray:
    """The step function (steps, steps) in 0..1 that is nearest to graphs given as (adjacency (N, N), shares of degrees (N,), falling)."""
    p = shares([degrees for _, degrees in aligned], steps)
    by_degree = [scaled((p[:, None] - degrees[None]) ** 2) for _, degrees in aligned]
    priors = [transport(cost, p, degrees, np.ones_like(cost), config) for cost, (_, degrees) in zip(by_degree, aligned)]
    plans, result = priors, np.zeros((steps, steps))
    for number in range(config.outer_iterations):
        if number:
            plans = [
                transport(scaled(_edge_cost(result, p, matrix, degrees, plan) + config.fused * cost), p, degrees, prior + LEAST_PRIOR, config)
                for (matrix, degrees), cost, prior, plan in zip(aligned, by_degree, priors, plans)
            ]
        moved = sum(plan @ matrix @ plan.T for plan, (matrix, _) in zip(plans, aligned)) / len(aligned)
        result = np.clip(moved / np.outer(p, p), 0, 1)
    return result


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
