"""One graph in one file: npz arrays, GraphML, or a list of edges. Nothing here unpickles.

.npz      arrays `edge_index` (2, E) and, as there are, `x` (N, F), `node_type` (N,), `edge_attr` (E, A), `num_nodes`, `y`, `train_mask`, `val_mask`, `test_mask`;
          or the adjacency matrix of scipy's `save_npz` (csr), whose values other than 1 become `edge_attr`
.graphml  nodes and edges; numeric attributes of nodes become the columns of `x`, in the order of their names, but `y`, those of edges `edge_attr`
.edges .edgelist .csv .tsv .txt   two node numbers from 0 in each line, and perhaps numbers of the edge; lines that begin with # are skipped
"""

import io
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from modalities.graph.checks import check_graph, count_nodes
from modalities.graph.text import read_numbers
from trainer.decoders import Limits, decode
from trainer.errors import DataError, shorten
from trainer.files import write_bytes

LISTS = (".edges", ".edgelist", ".csv", ".tsv", ".txt")
ENDINGS = (".npz", ".graphml", *LISTS)
MASKS = ("train_mask", "val_mask", "test_mask")
"""Which nodes are for training, choosing and testing: (N,) or (N, divisions) of true and false."""
KNOWN = ("edge_index", "x", "node_type", "edge_attr", "num_nodes", "y", *MASKS)
"""Arrays of an .npz that are read."""
LARGEST = 2**31
"""Bytes of a file of one graph."""
FEWEST, SPARSEST = 1_000_000, 20
"""A list of edges names no more nodes than this, or than so many for each edge: else its numbers are no places but names."""


def read_graph(path: Path | str) -> Data:
    """The graph of a file, checked. DataError that names the file, and the line where there is one."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is no file. Expected a graph: {', '.join(ENDINGS)}.")
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise DataError(f"{path} is no graph file by its ending. Expected {', '.join(ENDINGS)}.")
    if path.stat().st_size > LARGEST:
        raise DataError(f"{path} has {path.stat().st_size / 1e9:.1f} GB; a graph in one file may have {LARGEST / 1e9:.1f}. Take a part of the graph.")
    graph = from_bytes(path.read_bytes(), str(path)) if ending == ".npz" else _graphml(path) if ending == ".graphml" else _edge_list(path)
    graph.num_nodes = count_nodes(graph, str(path))
    return check_graph(graph, str(path))


def write_graph(graph: Data, path: Path) -> Path:
    """Write a graph as .npz arrays that `read_graph` reads."""
    write_bytes(path, as_bytes(graph))
    return path


def as_bytes(graph: Data) -> bytes:
    """The content of such a file, always the same for the same graph."""
    content = io.BytesIO()
    np.savez(content, num_nodes=np.int64(graph.num_nodes), **{key: graph[key].numpy() for key in KNOWN if isinstance(graph.get(key), Tensor)})
    return content.getvalue()


def from_bytes(content: bytes, where: str) -> Data:
    """The graph of an .npz, not yet checked. DataError that names `where`."""
    found = decode("graph.npz", content, where, limits=Limits(encoded=LARGEST))
    if {"indptr", "indices", "shape"} <= found.keys():
        return _adjacency(found, where)
    if "edge_index" not in found:
        raise DataError(f"{where} has no array edge_index (2, E), only {', '.join(found) or 'none'}.")
    return Data(**{name: _tensor(found[name]) if name != "num_nodes" else int(found[name]) for name in KNOWN if name in found})


def _adjacency(found: dict[str, np.ndarray], path: str) -> Data:
    """A graph from a sparse matrix as scipy stores it."""
    import scipy.sparse

    try:
        matrix = scipy.sparse.csr_matrix((found["data"], found["indices"], found["indptr"]), shape=tuple(found["shape"])).tocoo()
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no sparse matrix as scipy.sparse.save_npz writes it in the csr format ({error}).") from error
    if matrix.shape[0] != matrix.shape[1]:
        raise DataError(f"{path} holds a matrix of shape {matrix.shape}; an adjacency matrix has as many rows as columns.")
    graph = Data(edge_index=torch.from_numpy(np.stack([matrix.row, matrix.col]).astype(np.int64)), num_nodes=matrix.shape[0])
    if not (matrix.data == 1).all():
        graph.edge_attr = torch.from_numpy(matrix.data.astype(np.float32))[:, None]
    return graph


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array if array.dtype.kind in "iub" or array.dtype == np.float32 else array.astype(np.float32)))


def _graphml(path: Path) -> Data:
    import networkx as nx

    try:
        graph = nx.read_graphml(path)
    except (ParseError, nx.NetworkXError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise DataError(f"{path} is no GraphML that can be read ({shorten(str(error), 200)}).") from error
    if graph.number_of_nodes() == 0:
        raise DataError(f"{path}: the graph has no nodes. Leave empty graphs out.")
    place = {node: i for i, node in enumerate(graph)}
    ends = np.array([(place[a], place[b]) for a, b in graph.edges()], np.int64).reshape(-1, 2).T
    data = Data(num_nodes=len(place))
    values = [values for _, _, values in graph.edges(data=True)]
    if not graph.is_directed():
        ends, values = np.concatenate([ends, ends[::-1]], axis=1), values * 2
    data.edge_index = torch.from_numpy(np.ascontiguousarray(ends))
    nodes = [v for _, v in graph.nodes(data=True)]
    labels = _numbers([{"y": v.pop("y")} if "y" in v else {} for v in nodes], "node", path)
    if labels is not None:
        data.y = labels[:, 0]
    for key, rows, what in (("x", nodes, "node"), ("edge_attr", values, "edge")):
        columns = _numbers(rows, what, path)
        if columns is not None:
            data[key] = columns
    return data


def _numbers(rows: list[dict[str, Any]], what: str, path: Path) -> Tensor | None:
    """The numeric attributes of nodes or edges as (rows, columns), columns in the order of their names; None when there are none."""
    names = sorted({name for row in rows for name, value in row.items() if isinstance(value, (int, float))})
    for number, row in enumerate(rows):
        missing = [name for name in names if not isinstance(row.get(name), (int, float))]
        if missing:
            raise DataError(f"{path}: {what} {number} has no number {missing[0]!r}, which other {what}s have. Give it to all, or to none.")
    return torch.tensor([[float(row[name]) for name in names] for row in rows]) if names else None


def _edge_list(path: Path) -> Data:
    wrong = lambda table: (table.shape[1] < 2) | (table[:, :2] != np.floor(table[:, :2])).any(axis=1) | (table[:, :2] < 0).any(axis=1)  # noqa: E731
    table = read_numbers(path, "two whole node numbers, counted from 0, and perhaps numbers of the edge, as many as in the first line", wrong, commas=False)
    if not len(table):
        raise DataError(f"{path}: there are no edges in it, so the graph has no nodes.")
    nodes = int(table[:, :2].max()) + 1
    if nodes > max(FEWEST, SPARSEST * len(table)):
        raise DataError(f"{path} has {len(table):,} edges and names node {nodes - 1:,}; all numbers from 0 to the largest are nodes. Number the nodes one after another.")
    graph = Data(edge_index=torch.from_numpy(np.ascontiguousarray(table[:, :2].T.astype(np.int64))), num_nodes=nodes)
    if table.shape[1] > 2:
        graph.edge_attr = torch.from_numpy(table[:, 2:].astype(np.float32))
    return graph
