"""Graphons by stochastic block approximation (Airoldi, Costa and Chan, NeurIPS 2013), as the public code has it that W2PGNN took over.

The nodes, aligned by their degrees, are gone through in random order: each joins the block whose first node it resembles most, or, where none resembles it,
begins one. A step is the density between two blocks. The facts are those of HongtengXu/SGWB-Graphon (MIT licence), which draws from numpy's global generator.
"""

from collections.abc import Sequence

import numpy as np


def approximate(aligned: Sequence[np.ndarray], threshold: float, seed: int) -> np.ndarray:
    """The step function (N, N) of aligned symmetric adjacency matrices (N, N). Nodes nearer than `threshold` share a block; `seed` decides the order."""
    nodes, half = len(aligned[0]), len(aligned) // 2
    total = np.sum(aligned, axis=0)
    halves = np.sum(aligned[: max(half, 1)], axis=0), np.sum(aligned[half:], axis=0)
    weight = 1 / ((half + 1) * max(nodes - half, 1))
    draws = np.random.RandomState(seed)  # numpy's old generator: the order is that of the public code after numpy.random.seed(seed)
    blocks, left = [[0]], [*range(1, nodes)]
    while left:
        node = left.pop(int(draws.permutation(len(left))[0]) if len(left) > 1 else 0)
        distances = [_distance(halves, node, block[0], weight) for block in blocks]
        nearest = int(np.argmin(distances))
        if distances[nearest] < threshold:
            blocks[nearest].append(node)
        else:
            blocks.append([node])
    own = np.empty(nodes, int)
    for number, block in enumerate(blocks):
        own[block] = number
    member = np.eye(len(blocks))[own]
    sizes = member.sum(axis=0)
    return ((member.T @ total @ member) / (len(aligned) * np.outer(sizes, sizes)))[np.ix_(own, own)]


def _distance(halves: tuple[np.ndarray, np.ndarray], node: int, pivot: int, weight: float) -> float:
    """How differently two nodes are joined to the others, measured on two halves of the graphs, so that chance does not count as difference."""
    differences = [np.delete(half[node] - half[pivot], [node, pivot]) for half in halves]
    return float(np.sqrt(weight * abs(differences[0] @ differences[1]) / max(len(differences[0]), 1)))
