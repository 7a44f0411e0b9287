"""Positions of nodes in their graph, as GraphGPS reads them: eigenvectors of the Laplacian, and chances to come back of a random walk."""

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

DENSE = 1000
"""Nodes up to which all eigenvectors are computed."""


def random_walk(edge_index: Tensor, nodes: int, steps: int) -> Tensor:
    """Chance that a random walk is back at its node after 1, 2, ... `steps` steps, (nodes, steps) float32 (Dwivedi et al. 2022). Self loops are left out."""
    walk = _matrix(edge_index, nodes)
    degree = np.asarray(walk.sum(axis=1)).ravel()
    walk = scipy.sparse.diags(1 / np.maximum(degree, 1)) @ walk
    power, found = walk, []
    for step in range(steps):
        power = power if step == 0 else power @ walk
        found.append(power.diagonal())
    return torch.from_numpy(np.stack(found, axis=1).astype(np.float32))


def laplacian(edge_index: Tensor, nodes: int, count: int) -> Tensor:
    """The eigenvectors of the symmetric normalised Laplacian with the smallest eigenvalues but the first, (nodes, count) float32, zeros where there are fewer.

    The sign of each is arbitrary; here the entry of the largest magnitude is positive.
    """
    matrix = _matrix(edge_index, nodes)
    root = 1 / np.sqrt(np.maximum(np.asarray(matrix.sum(axis=1)).ravel(), 1))
    normed = scipy.sparse.diags(root) @ matrix @ scipy.sparse.diags(root)
    if nodes <= max(DENSE, count + 2):
        values, vectors = np.linalg.eigh(np.eye(nodes) - normed.toarray())
    else:  # the largest of the adjacency are the smallest of the Laplacian; the start is fixed, so that the result is
        values, vectors = scipy.sparse.linalg.eigsh(normed, count + 1, which="LA", v0=np.ones(nodes))
        values = -values
    vectors = vectors[:, np.argsort(values, kind="stable")[1 : count + 1]]
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(vectors.shape[1])])
    return torch.from_numpy(np.pad(vectors, ((0, 0), (0, count - vectors.shape[1]))).astype(np.float32))


def _matrix(edge_index: Tensor, nodes: int) -> scipy.sparse.csr_matrix:
    """The adjacency, both ways, without self loops."""
    a, b = edge_index[:, edge_index[0] != edge_index[1]].numpy()
    ones = np.ones(2 * len(a))
    matrix = scipy.sparse.csr_matrix((ones, (np.concatenate([a, b]), np.concatenate([b, a]))), (nodes, nodes))
    matrix.data[:] = 1.0
    return matrix
