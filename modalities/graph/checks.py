"""What a graph must be before anything is computed on it, and what is repaired in silence: duplicate edges are merged, self loops are handled by the preprocessing."""

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import remove_self_loops

from trainer.errors import DataError


def check_graph(graph: Data, where: str) -> Data:
    """The graph itself, or DataError that begins with `where`: no nodes, edges to nodes that do not exist, features that are no finite numbers or too few."""
    nodes = count_nodes(graph, where)
    edges = graph.get("edge_index")
    if not isinstance(edges, Tensor) or edges.ndim != 2 or edges.shape[0] != 2 or edges.is_floating_point():
        found = "none" if not isinstance(edges, Tensor) else f"{edges.dtype} of shape {tuple(edges.shape)}"
        raise DataError(f"{where}: edge_index must hold the ends of the edges, (2, E) whole numbers, found {found}.")
    if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= nodes):
        bad = int((((edges < 0) | (edges >= nodes)).any(dim=0)).nonzero()[0])
        hint = " Numbers from 1 must be made smaller by 1." if int(edges.min()) == 1 and int(edges.max()) == nodes else ""
        raise DataError(
            f"{where}: edge {bad} leads from node {int(edges[0, bad])} to node {int(edges[1, bad])}, and there are {nodes} nodes, numbered from 0.{hint}"
        )
    for key, count, what in (("x", nodes, "node"), ("edge_attr", edges.shape[1], "edge"), ("node_type", nodes, "node")):
        values = graph.get(key)
        if values is None:
            continue
        if not isinstance(values, Tensor) or len(values) != count:
            raise DataError(f"{where}: {key} must have one row for each {what}, {count}, found {len(values)}.")
        if values.is_floating_point() and not values.isfinite().all():
            row = int((~values.isfinite()).reshape(count, -1).any(dim=1).nonzero()[0])
            raise DataError(f"{where}: {key} of {what} {row} is NaN or infinite. Fill such values in, or leave the graph out.")
    return graph


def count_nodes(graph: Data, where: str) -> int:
    """Nodes of a graph: rows of its features, else `num_nodes`, else as many as the edges name. DataError when it has none."""
    known = [len(graph[key]) for key in ("x", "node_type") if isinstance(graph.get(key), Tensor)]
    given, edges = graph._store.get("num_nodes"), graph.get("edge_index")
    if known:
        nodes = known[0]
    elif given is not None:
        nodes = int(given)
    else:
        nodes = int(edges.max()) + 1 if isinstance(edges, Tensor) and edges.numel() else 0
    if nodes < 1:
        raise DataError(f"{where}: the graph has no nodes. Leave empty graphs out.")
    return nodes


def clean_edges(graph: Data, nodes: int, undirected: bool) -> tuple[Tensor, Tensor | None]:
    """(edges (2, E), their features or None): sorted, each edge once (the first counts), without self loops; both ways when `undirected`."""
    edges, values = remove_self_loops(graph.edge_index.long(), graph.get("edge_attr"))
    if undirected:
        edges = torch.cat([edges, edges.flip(0)], dim=1)
        values = None if values is None else torch.cat([values, values])
    if values is None:
        return torch.from_numpy(np.stack(each_once(*edges.numpy(), nodes))), None
    ids = edges[0] * nodes + edges[1]
    order = ids.argsort(stable=True)
    kept = order[torch.cat([ids.new_ones(1, dtype=torch.bool), ids[order].diff() != 0])[: len(order)]]
    return edges[:, kept], values[kept]


def each_once(first: np.ndarray, second: np.ndarray, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Both ends (E,) int64 of edges among `nodes` nodes (below 2^31), sorted and without repetition. Both numbers lie in one, which numpy sorts several times as fast as torch."""
    bits = nodes.bit_length()
    ids = first << bits
    ids |= second
    ids.sort()
    if len(ids):
        ids = ids[np.concatenate([[True], ids[1:] != ids[:-1]])]
    return ids >> bits, ids & ((1 << bits) - 1)
