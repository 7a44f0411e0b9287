"""Large circuits in parts for training: the order-preserving partition of PreRoutGNN (Zhong et al., AAAI 2024, arXiv 2403.00012, section 3.1).

A part is a run of whole topological levels, so what leads to a pin lies in its own part or in one before it, and every pin belongs to one part.
A part is trained on with a few more levels on either side, whose pins are seen and not scored.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch_geometric.data import Data

from modalities.graph.circuits import CELLS, NETS, PINS, Circuit
from trainer.errors import ConfigError

TOGETHER = 2
"""Levels that a part grows by: ends of wires, then outputs of cells."""


@dataclass(frozen=True)
class PartsConfig:
    """How large circuits are divided for training."""

    pins: int = 50_000
    """A circuit of more pins is divided into parts that grow, level by level, to so many. 0: circuits are taken whole."""
    padding: int = 4
    """Levels before and after a part that are seen and not scored."""
    sources: bool = False
    """Also take the pins at which edges into a part begin, however many levels before it. As published, edges from beyond the padding are cut."""

    def __post_init__(self) -> None:
        if self.pins < 0 or self.padding < 0:
            raise ConfigError(f"data.parts.pins and data.parts.padding must be at least 0, found {self.pins} and {self.padding}.")


def divide(level: Tensor, pins: int) -> list[range]:
    """The levels of each part of a circuit whose pins have the levels (N,): two at a time until a part has `pins` pins or more; the last may have fewer."""
    counts, parts, first, size = torch.bincount(level).tolist(), [], 0, 0
    for begin in range(0, len(counts), TOGETHER):
        end = min(begin + TOGETHER, len(counts))
        size += sum(counts[begin:end])
        if size >= pins or end == len(counts):
            parts.append(range(first, end))
            first, size = end, 0
    return parts


def cut_out(circuit: Data, levels: range, config: PartsConfig = PartsConfig()) -> Data:
    """The part of a circuit (as `CircuitPreprocess` makes it) with these levels, and `valid` (N,), 1 for its pins and 0 for those around them.

    Levels stay those of the whole circuit. Edges are taken where both ends are.
    """
    level = circuit.level
    inside = (level >= levels.start) & (level < levels.stop)
    taken = (level >= levels.start - config.padding) & (level < levels.stop + config.padding)
    if config.sources:
        for kind in ("net_index", "cell_index"):
            begin, end = circuit[kind]
            taken[begin[inside[end]]] = True
    pins = taken.nonzero()[:, 0]
    number = torch.cumsum(taken, 0) - 1
    part = Circuit(**{key: circuit[key][pins] for key in PINS if key in circuit}, valid=inside[pins].float(), cell_attr=circuit.cell_attr)
    for index, rows in (("net_index", NETS), ("cell_index", CELLS)):
        kept = taken[circuit[index]].all(dim=0).nonzero()[:, 0]
        part[index] = number[circuit[index][:, kept]]
        for key in rows:
            if key in circuit:
                part[key] = circuit[key][kept]
    return part
