"""One graph whose nodes have labels: where it is read from, how its nodes are divided, and the two ways to train on it, whole or with drawn neighbours."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data

from modalities.common.folders import split
from modalities.common.splits import Splits
from modalities.graph.data import GraphSet
from modalities.graph.files import MASKS, read_graph
from modalities.graph.generated import BUILT_IN
from modalities.graph.preprocess import GraphPreprocess
from modalities.graph.sampling import NeighbourSource, WholeGraph
from modalities.graph.tables import PARTS, as_classes, labelled, ogb_graphs, ogb_split
from modalities.graph.text import read_numbers
from trainer.errors import ConfigError, DataError

LABELLED = "an .npz with edge_index, y (a class for each node, -1 where there is none) and perhaps train_mask, val_mask, test_mask; or an OGB folder with raw/node-label.csv.gz"
"""Where labels of nodes may come from."""
NODE_LABELS = "node-label.csv.gz"
"""Of an OGB folder."""


@dataclass
class NodeSet:
    """A graph and the labels of its nodes; as a set, the nodes that have a label."""

    name: str
    graph: Data
    """Raw."""
    labels: Tensor
    """Of the chosen nodes: (M,) int64, or (M, T) float32 with NaN where a label is missing."""
    classes: tuple[str, ...]
    """Names of classes or labels."""
    chosen: np.ndarray
    """The nodes that these are, (M,)."""
    parts: dict[str, np.ndarray]
    """Where the set says it, the nodes for training, choosing ("valid") and testing; of those with a label."""

    def __len__(self) -> int:
        return len(self.chosen)

    def take(self, indices: Sequence[int]) -> "NodeSet":
        """The same graph with some of the labelled nodes."""
        part, rows = copy.copy(self), np.asarray(indices, np.int64)
        part.chosen, part.labels = self.chosen[rows], self.labels[torch.from_numpy(rows)]
        return part

    def part(self, name: str) -> "NodeSet":
        """One of `parts`."""
        return self.take(np.flatnonzero(np.isin(self.chosen, self.parts[name])))


def is_node_set(path: str) -> bool:
    """Whether the labels at a path are those of nodes of one graph."""
    place = Path(path)
    if place.is_dir():
        return (place / "raw" / NODE_LABELS).exists()
    if not place.is_file() or place.suffix.lower() not in (".npz", ".graphml"):
        return False
    graph = read_graph(place)
    return graph.get("y") is not None and len(graph.y) == graph.num_nodes > 1


def read_nodes(path: str, division: int = 0) -> NodeSet:
    """The labelled nodes at a path. `division`: which column of masks (N, columns) is taken. DataError for a graph without labels of nodes."""
    place = Path(path)
    if place.is_dir() and (place / "raw" / NODE_LABELS).exists():
        graph, *others = ogb_graphs(place / "raw")
        if others:
            raise DataError(f"{path} holds {1 + len(others)} graphs with labels of nodes; expected one.")
        where = place / "raw" / NODE_LABELS
        values, parts = read_numbers(where, "a class, or several labels of 1, 0 or nothing", missing=True), ogb_split(place, graph.num_nodes)
    elif place.is_file():
        graph, where = read_graph(place), place
        if graph.get("y") is None:
            raise DataError(f"{path} has no labels of nodes. Expected {LABELLED}.")
        values, parts = graph.y.double().numpy(), _masked(graph, path, division)
    else:
        raise DataError(f"{path} is no graph with labels of nodes. Expected {LABELLED}.")
    values = values[:, None] if values.ndim == 1 else values
    if len(values) != graph.num_nodes:
        raise DataError(f"{where} has {len(values):,} labels for {graph.num_nodes:,} nodes. Expected one for each, -1 where there is none.")
    for key in ("y", *MASKS):
        if key in graph:
            del graph[key]
    if values.shape[1] == 1:
        labels, classes = as_classes(values[:, 0], str(where))
        known = labels >= 0
    else:
        if not (np.isnan(values) | (values == 0) | (values == 1)).all():
            raise DataError(f"{where}: of several labels each is 1, 0 or missing.")
        labels = torch.from_numpy(values.astype(np.float32))
        classes = labelled([], labels, [f"task {i}" for i in range(labels.shape[1])], [], str(where)).classes
        known = ~labels.isnan().all(dim=1)
    return NodeSet(place.resolve().name.partition(".")[0], graph, labels[known], classes, np.flatnonzero(known.numpy()), parts)


def _masked(graph: Data, path: str, division: int) -> dict[str, np.ndarray]:
    """The parts that the masks of a file say; {} without masks."""
    found = {part: graph[key] for part, key in zip(PARTS, MASKS) if key in graph}
    if not found:
        if division:
            raise ConfigError(f"data.division={division} is a column of the masks in the file, and {path} has none.")
        return {}
    if not {"train", "test"} <= found.keys():
        raise DataError(f"{path} has {', '.join(dict(zip(PARTS, MASKS))[part] for part in found)} and no other mask; expected train_mask and test_mask, and perhaps val_mask.")
    for part, mask in found.items():
        mask = mask[:, None] if mask.ndim == 1 else mask
        if len(mask) != graph.num_nodes or mask.ndim != 2 or not ((mask == 0) | (mask == 1)).all():
            raise DataError(f"{path}: the mask for {part} must have true or false for each of the {graph.num_nodes:,} nodes, found {mask.dtype} of shape {tuple(found[part].shape)}.")
        if not 0 <= division < mask.shape[1]:
            raise ConfigError(f"data.division must be below {mask.shape[1]}, the columns of the masks of {path}, found {division}.")
        found[part] = np.flatnonzero(mask[:, division].numpy())
    if both := np.intersect1d(found["train"], found["test"]).size:
        raise DataError(f"{path}: {both:,} nodes are both in train_mask and in test_mask.")
    return found


@dataclass(frozen=True)
class LabelledNodes(Splits, GraphSet):
    """One graph with labels of its nodes: a file of one graph (.npz with y), or an OGB folder for nodes."""

    fanouts: tuple[int, ...] = ()
    """A step takes some nodes with so many random neighbours in the first step away from them, in the second, ... Empty: the graph is taken whole, and a step is an epoch."""
    division: int = 0
    """Which column of the masks is taken, of a file with several divisions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("test_path", self.test_path), ("labels", self.labels)):
            if value:
                raise ConfigError(f"data.{name} is for sets of many graphs; nodes are divided by the masks or the split folder of their graph, or at random.")

    def read(self) -> NodeSet:
        """The labelled nodes. ConfigError for a built-in set, whose labels are those of graphs."""
        if self.path in BUILT_IN:
            raise ConfigError(f"The graphs of {self.path!r} have labels, not their nodes. Give {LABELLED}.")
        self._require_path()
        return read_nodes(self.path, self.division)

    def preprocess(self, model: Any) -> GraphPreprocess:
        """The preprocessing of a new model of a config `model` for this graph."""
        return self.preprocess_for(self.read().graph, model)

    def build(self, preprocess: GraphPreprocess, classes: Sequence[str] | None = None) -> tuple[WholeGraph | NeighbourSource, WholeGraph | NeighbourSource]:
        """(training nodes, test nodes), as the file says or else at random by class; the first cut down with `per_class`. DataError when the classes are not `classes`, where given."""
        nodes = self.read()
        if classes is not None and tuple(classes) != nodes.classes:
            raise DataError(f"{nodes.name} has the classes {', '.join(nodes.classes)}, and the classifier knows {', '.join(classes)}.")
        train, test = (nodes.part("train"), nodes.part("test")) if nodes.parts else split(nodes, self.test_fraction, self.split_seed)
        for part, what in ((train, "training"), (test, "testing")):
            if not len(part):
                raise DataError(f"{nodes.name} has no labelled node for {what}.")
        whole = NeighbourSource(nodes.graph, preprocess, self.fanouts, nodes.name) if self.fanouts else WholeGraph(nodes.graph, preprocess, nodes.name)
        found = whole.nodes_of(self.few(train))
        found.held_out = whole.nodes_of(test)
        if len(nodes.parts.get("valid", ())):
            found.valid = whole.nodes_of(nodes.part("valid"))
        return found, found.held_out
