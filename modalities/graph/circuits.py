"""Circuits as graphs of pins: what a batch of them holds, the topological levels of the pins, and the edges that the auto-encoder sees.

A batch of circuits is a PyG `Batch` with

x (N, 10)            per pin: is a port, drives a net, 4 distances to the edges of the die, 4 capacitances (early/late x rise/fall)
net_index (2, W)     wires, from the driver of a net to each of its sinks;  net_attr (W, 2): dx, dy
cell_index (2, A)    arcs through cells, from an input pin to an output pin
cell_attr (K, 512)   lookup tables, 8 for each kind of arc, see `tables`;  cell_kind (A,): which row an arc has; without it each arc has its own
level (N,)           int64, topological level of each pin
timing (N, 8)        4 arrival times and 4 log-slews; needed at the primary inputs, a label elsewhere
net_delays (N, 4)    log-delays of the wire that ends at a pin;  cell_delays (A, 4): labels, as `CircuitPreprocess` makes them
labelled (N,)        1 where `timing` is a label, else 0
required (N, 4)      when signals must be there: not before (early corners), not after (late ones); NaN where nothing is asked
valid (N,)           of a part of a circuit (`circuit_parts`), 1 for its own pins, 0 for those around them; else absent
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from trainer.errors import DataError

PIN_FEATURES, NET_FEATURES, CELL_FEATURES = 10, 2, 512
TABLES, AXIS = 8, 7
"""Lookup tables of an arc, and the points on each of a table's two axes."""
HEADER = TABLES * (1 + 2 * AXIS)
"""Features of an arc before the values of its tables."""
CORNERS = 4
"""Early and late, rising and falling."""
TIMES = 2 * CORNERS
"""Arrival times and log-slews of a pin."""
BLOCK = 2**12
"""Arcs whose tables are compared at a time."""
EDGE_FEATURES = 2 + TABLES + NET_FEATURES
"""Of an edge that the auto-encoder sees: which kind it is, means of the tables, dx and dy."""
PINS, NETS, CELLS = ("x", "level", "timing", "labelled", "required", "net_delays"), ("net_attr",), ("cell_kind", "cell_delays")
"""Entries of a circuit that have a row for each pin, each wire, each cell arc."""


def require_circuit(batch: Batch) -> Batch:
    """The batch itself, or DataError when it is none of circuits."""
    widths = {"x": PIN_FEATURES, "net_attr": NET_FEATURES, "cell_attr": CELL_FEATURES}
    for key, width in widths.items():
        values = batch[key] if key in batch else None
        if values is None or values.ndim != 2 or values.shape[1] != width:
            found = "none" if values is None else f"one of shape {tuple(values.shape)}"
            raise DataError(f"A circuit needs {key} with {width} columns; this batch holds {found}. Make it with model.preprocess(circuits).")
    lacking = [key for key in ("net_index", "cell_index", "level", "timing") if key not in batch]
    if lacking or not isinstance(batch, Batch):
        raise DataError(f"This is no batch of circuits: it lacks {', '.join(lacking) or 'the numbers of the circuits'}. Make it with model.preprocess(circuits).")
    return batch


class Circuit(Data):
    """A circuit with `cell_kind`, which goes on counting where circuits are put together."""

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        return len(self.cell_attr) if key == "cell_kind" else super().__inc__(key, value, *args, **kwargs)


def same_tables(cell_attr: Tensor) -> tuple[Tensor, Tensor]:
    """The different rows (K, 512) among those of all arcs (A, 512), and which of them each arc has, (A,): arcs of one library share theirs."""
    bits = cell_attr.contiguous().numpy().view(np.int32)
    weights = np.random.default_rng(0).integers(-(2**62), 2**62, bits.shape[1]) | 1
    blocks = [bits[begin : begin + BLOCK] for begin in range(0, len(bits), BLOCK)]
    sums = np.concatenate([(block * weights).sum(axis=1) for block in blocks]) if blocks else np.empty(0, np.int64)  # overflow wraps: a hash
    _, first, kind = np.unique(sums, return_index=True, return_inverse=True)
    if not all((bits[first[kind[i * BLOCK : i * BLOCK + len(block)]]] == block).all() for i, block in enumerate(blocks)):  # two rows with one hash
        first = kind = np.arange(len(bits))
    return cell_attr[torch.from_numpy(first)], torch.from_numpy(kind)


def kinds_of(batch: Batch) -> Tensor:
    """Which row of `cell_attr` each arc (A,) has."""
    return batch["cell_kind"] if "cell_kind" in batch else torch.arange(len(batch["cell_attr"]), device=batch["cell_attr"].device)


def tables(cell_attr: Tensor) -> tuple[Tensor, Tensor]:
    """Of arcs (A, 512) the products of the axis points and the values of all lookup tables, both (A, 8, 49), row by row.

    The first 120 features are for each table: whether it is valid (not used), 7 points on the first axis, 7 on the second.
    The other 392 are the values.
    """
    header = cell_attr[:, :HEADER].unflatten(1, (TABLES, 1 + 2 * AXIS))
    first, second = header[..., 1 : 1 + AXIS], header[..., 1 + AXIS :]
    return (first[..., :, None] * second[..., None, :]).flatten(2), table_values(cell_attr)


def table_values(cell_attr: Tensor) -> Tensor:
    """Of arcs (A, 512) the values of all lookup tables, (A, 8, 49), row by row."""
    return cell_attr[:, HEADER:].unflatten(1, (TABLES, AXIS * AXIS))


def primary_inputs(batch: Batch) -> Tensor:
    """Which pins (N,) are ports that drive a net: their timing is given."""
    return (batch["x"][:, 0] > 0.5) & (batch["x"][:, 1] > 0.5)


def level_encoding(level: Tensor, frequencies: int, max_level: int) -> Tensor:
    """Levels (N,) as (N, 1 + 2 * frequencies): the level itself, then sines, then cosines, each frequency twice the one before."""
    angle = level[:, None] * (math.pi / max_level * 2.0 ** torch.arange(frequencies, device=level.device))
    return torch.cat([level[:, None].to(angle.dtype), angle.sin(), angle.cos()], dim=1)


def plain_edges(batch: Batch) -> tuple[Tensor, Tensor]:
    """All edges (2, E) as of one kind, and their features (E, 12): wires, arcs, then both turned round with the negative features."""
    nets, kinds, means = batch["net_attr"], kinds_of(batch), table_values(batch["cell_attr"]).mean(dim=2)
    wires = torch.cat([nets.new_tensor([0.0, 1.0]).expand(len(nets), -1), nets.new_zeros(len(nets), TABLES), nets], dim=1)
    arcs = torch.cat([nets.new_tensor([1.0, 0.0]).expand(len(kinds), -1), means.index_select(0, kinds), nets.new_zeros(len(kinds), NET_FEATURES)], dim=1)
    edges, features = torch.cat([batch["net_index"], batch["cell_index"]], dim=1), torch.cat([wires, arcs])
    return torch.cat([edges, edges.flip(0)], dim=1), torch.cat([features, -features])


def levels(edges: Tensor, pins: int, where: str) -> Tensor:
    """Topological level (N,) of each pin: the most edges (2, E) on a way that leads to it. DataError names pins on a cycle."""
    source, target = edges.numpy()
    order = np.argsort(source, kind="stable")
    after = target[order]
    begin = np.searchsorted(source[order], np.arange(pins + 1))
    waiting = np.bincount(target, minlength=pins)
    found = np.full(pins, -1, dtype=np.int64)
    front, level = np.flatnonzero(waiting == 0), 0
    while len(front):
        found[front] = level
        counts = begin[front + 1] - begin[front]
        first = np.repeat(begin[front] - np.concatenate([[0], counts.cumsum()[:-1]]), counts)
        reached = after[first + np.arange(counts.sum())]
        np.subtract.at(waiting, reached, 1)
        front, level = np.unique(reached[waiting[reached] == 0]), level + 1
    if (found < 0).any():
        left = np.flatnonzero(found < 0)
        raise DataError(
            f"{where}: {len(left)} pin(s) lie on or behind a cycle of wires and cell arcs, {int(left[0])} among them, so no order of the pins exists. "
            "Cut the cycle: leave one of its arcs out, as timing engines do."
        )
    return torch.from_numpy(found)
