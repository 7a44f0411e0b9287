"""Sets of graphs as people have them on the disk: TU text files, OGB folders, Planetoid, SMILES tables, folders of graph files.

Every reader gives graphs, labels and names, and names the file and row of what is wrong.
"""

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from modalities.graph.checks import check_graph
from modalities.graph.files import ENDINGS, from_bytes, read_graph
from modalities.graph.text import MISSING, Wrong, read_numbers
from trainer.decoders import decode
from trainer.errors import DataError, shorten
from trainer.optional import library
from trainer.shards import Shards, find_shards

PARTS = ("train", "valid", "test")
"""Into which OGB divides a set."""


@dataclass
class GraphTable:
    """A set of graphs, read."""

    graphs: list[Data]
    """The graphs, raw."""
    labels: Tensor | None = None
    """(N,) int64, or (N, T) float32 with NaN where a label is missing."""
    classes: tuple[str, ...] = ()
    """Names of classes or labels."""
    names: list[str] = field(default_factory=list)
    """What each graph is called."""
    types: int = 0
    """Kinds of nodes, where nodes have types."""
    scaffolds: list[str] = field(default_factory=list)
    """Of molecules, the scaffold of each."""
    parts: dict[str, np.ndarray] = field(default_factory=dict)
    """Where the set says it, the numbers of its samples for training ("train"), for choosing ("valid") and for testing ("test")."""


def read_tu(folder: Path) -> GraphTable:
    """TU text files: DS_A.txt (edges, from 1), DS_graph_indicator.txt, and as there are DS_graph_labels.txt, DS_node_labels.txt, DS_node_attributes.txt."""
    name = next(folder.glob("*_graph_indicator.txt")).name.removesuffix("_graph_indicator.txt")
    place = lambda part: folder / f"{name}_{part}.txt"  # noqa: E731
    whose = _whole(place("graph_indicator"), 1)[:, 0] - 1
    edges = _whole(place("A"), 2) - 1
    nodes, graphs = len(whose), int(whose.max()) + 1
    if (np.diff(whose) < 0).any() or whose.min() < 0:
        row = int((np.diff(whose) < 0).argmax()) + 2 if (np.diff(whose) < 0).any() else int(whose.argmin()) + 1
        raise DataError(f"{place('graph_indicator')}, line {row}: graphs are numbered from 1 and their nodes lie one after another.")
    bad = ((edges < 0) | (edges >= nodes)).any(axis=1)
    if bad.any():
        raise DataError(f"{place('A')}, line {int(bad.argmax()) + 1}: nodes are numbered from 1 to {nodes:,}, found {(edges[bad.argmax()] + 1).tolist()}.")
    bad = whose[edges[:, 0]] != whose[edges[:, 1]]
    if bad.any():
        raise DataError(f"{place('A')}, line {int(bad.argmax()) + 1}: the edge {(edges[bad.argmax()] + 1).tolist()} joins nodes of two graphs.")
    sizes = np.bincount(whose, minlength=graphs)
    if (sizes == 0).any():
        raise DataError(f"{place('graph_indicator')}: graph {int((sizes == 0).argmax()) + 1} of {graphs:,} has no nodes.")
    starts = np.concatenate([[0], sizes.cumsum()])
    edges = edges[np.argsort(whose[edges[:, 0]], kind="stable")]
    cuts = np.searchsorted(whose[edges[:, 0]], np.arange(graphs + 1))
    attributes = _rows(place("node_attributes"), nodes) if place("node_attributes").exists() else None
    types, kinds = None, np.empty(0)
    if place("node_labels").exists():
        kinds, types = np.unique(_whole(place("node_labels"), 1, nodes)[:, 0], return_inverse=True)
    found = []
    for i in range(graphs):
        part = slice(starts[i], starts[i + 1])
        graph = Data(edge_index=torch.from_numpy(np.ascontiguousarray(edges[cuts[i] : cuts[i + 1]].T) - starts[i]), num_nodes=int(sizes[i]))
        if types is not None:
            graph.node_type = torch.from_numpy(types[part])
        if attributes is not None:
            graph.x = torch.from_numpy(attributes[part].astype(np.float32))
        found.append(graph)
    labels, classes = None, ()
    if place("graph_labels").exists():
        names, numbers = np.unique(_whole(place("graph_labels"), 1, graphs)[:, 0], return_inverse=True)
        labels, classes = torch.from_numpy(numbers), tuple(map(str, names))
    return GraphTable(found, labels, classes, [f"graph {i + 1}" for i in range(graphs)], len(kinds))


def read_ogb(folder: Path) -> GraphTable:
    """An OGB folder with `raw/`: edge.csv.gz, num-node-list.csv.gz, num-edge-list.csv.gz, and as there are node-feat, edge-feat, graph-label, and `split/*/train.csv.gz`, ...

    One label of 1, 0 and blanks is a yes-or-no label (measured by the area under the ROC curve, as OGB does), other whole numbers are classes.
    """
    found = ogb_graphs(folder / "raw")
    names = [f"graph {i}" for i in range(len(found))]
    label_file = folder / "raw" / "graph-label.csv.gz"
    if not label_file.exists():
        return GraphTable(found, names=names)
    labels = _rows(label_file, len(found), missing=True)
    if (binary := np.isnan(labels) | (labels == 0) | (labels == 1)).all() or labels.shape[1] > 1:
        if not binary.all():
            row, column = np.argwhere(~binary)[0]
            raise DataError(f"{label_file}, line {row + 1} holds {labels[row, column]:g}; several labels are 1, 0 or nothing each. Other numbers are not learned here.")
        table = labelled(found, torch.from_numpy(labels.astype(np.float32)), [f"task {i}" for i in range(labels.shape[1])], names, str(label_file))
    else:
        numbers, classes = as_classes(labels[:, 0], str(label_file))
        if (numbers < 0).any():
            raise DataError(f"{label_file}, line {int((numbers < 0).int().argmax()) + 1}: the class is missing. Leave such graphs out.")
        table = GraphTable(found, numbers, classes, names)
    table.parts = ogb_split(folder, len(found))
    return table


def ogb_graphs(raw: Path) -> list[Data]:
    """The graphs of an OGB folder's `raw/`, also the one graph of a set for nodes."""
    counts = {what: _whole(raw / f"num-{what}-list.csv.gz", 1)[:, 0] for what in ("node", "edge")}
    edges = _whole(raw / "edge.csv.gz", 2) if counts["edge"].sum() else np.empty((0, 2), np.int64)
    if len(edges) != counts["edge"].sum():
        raise DataError(f"{raw / 'edge.csv.gz'} has {len(edges):,} edges, and num-edge-list.csv.gz promises {counts['edge'].sum():,}.")
    features = {key: _rows(raw / f"{what}-feat.csv.gz").astype(np.float32) for key, what in (("x", "node"), ("edge_attr", "edge")) if (raw / f"{what}-feat.csv.gz").exists()}
    for key, what in (("x", "node"), ("edge_attr", "edge")):
        if key in features and len(features[key]) != counts[what].sum():
            raise DataError(f"{raw / f'{what}-feat.csv.gz'} has {len(features[key]):,} rows, and num-{what}-list.csv.gz promises {counts[what].sum():,}.")
    ends = {what: np.concatenate([[0], count.cumsum()]) for what, count in counts.items()}
    found = []
    for i in range(len(counts["node"])):
        node, edge = (slice(ends[what][i], ends[what][i + 1]) for what in ("node", "edge"))
        graph = Data(edge_index=torch.from_numpy(np.ascontiguousarray(edges[edge].T)), num_nodes=int(counts["node"][i]))
        for key, part in (("x", node), ("edge_attr", edge)):
            if key in features:
                graph[key] = torch.from_numpy(features[key][part])
        found.append(graph)
    return found


def ogb_split(folder: Path, samples: int) -> dict[str, np.ndarray]:
    """OGB's own division, `split/NAME/{train,valid,test}.csv.gz`: part -> numbers of its samples; {} where there is none. DataError when there are several, or a number is too large."""
    names = sorted(place.parent.name for place in folder.glob("split/*/train.csv.gz"))
    if len(names) > 1:
        raise DataError(f"{folder / 'split'} holds several divisions: {', '.join(names)}. Leave one.")
    parts = {}
    for part in PARTS if names else ():
        place = folder / "split" / names[0] / f"{part}.csv.gz"
        parts[part] = _whole(place, 1)[:, 0]
        if parts[part].min() < 0 or parts[part].max() >= samples:
            raise DataError(f"{place} names sample {int(parts[part].max())}, and there are {samples:,}, counted from 0.")
    return parts


def as_classes(values: np.ndarray, where: str) -> tuple[Tensor, tuple[str, ...]]:
    """Class numbers (N,), NaN or negative where there is none -> (places among the classes (N,) int64, -1 where there is none; names). DataError for other numbers, or fewer than two classes."""
    known = ~np.isnan(values) & ~(values < 0)
    if (values[known] != np.floor(values[known])).any():
        raise DataError(f"{where}: classes are whole numbers, found {values[known][values[known] != np.floor(values[known])][0]:g}.")
    names, places = np.unique(values[known].astype(np.int64), return_inverse=True)
    if len(names) < 2:
        raise DataError(f"{where}: there is {f'only the class {names[0]}' if len(names) else 'no label at all'}; a classifier needs at least two classes.")
    numbers = np.full(len(values), -1)
    numbers[known] = places
    return torch.from_numpy(numbers), tuple(map(str, names))


def read_smiles(path: Path, columns: tuple[str, ...]) -> GraphTable:
    """A table (.csv) with a column `smiles` and label columns with 1, 0 and blanks: `columns`, or all others that hold nothing else."""
    Chem = library("rdkit.Chem", str(path))  # noqa: N806
    from modalities.graph.smiles import molecule, scaffold

    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or not (key := next((c for c in rows[0] if c.lower() in ("smiles", "mol")), None)):
        raise DataError(f"{path} has no rows, or no column smiles; found {', '.join(rows[0]) if rows else 'nothing'}.")
    graphs, scaffolds = [], []
    for number, row in enumerate(rows, 2):
        graphs.append(molecule(Chem, row[key] or "", f"{path}, line {number}"))
        scaffolds.append(scaffold(row[key]))
    names = [f"line {i + 2}, {shorten(row[key], 40)}" for i, row in enumerate(rows)]
    chosen = list(columns) or [c for c in rows[0] if c != key and all(_yes_or_no(row[c]) is not None for row in rows)]
    unknown = [c for c in chosen if c not in rows[0]]
    if unknown:
        raise DataError(f"{path} has no column {unknown[0]!r}. Columns: {', '.join(rows[0])}.")
    if not chosen:
        return GraphTable(graphs, names=names, scaffolds=scaffolds)
    values = np.empty((len(rows), len(chosen)), np.float32)
    for i, row in enumerate(rows):
        for j, column in enumerate(chosen):
            value = _yes_or_no(row[column])
            if value is None:
                raise DataError(f"{path}, line {i + 2}: {column} is {shorten(row[column])}; expected 1, 0, or nothing where it is not known.")
            values[i, j] = value
    found = labelled(graphs, torch.from_numpy(values), chosen, names, str(path))
    found.scaffolds = scaffolds
    return found


def read_folder(folder: Path) -> GraphTable:
    """Graph files (see `files`) in a folder, or in one folder for each class."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and not p.name.startswith("."))
    if not files:
        raise DataError(f"{folder} holds no set of graphs. Expected TU text files, an OGB folder with raw/, or graph files ({', '.join(ENDINGS)}), also in class folders.")
    names = [p.relative_to(folder).as_posix() for p in files]
    graphs = [read_graph(p) for p in files]
    tops = [Path(n).parts[0] if len(Path(n).parts) > 1 else None for n in names]
    classes = tuple(sorted({t for t in tops if t is not None}))
    if len(classes) < 2 or None in tops:
        return GraphTable(graphs, names=names)
    return GraphTable(graphs, torch.tensor([classes.index(t) for t in tops]), classes, names)


def read_shards(path: str) -> GraphTable:
    """Tars as `zoo pack` writes them: `KEY.npz`, and `KEY.cls` where there are classes, whose names the index has. All graphs are read."""
    shards, about = Shards(path), find_shards(path)[1]
    graphs, numbers = [], []
    for index in range(len(shards)):
        members = shards.read(index, ("npz", "cls"))
        if "npz" not in members:
            raise DataError(f"{shards.where(index, '*')} has no graph (KEY.npz), only {', '.join(shards.endings(index))}.")
        where = shards.where(index, "npz")
        graphs.append(check_graph(from_bytes(members["npz"], where), where))
        numbers.append(decode("cls", members["cls"], shards.where(index, "cls")) if "cls" in members else -1)
    types = max(int(graph.node_type.max()) + 1 for graph in graphs) if all("node_type" in graph for graph in graphs) else 0
    names, labels = [shards.id(index) for index in range(len(shards))], torch.tensor(numbers)
    if (labels < 0).all():
        return GraphTable(graphs, names=names, types=types)
    classes = tuple(map(str, about.get("classes") or range(int(labels.max()) + 1)))
    if (labels < 0).any() or int(labels.max()) >= len(classes):
        bad = int(((labels < 0) | (labels >= len(classes))).int().argmax())
        raise DataError(f"{shards.where(bad, 'cls')} is {f'class {numbers[bad]}' if numbers[bad] >= 0 else 'missing'}; all graphs need one of the {len(classes)} classes, counted from 0.")
    return GraphTable(graphs, labels, classes, names, types)


def labelled(graphs: list[Data], labels: Tensor, columns: list[str], names: list[str], where: str) -> GraphTable:
    """A set with yes-or-no labels (N, T), NaN where one is missing. DataError for a column without any label."""
    for column, values in zip(columns, labels.T):
        if values.isnan().all():
            raise DataError(f"{where}: the label {column!r} is missing for all graphs. Fill it, or leave the column out.")
    return GraphTable(graphs, labels, tuple(columns), names)


def _yes_or_no(cell: str | None) -> float | None:
    """1, 0, NaN for nothing; None for anything else."""
    text = (cell or "").strip().lower()
    return np.nan if text in MISSING else {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0}.get(text)


def _rows(path: Path, rows: int | None = None, expected: str = "numbers with commas between them", wrong: Wrong | None = None, missing: bool = False) -> np.ndarray:
    """A text file of numbers with commas, (lines, columns) float64. DataError names the line."""
    found = read_numbers(path, expected, wrong, missing=missing)
    if not len(found) or (rows is not None and len(found) != rows):
        raise DataError(f"{path} has {len(found):,} lines{'' if rows is None else f'; expected {rows:,}, as many as the other files say'}.")
    return found


def _whole(path: Path, columns: int, rows: int | None = None) -> np.ndarray:
    """A text file of whole numbers, (lines, columns) int64."""
    wrong = lambda table: (table.shape[1] != columns) | (table != np.floor(table)).any(axis=1)  # noqa: E731
    return _rows(path, rows, f"{columns} whole number(s), with commas between them", wrong).astype(np.int64)
