"""Random numbers of nodes and edges that follow from the key of their graph (`batch["sample_key"]`) and their place in it.

So they are the same however a batch is shared among processes or cut into micro-batches. (Where a share of all nodes of a batch is
hidden, the numbers are the same and the share is taken of the micro-batch.)
"""

import torch
from torch import Tensor
from torch_geometric.data import Batch

from modalities.graph.models.encoder import membership
from trainer.randomness import draws_at


def node_draws(batch: Batch, count: int) -> Tensor:
    """`count` uniform numbers in [0, 1) for each node, (N, count)."""
    nodes = len(batch["x"])
    return _draws(batch, membership(batch, nodes)[0], count)


def edge_draws(batch: Batch, count: int) -> Tensor:
    """`count` uniform numbers in [0, 1) for each edge, (E, count). The edges of a graph lie one after another in a batch."""
    edges = batch["edge_index"]
    whose = membership(batch, len(batch["x"]))[0].index_select(0, edges[0])
    return _draws(batch, whose, count, stream=1)


def _draws(batch: Batch, whose: Tensor, count: int, stream: int = 0) -> Tensor:
    """Numbers for things of which the graphs' own lie one after another; `whose` (M,) is the graph of each, not falling."""
    if "sample_key" not in batch:
        return torch.rand(len(whose), count, device=whose.device)
    keys = batch["sample_key"]
    first = torch.searchsorted(whose, torch.arange(len(keys), device=whose.device))
    place = torch.arange(len(whose), device=whose.device) - first.index_select(0, whose)
    places = (place[:, None] * count + torch.arange(count, device=whose.device)) * 2 + stream
    return draws_at(keys.index_select(0, whose)[:, None], places)
