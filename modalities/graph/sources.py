"""Sets of graphs as sources of samples: in memory, packed, labelled or not."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from modalities.common.sources import LabelledSource, index_tensor
from modalities.graph.files import MASKS
from modalities.graph.packed import PackedGraphs
from modalities.graph.preprocess import GraphPreprocess, collate
from trainer.errors import DataError


class GraphSource(LabelledSource):
    """Graphs in memory. A sample is a PyG `Data` as `preprocess` makes it, with `y` when the set is labelled: () int64, or (1, T) float with NaN where a label is missing."""

    key = "x"
    label_key = "y"
    in_memory = True
    collate = staticmethod(collate)

    def __init__(
        self, graphs: Sequence[Data], preprocess: GraphPreprocess, labels: Tensor | None = None, classes: Sequence[str] = (),
        name: str = "graphs", about: dict[str, Any] | None = None, names: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """`labels`: (N,) int64, or (N, T) float with NaN; `names`: what each graph is called in errors. DataError for a graph that is damaged."""
        if not graphs:
            raise DataError(f"{name} holds no graphs.")
        self.graphs, self.preprocess, self.name, self.about = list(graphs), preprocess, name, about or {}
        self.names, self.labels, self.classes = list(names), labels, tuple(classes)
        self.parts: dict[str, np.ndarray] = {}
        """How the set is divided, where it says so: numbers of its graphs for "train", "valid" and "test"."""
        self.valid: GraphSource | None = None
        """Of a training set: the graphs on which settings are chosen, where the set has such."""
        self.chosen = np.arange(len(self.graphs))
        """Which of the graphs these are, (N,)."""
        bare = [preprocess.transform(graph, f"{name}, {self._name(i)}") for i, graph in enumerate(self.graphs)]
        for i, graph in enumerate(bare):
            for key in {"y", *MASKS} & set(graph.keys()):  # of nodes
                del graph[key]
            if labels is not None:
                graph.y = labels[i][None]
        self.packed = PackedGraphs(bare)

    @property
    def multi_label(self) -> bool:
        """Whether a graph has several yes-or-no labels."""
        return self.labels is not None and self.labels.is_floating_point()

    def _name(self, index: int) -> str:
        return self.names[index] if self.names else f"graph {index}"

    def __len__(self) -> int:
        return len(self.chosen)

    def item(self, index: int) -> Data:
        """The raw graph."""
        return self.graphs[int(self.chosen[index])]

    def id(self, index: int) -> str:
        place = int(self.chosen[index])
        return self.names[place] if self.names else str(place)

    def __getitem__(self, index: int) -> Data:
        return self.packed.graph(int(self.chosen[index]))

    def fetch(self, indices: Sequence[int], keys: np.ndarray | None = None) -> Batch:
        """A whole batch at once; nothing in it is random."""
        return self.packed.batch(self.chosen[np.asarray(indices, np.int64)])

    def take(self, indices: Sequence[int]) -> "GraphSource":
        part = copy.copy(self)
        part.chosen = self.chosen[np.asarray(indices, np.int64)]
        part.labels = None if self.labels is None else self.labels[index_tensor(indices)]
        return part

    def describe(self) -> dict[str, Any]:
        nodes, edges = (self.packed.counts[level][torch.from_numpy(self.chosen)] for level in ("node", "edge"))
        sizes = {"nodes": f"{int(nodes.min())} to {int(nodes.max())}, {float(nodes.float().mean()):.1f} on average", "edges": f"{float(edges.float().mean()):.1f} on average"}
        facts = {"name": self.name, "samples": len(self), **sizes, **self.about}
        return {**facts, "classes": len(self.classes)} if self.classes else facts
