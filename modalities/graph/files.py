"""One graph in one file: npz arrays, GraphML, or a list of edges. Nothing here unpickles.

.npz      arrays `edge_index` (2, E) and, as there are, `x` (N, F), `node_type` (N,), `edge_attr` (E, A), `num_nodes`, `y`;
          or the adjacency matrix of scipy's `save_npz` (csr), whose values other than 1 become `edge_attr`
.graphml  nodes and edges; numeric attributes of nodes become the columns of `x`, in the order of their names, those of edges `edge_attr`
.edges .edgelist .csv .tsv .txt   two node numbers from 0 in each line, and perhaps numbers of the edge; lines that begin with # are skipped
"""

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from modalities.graph.checks import check_graph
from trainer.decoders import decode
from trainer.errors import DataError, shorten

LISTS = (".edges", ".edgelist", ".csv", ".tsv", ".txt")
ENDINGS = (".npz", ".graphml", *LISTS)
KNOWN = ("edge_index", "x", "node_type", "edge_attr", "num_nodes", "y")
"""Arrays of an .npz that are read."""
LARGEST = 2**31
"""Bytes of a text file of one graph."""


def read_graph(path: Path | str) -> Data:
    """The graph of a file, checked. DataError that names the file, and the line where there is one."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is no file. Expected a graph: {', '.join(ENDINGS)}.")
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise DataError(f"{path} is no graph file by its ending. Expected {', '.join(ENDINGS)}.")
    if path.stat().st_size > LARGEST:
        raise DataError(f"{path} has {path.stat().st_size / 1e9:.1f} GB; a graph in one file may have {LARGEST / 1e9:.1f}. Store it as .npz arrays in a folder.")
    graph = _arrays(path) if ending == ".npz" else _graphml(path) if ending == ".graphml" else _edge_list(path)
    return check_graph(graph, str(path))


def write_graph(graph: Data, path: Path) -> Path:
    """Write a graph as .npz arrays that `read_graph` reads."""
    arrays = {key: graph[key].numpy() for key in KNOWN if isinstance(graph.get(key), Tensor)}
    np.savez(path, num_nodes=np.int64(graph.num_nodes), **arrays)
    return path


def _arrays(path: Path) -> Data:
    found = decode(path.name, path.read_bytes(), str(path))
    if {"indptr", "indices", "shape"} <= found.keys():
        return _adjacency(found, path)
    if "edge_index" not in found:
        raise DataError(f"{path} has no array edge_index (2, E), only {', '.join(found) or 'none'}.")
    return Data(**{name: _tensor(found[name]) if name != "num_nodes" else int(found[name]) for name in KNOWN if name in found})


def _adjacency(found: dict[str, np.ndarray], path: Path) -> Data:
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
    for key, rows, what in (("x", [v for _, v in graph.nodes(data=True)], "node"), ("edge_attr", values, "edge")):
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
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({error}).") from error
    rows: list[list[float]] = []
    for number, line in enumerate(lines, 1):
        cells = line.replace(",", " ").replace("\t", " ").split()
        if not cells or cells[0].startswith("#"):
            continue
        try:
            row = [float(cell) for cell in cells]
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {shorten(line)} does not hold numbers only. Expected two node numbers, and perhaps numbers of the edge.") from error
        if len(row) < 2 or (rows and len(row) != len(rows[0])) or row[0] != int(row[0]) or row[1] != int(row[1]):
            raise DataError(f"{path}, line {number}: {shorten(line)}; expected two whole node numbers, and as many further numbers as in the first line.")
        if min(row[:2]) < 0:
            raise DataError(f"{path}, line {number}: nodes are numbered from 0, found {shorten(line)}.")
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: there are no edges in it, so the graph has no nodes.")
    table = np.array(rows)
    graph = Data(edge_index=torch.from_numpy(np.ascontiguousarray(table[:, :2].T.astype(np.int64))), num_nodes=int(table[:, :2].max()) + 1)
    if table.shape[1] > 2:
        graph.edge_attr = torch.from_numpy(table[:, 2:].astype(np.float32))
    return graph
