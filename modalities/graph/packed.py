"""Graphs in memory, end to end in a few long tensors: a batch is cut out of them without a loop over graphs."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from modalities.graph.preprocess import collate

EDGE = ("edge_index", "edge_attr")
"""Entries with one column or row for each edge."""


class PackedGraphs:
    """Preprocessed graphs; `batch(indices)` is what `preprocess.collate` makes of the same graphs."""

    def __init__(self, graphs: Sequence[Data], graph_level: Sequence[str] = ("y",)) -> None:
        """`graph_level`: entries with one row for each graph; all but these and the edges' belong to the nodes. DataError for graphs with different entries."""
        whole = collate(graphs)
        nodes = torch.tensor([graph.num_nodes for graph in graphs])
        edges = torch.tensor([graph.num_edges for graph in graphs])
        self.graphs = len(graphs)
        self.counts = {"node": nodes, "edge": edges, "graph": torch.ones_like(nodes)}
        """Nodes, edges, and 1, of each graph."""
        self.starts = {level: count.cumsum(0) - count for level, count in self.counts.items()}
        """Where those of each graph begin."""
        keys = [key for key in whole.keys() if key not in ("batch", "ptr")]
        self.levels = {key: "edge" if key in EDGE else "graph" if key in graph_level else "node" for key in keys}
        """Entry -> what it has a row for."""
        self.tensors: dict[str, Tensor] = {key: whole[key] for key in keys}
        self.tensors["edge_index"] = self.tensors["edge_index"] - self.starts["node"].repeat_interleave(edges)

    def __len__(self) -> int:
        return self.graphs

    def batch(self, indices: Sequence[int]) -> Batch:
        """These graphs as one batch."""
        chosen = torch.as_tensor(indices, dtype=torch.long)
        counts = {level: count[chosen] for level, count in self.counts.items()}
        rows = {level: _runs(self.starts[level][chosen], counts[level]) for level in counts}
        ends = {level: torch.cat([count.new_zeros(1), count.cumsum(0)]) for level, count in counts.items()}
        made = Batch()
        for key, tensor in self.tensors.items():
            level = self.levels[key]
            if key == "edge_index":
                made.edge_index = tensor[:, rows["edge"]] + ends["node"][:-1].repeat_interleave(counts["edge"])
            else:
                made[key] = tensor[rows[level]]
        made.batch = torch.arange(len(chosen)).repeat_interleave(counts["node"])
        made.ptr = ends["node"]
        made._num_graphs = len(chosen)
        made._slice_dict = {key: ends[self.levels[key]] for key in self.tensors}  # so that to_data_list works
        made._inc_dict = {key: ends["node"][:-1] if key == "edge_index" else torch.zeros(len(chosen), dtype=torch.long) for key in self.tensors}
        return made

    def graph(self, index: int) -> Data:
        """One of them."""
        return self.batch([index]).to_data_list()[0]


def _runs(starts: Tensor, lengths: Tensor) -> Tensor:
    """The numbers start, start + 1, ... of each run, one run after another."""
    before = lengths.cumsum(0) - lengths
    return torch.arange(int(lengths.sum())) + (starts - before).repeat_interleave(lengths)
