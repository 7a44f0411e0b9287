"""Numbers that sum up the structure of one graph, and groups of graphs that are alike in them."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path
from sklearn.cluster import KMeans

NAMES = ("mean degree", "deviation of degrees", "density", "mean closeness", "correlation of degrees", "assortativity", "transitivity", "mean clustering")
"""What `topology` gives, in its order."""


def topology(matrix: np.ndarray) -> np.ndarray:
    """Eight numbers (8,) of a graph given as symmetric 0/1 adjacency (N, N): see `NAMES`. Where all edges join equal degrees the correlations are not defined, and 0 here.

    Correlation and assortativity are one number under two names, which counts twice, as in the official code. Closeness is that of Wasserman and Faust, for graphs of several parts.
    """
    matrix = matrix.astype(np.float64)
    nodes, degrees = len(matrix), matrix.sum(axis=0)
    heads, tails = np.nonzero(matrix)
    correlation = float(np.corrcoef(degrees[heads], degrees[tails])[0, 1]) if len(np.unique(degrees[heads])) > 1 else 0.0
    steps = shortest_path(csr_array(matrix), unweighted=True)
    others = np.isfinite(steps).sum(axis=1) - 1.0
    far = np.where(np.isfinite(steps), steps, 0).sum(axis=1)
    closeness = _share(others**2, far * (nodes - 1))
    closed, pairs = ((matrix @ matrix) * matrix).sum(axis=1), degrees * (degrees - 1)
    density, transitivity = _share(degrees.sum(), nodes * (nodes - 1.0)), _share(closed.sum(), pairs.sum())
    return np.array([degrees.mean(), degrees.std(), density, closeness.mean(), correlation, correlation, transitivity, _share(closed, pairs).mean()])


def _share(part: np.ndarray | float, whole: np.ndarray | float) -> np.ndarray:
    """part / whole, 0 where the whole is."""
    return np.divide(part, whole, out=np.zeros(np.shape(whole)), where=np.asarray(whole) > 0)


def alike(matrices: Sequence[np.ndarray], clusters: int, standardise: bool, seed: int) -> list[list[int]]:
    """Numbers of the graphs with edges, in at most `clusters` groups by k-means on their topology. `standardise` gives the eight numbers equal say."""
    kept = [index for index, matrix in enumerate(matrices) if matrix.any()]
    features = np.stack([topology(matrices[index]) for index in kept])
    if standardise:
        features = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-12)
    count = min(clusters, len(np.unique(features, axis=0)))
    found = KMeans(count, n_init=10, random_state=seed).fit_predict(features)
    return [[kept[place] for place in np.flatnonzero(found == label)] for label in range(count)]
