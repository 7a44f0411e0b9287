"""A small static timing engine: arrival times and slews of the pins of a circuit, delays of its wires and cells, in four corners.

Corners are early rise, early fall, late rise, late fall, in this order. Cells keep the direction of a signal. An arc's tables 0 to 3
are its delays in the corners, 4 to 7 the slews that it gives, over (slew at the input pin, load of the output pin).
Early arrival at a cell's output is the earliest over its arcs, late arrival the latest, each with the slew of that arc.
"""

from dataclasses import dataclass

import numpy as np
import torch

from modalities.graph.circuits import AXIS, CORNERS, HEADER, TABLES, levels

EARLY = np.array([True, True, False, False])
CAPACITANCES = slice(6, 10)
"""Columns of x."""

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Wires:
    """What a wire does, by its length |dx| + |dy|."""

    resistance: float = 0.1
    """Per length."""
    capacitance: float = 2.0
    """Per length."""
    early: float = 0.9
    """Factor of early delays."""
    late: float = 1.1
    """Factor of late delays."""


def analyse(circuit: Arrays, wires: Wires = Wires()) -> Arrays:
    """`arrival` and `slew` (N, 4), `net_delay` (N, 4) and `cell_delay` (A, 4) of a circuit (arrays as `CircuitPreprocess` takes them).

    `arrival` and `slew` of the circuit are those at its sources; other rows are not read. DataError for a circuit with a cycle.
    """
    x, nets, cells = (np.asarray(circuit[key]) for key in ("x", "net_index", "cell_index"))
    level = levels(torch.from_numpy(np.concatenate([nets, cells], axis=1)), len(x), "the circuit").numpy()
    capacitance = x[:, CAPACITANCES].astype(np.float64)
    length = np.abs(np.asarray(circuit["net_attr"], dtype=np.float64)).sum(axis=1)[:, None]
    delay = wires.resistance * length * (wires.capacitance * length / 2 + capacitance[nets[1]]) * np.where(EARLY, wires.early, wires.late)
    load = np.zeros((len(x), CORNERS))
    np.add.at(load, nets[0], wires.capacitance * length + capacitance[nets[1]])
    source = (level == 0)[:, None]
    arrival, slew = (np.where(source, circuit[key], 0.0).astype(np.float64) for key in ("arrival", "slew"))
    through = np.zeros((cells.shape[1], CORNERS))
    of_net, of_cell = level[nets[1]], level[cells[1]]
    for now in range(1, int(level.max(initial=0)) + 1):
        wire = np.flatnonzero(of_net == now)
        begin, end = nets[:, wire]
        arrival[end] = arrival[begin] + delay[wire]
        slew[end] = np.hypot(slew[begin], 2.2 * delay[wire])  # 10 to 90 percent of one resistor and one capacitor
        arcs = np.flatnonzero(of_cell == now)
        if len(arcs):
            begin, end = cells[:, arcs]
            through[arcs], given = look_up(circuit["cell_attr"][arcs], slew[begin], load[end])
            _meet(arrival, slew, end, arrival[begin] + through[arcs], given)
    net_delay = np.zeros_like(load)
    net_delay[nets[1]] = delay
    return {"arrival": arrival, "slew": slew, "net_delay": net_delay, "cell_delay": through}


def look_up(attr: np.ndarray, slew: np.ndarray, load: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(delays, slews), both (A, 4), of arcs (A, 512) at slews and loads (A, 4): linear between the points of a table, its edge beyond them."""
    attr = np.asarray(attr, dtype=np.float64)
    axes = attr[:, :HEADER].reshape(len(attr), TABLES, 1 + 2 * AXIS)[:, :, 1:].reshape(len(attr), TABLES, 2, AXIS)
    values = attr[:, HEADER:].reshape(len(attr), TABLES, AXIS, AXIS)
    (row, down), (column, right) = (_place(axes[:, :, i], np.tile(at, 2)) for i, at in enumerate((slew, load)))
    arc, table = np.ogrid[: len(attr), :TABLES]
    upper, lower = ((1 - right) * values[arc, table, row + i, column] + right * values[arc, table, row + i, column + 1] for i in (0, 1))
    found = (1 - down) * upper + down * lower
    return found[:, :CORNERS], found[:, CORNERS:]


def _place(axis: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where (A, T) numbers lie on axes (A, T, 7): the point before, and the share of the way to the next."""
    before = np.clip((axis <= at[..., None]).sum(axis=2) - 1, 0, AXIS - 2)
    low, high = (np.take_along_axis(axis, (before + i)[..., None], axis=2)[..., 0] for i in (0, 1))
    return before, np.clip((at - low) / (high - low), 0.0, 1.0)


def _meet(arrival: np.ndarray, slew: np.ndarray, end: np.ndarray, arriving: np.ndarray, given: np.ndarray) -> None:
    """Write what reaches the output pins `end` (E,) by several arcs: the earliest in early corners, the latest in late ones."""
    rank = np.where(EARLY, -arriving, arriving)
    for corner in range(CORNERS):
        order = np.lexsort((rank[:, corner], end))
        last = order[np.append(end[order][1:] != end[order][:-1], True)]
        arrival[end[last], corner], slew[end[last], corner] = arriving[last, corner], given[last, corner]
