"""One graph as a source: whole, or as many samples, the surroundings of each node, its neighbours drawn at random (Hamilton et al. 2017, GraphSAGE).

Which neighbours are drawn follows from the sample's key and the node alone, so that the stream of batches is a pure function of (seed, step), goes on
exactly after a stop, and does not depend on processes or workers.
"""

import copy
import os
from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from modalities.graph.checks import count_nodes, each_once
from modalities.graph.preprocess import GraphPreprocess
from trainer.errors import ConfigError
from trainer.randomness import draws, sample_keys

COPIES = 6
"""Rows of the model's width that a training step holds for each edge at least: measured 5.6 with GIN, 8 with GAT."""
ODD = np.uint64(0x9E3779B97F4A7C15)
"""Spreads the numbers of nodes over all keys."""


class Labelled(Protocol):
    """Some nodes of a graph with their labels."""

    chosen: np.ndarray
    """Which nodes, (M,)."""
    labels: Tensor
    """(M,) int64, or (M, T) float32 with NaN where a label is missing."""
    classes: tuple[str, ...]
    """Names of classes or labels."""


def require_room(nodes: int, edges: int, width: int, name: str) -> None:
    """ConfigError when a step on a whole graph cannot fit the memory of the GPU, or without one of this machine, so that the system does not end the process without a word."""
    needed, there = (COPIES * edges + nodes) * width * 4, _memory()
    if needed > there:
        raise ConfigError(
            f"{name} has {nodes:,} nodes and {edges:,} edges (both ways). A step that takes it whole needs about {needed / 1e9:.0f} GB, and there are {there / 1e9:.0f}. "
            "Draw neighbours instead: --data.fanouts 10 10 with a train.batch_size of 256 or so (fine-tuning: --task neighbours)."
        )


def _memory() -> int:
    """Bytes of the GPU, or of this machine."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class OneGraph:
    """What both ways of taking one graph share. With `nodes_of` a batch has "root" (M,), the places of the nodes that count, and "y" (M,) or (M, T), their labels."""

    in_memory = True
    key, label_key = "x", "y"
    labels: Tensor | None = None
    """Of the chosen nodes."""
    classes: tuple[str, ...] = ()
    held_out: "OneGraph | None" = None
    valid: "OneGraph | None" = None
    """The nodes on which settings are chosen, where there are such."""

    def __init__(self, graph: Data, preprocess: GraphPreprocess, name: str) -> None:
        self.preprocess, self.name = preprocess, name
        whole = preprocess.transform(graph, name)
        self.nodes = count_nodes(whole, name)
        self.chosen = np.arange(self.nodes)
        """The nodes that are samples, or that count."""
        self.whole: Data | None = Data(**{key: whole[key] for key in ("x", "edge_index", "edge_attr", "pe") if key in whole})

    def nodes_of(self, part: Labelled) -> Self:
        """The same graph with some of its nodes and their labels."""
        made = copy.copy(self)
        made.chosen, made.labels, made.classes = part.chosen, part.labels, tuple(part.classes)
        return made

    @property
    def multi_label(self) -> bool:
        """Whether a node has several yes-or-no labels."""
        return self.labels is not None and self.labels.is_floating_point()

    def describe(self) -> dict[str, Any]:
        """Facts for logs and cards."""
        facts = {"name": self.name, "samples": len(self.chosen), "nodes": self.nodes, "source": "one graph"}
        return {**facts, "classes": len(self.classes)} if self.classes else facts


class WholeGraph(OneGraph):
    """A source of one sample: the graph, so that a step is an epoch."""

    def __len__(self) -> int:
        return 1

    @property
    def edges(self) -> int:
        """Edges, as the preprocessing makes them."""
        return self.whole.num_edges

    @property
    def members(self) -> int:
        """How many nodes count."""
        return len(self.chosen)

    def id(self, index: int) -> str:
        return self.name

    def __getitem__(self, index: int) -> Data:
        return self.whole

    def fetch(self, indices: Sequence[int], keys: np.ndarray | None = None) -> Batch:
        """The graph as a batch. ConfigError when it is asked for several times."""
        if len(indices) != 1:
            raise ConfigError(f"{self.name} is one graph, which a step takes whole: set train.batch_size=1 (found {len(indices)}), or draw neighbours with data.fanouts.")
        made = Batch.from_data_list([self.whole])
        if self.labels is not None:
            made.root, made.y = torch.from_numpy(self.chosen), self.labels
        return made


class NeighbourSource(OneGraph):
    """Samples are nodes of one graph, each with up to `fanouts[h]` neighbours of every node that was reached in h steps.

    A batch holds, for each sample, a graph of its own: "x", "edge_index" (the drawn edges, as the preprocessing wants them: both ways, self loops).
    """

    def __init__(self, graph: Data, preprocess: GraphPreprocess, fanouts: Sequence[int], name: str = "graph") -> None:
        """ConfigError for fanouts below 1, DataError for a graph that is damaged."""
        if not fanouts or min(fanouts) < 1:
            raise ConfigError(f"Neighbour sampling needs at least one number of neighbours, all at least 1, found {tuple(fanouts)}.")
        if preprocess.positions != "none":
            raise ConfigError("Positions of nodes belong to the whole graph and are not computed for drawn parts of it. Set model.positions to 'none'.")
        super().__init__(graph, preprocess, name)
        self.fanouts, self.x = tuple(fanouts), self.whole.x
        source, target = self.whole.edge_index.numpy()
        self.whole = None
        plain = source != target
        target, self.neighbours = each_once(target[plain], source[plain], self.nodes)
        """Sources of all edges, those that lead to one node together."""
        self.first = np.concatenate([[0], np.bincount(target, minlength=self.nodes).cumsum()])
        """Where those of each node begin."""

    def __len__(self) -> int:
        return len(self.chosen)

    def id(self, index: int) -> str:
        return f"node {self.chosen[index]}"

    def take(self, indices: Sequence[int]) -> "NeighbourSource":
        """The same graph with only these nodes as samples."""
        part = copy.copy(self)
        rows = np.asarray(indices, np.int64)
        part.chosen = self.chosen[rows]
        part.labels = None if self.labels is None else self.labels[torch.from_numpy(rows)]
        return part

    def __getitem__(self, index: int) -> Data:
        return self.fetch([index]).to_data_list()[0]

    def fetch(self, indices: Sequence[int], keys: np.ndarray | None = None) -> Batch:
        """A whole batch at once; without keys always with the same neighbours."""
        roots = self.chosen[np.asarray(indices, np.int64)]
        keys = sample_keys(0, [(0, int(i)) for i in indices]) if keys is None else keys
        owners = np.arange(len(roots))
        codes, edges = self._drawn(owners, roots, keys)
        whose, nodes = np.divmod(codes, self.nodes)
        made = Batch(x=self.x[torch.from_numpy(nodes)], edge_index=torch.from_numpy(edges), batch=torch.from_numpy(whose))
        counts = np.bincount(whose, minlength=len(roots))
        made.ptr = torch.from_numpy(np.concatenate([[0], counts.cumsum()]))
        made._num_graphs = len(roots)
        if self.labels is not None:
            made.root = torch.from_numpy(np.searchsorted(codes, owners * self.nodes + roots))
            made.y = self.labels[torch.as_tensor(indices, dtype=torch.long)]
        ends = torch.from_numpy(np.searchsorted(whose[edges[0]], np.arange(len(roots) + 1)))
        each = torch.arange(len(roots) + 1)
        levels = {"x": made.ptr, "edge_index": ends, "root": each, "y": each}
        made._slice_dict = {key: levels[key] for key in made.keys() if key in levels}  # so that to_data_list works
        made._inc_dict = {key: made.ptr[:-1] if key in ("edge_index", "root") else torch.zeros(len(roots), dtype=torch.long) for key in made._slice_dict}
        return made

    def _drawn(self, owners: np.ndarray, roots: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(owner * nodes + node of all that was reached, sorted; edges (2, E) between their places, sorted)."""
        codes = owners * self.nodes + roots
        frontier, sources, targets = codes, [], []
        for step, fanout in enumerate(self.fanouts):
            owner, node = np.divmod(frontier, self.nodes)
            degree = self.first[node + 1] - self.first[node]
            own = keys[owner] ^ ((node.astype(np.uint64) + np.uint64(1)) * ODD + np.uint64(step))
            at = np.where((degree <= fanout)[:, None], np.arange(fanout), (draws(own, fanout) * degree[:, None]).astype(np.int64))
            real = at < degree[:, None]
            reached = self.neighbours[(self.first[node][:, None] + at)[real]] + np.broadcast_to(owner[:, None] * self.nodes, at.shape)[real]
            sources.append(reached)
            targets.append(np.broadcast_to(frontier[:, None], at.shape)[real])
            frontier = np.setdiff1d(reached, codes)
            codes = np.union1d(codes, frontier)
        a, b = (np.searchsorted(codes, np.concatenate(ends)) for ends in (sources, targets))
        if self.preprocess.undirected:
            a, b = np.concatenate([a, b]), np.concatenate([b, a])
        if self.preprocess.self_loops:
            a, b = (np.concatenate([ends, np.arange(len(codes))]) for ends in (a, b))
        return codes, np.stack(np.divmod(np.unique(a * len(codes) + b), len(codes)))

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "edges": len(self.neighbours), "neighbours drawn": list(self.fanouts)}
