"""Numbers that sum up the structure of one graph, and groups of graphs that are alike in them."""

from collections.abc import Sequence

import networkx as nx
import numpy as np
from sklearn.cluster import KMeans

NAMES = ("mean degree", "deviation of degrees", "density", "mean closeness", "correlation of degrees", "assortativity", "transitivity", "mean clustering")
"""What `topology` gives, in its order."""


def topology(matrix: np.ndarray) -> np.ndarray:
    """Eight numbers (8,) of a graph given as symmetric 0/1 adjacency (N, N): see `NAMES`. Where all edges join equal degrees the correlations are not defined, and 0 here."""
    graph = nx.from_numpy_array(matrix)
    degrees = matrix.sum(axis=0)
    heads, tails = np.nonzero(matrix)
    varied = len(np.unique(degrees[heads])) > 1
    pearson = float(np.corrcoef(degrees[heads], degrees[tails])[0, 1]) if varied else 0.0
    assortativity = float(nx.degree_assortativity_coefficient(graph)) if varied else 0.0
    closeness = float(np.mean(list(nx.closeness_centrality(graph).values())))
    return np.array([degrees.mean(), degrees.std(), nx.density(graph), closeness, pearson, assortativity, nx.transitivity(graph), nx.average_clustering(graph)])


def alike(matrices: Sequence[np.ndarray], clusters: int, standardise: bool, seed: int) -> list[list[int]]:
    """Numbers of the graphs with edges, in at most `clusters` groups by k-means on their topology. `standardise` gives the eight numbers equal say."""
    kept = [index for index, matrix in enumerate(matrices) if matrix.any()]
    features = np.stack([topology(matrices[index]) for index in kept])
    if standardise:
        features = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-12)
    count = min(clusters, len(np.unique(features, axis=0)))
    found = KMeans(count, n_init=10, random_state=seed).fit_predict(features)
    return [[kept[place] for place in np.flatnonzero(found == label)] for label in range(count)]
