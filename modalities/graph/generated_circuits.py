"""Generated circuits: gates of a made-up library, placed on a die, wired without cycles, timed by `circuit_timing`.

The library is the same for all, so that what is learned on some holds for others. Technologies differ: in a coarse one pins have more capacitance and
wires less resistance. Gates come in several strengths, so a single pin does not tell its technology, and all pins of a circuit together do.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from modalities.graph.circuit_timing import Arrays, Wires, analyse
from modalities.graph.circuits import AXIS, CORNERS, PIN_FEATURES, TABLES
from trainer.errors import ConfigError

FAMILIES = (1, 1, 2, 2, 2, 3)
"""Input pins of the families of gates."""
DRIVES = (1, 2, 4, 8)
"""Strengths of the gates of a family, relative: of its output, and of the capacitances of its inputs."""
SMALLEST_DRIVEN = 0.2
"""Capacitance at a primary output, of the least of DRIVES."""
SLEWS, LOADS = np.geomspace(0.02, 1.0, AXIS), np.geomspace(0.2, 20.0, AXIS)
"""Points of the axes of all tables."""


@dataclass(frozen=True)
class CircuitsConfig:
    """How large the circuits are."""

    gates: int = 60
    """Gates of the smallest."""
    spread: float = 2.0
    """How many times as many the largest have."""
    inputs: int = 6
    """Primary inputs."""
    near: float = 0.3
    """How far from a gate its inputs usually come, as a share of the die."""
    technologies: float = 2.0
    """How many times as large as usual structures are in the coarsest technology, and as many times as small in the finest. 1: one technology."""

    def __post_init__(self) -> None:
        if self.gates < 1 or self.inputs < 1:
            raise ConfigError(f"generated circuits need at least 1 gate and 1 input, found gates={self.gates} and inputs={self.inputs}.")
        if self.near <= 0 or self.spread < 1 or self.technologies < 1:
            found = f"near={self.near}, spread={self.spread} and technologies={self.technologies}"
            raise ConfigError(f"generated circuits need near above 0, and spread and technologies of at least 1, found {found}.")


@dataclass(frozen=True)
class Gate:
    """A kind of gate."""

    capacitance: np.ndarray
    """Of each input pin, (inputs, 4)."""
    arcs: np.ndarray
    """Tables of the arc from each input pin, (inputs, 512)."""


@cache
def library() -> tuple[Gate, ...]:
    """The kinds of gates, each family in all strengths: a family has an own delay, and pins that differ a little."""
    rng = np.random.default_rng(2403)
    slew, load = np.meshgrid(SLEWS, LOADS, indexing="ij")
    header = np.concatenate([[1.0], SLEWS, LOADS])
    early_late = np.repeat([0.95, 1.05], 2)
    kinds = []
    for inputs in FAMILIES:
        base, weakness, steep = rng.uniform(0.03, 0.10), rng.uniform(0.02, 0.07), rng.uniform(0.1, 0.3)
        capacitance = rng.uniform(0.1, 0.3, (inputs, 1)) * early_late
        corners = [rng.uniform(0.8, 1.2) * np.repeat([0.85, 1.15], 2) * np.tile([1.0, rng.uniform(0.8, 1.2)], 2) for _ in range(inputs)]
        for drive in DRIVES:
            delays = base + weakness / drive * load + steep * slew + 0.03 * np.sqrt(slew * load)
            slews = 0.03 + 1.5 * weakness / drive * load + 0.2 * slew
            tables = [np.multiply.outer(corner, table).ravel() for corner in corners for table in (delays, slews)]
            arcs = np.concatenate([np.tile(header, (inputs, TABLES)), np.reshape(tables, (inputs, -1))], axis=1)
            kinds.append(Gate(drive * capacitance, arcs))
    return tuple(kinds)


def generate(number: int, config: CircuitsConfig = CircuitsConfig(), seed: int = 0) -> Arrays:
    """One circuit, as `CircuitPreprocess` takes it, with all labels, and `required` (N, 4) and `endpoint` (N,) for slacks.

    It follows from (seed, number) alone. Pins are numbered: primary inputs, inputs of gates, outputs of gates, primary outputs. Signals that nothing
    else uses go to primary outputs, which are the end points.
    """
    rng = np.random.default_rng((seed, number))
    gates = int(rng.integers(config.gates, int(config.spread * config.gates) + 1))
    size = config.technologies ** rng.uniform(-1, 1)
    capacitances, arcs = (np.concatenate([getattr(kind, name) for kind in library()]) for name in ("capacitance", "arcs"))
    inputs = np.array([len(kind.arcs) for kind in library()])
    kinds, places = rng.integers(len(inputs), size=gates), rng.random((config.inputs + gates, 2))
    gate = np.repeat(np.arange(gates), inputs[kinds])  # of each input pin
    order = np.arange(len(gate)) - np.searchsorted(gate, gate)  # which of its gate's inputs it is
    signal = _wired(rng, places, config, gate)
    unused = np.setdiff1d(np.arange(len(places)), signal)
    entries, ends = len(gate), len(unused)
    driver = np.where(np.arange(len(places)) < config.inputs, 0, entries) + np.arange(len(places))  # the pin of each signal
    entry, end = config.inputs + np.arange(entries), len(places) + entries + np.arange(ends)
    place = np.concatenate([places[: config.inputs], places[config.inputs + gate], places[config.inputs :], rng.random((ends, 2))])
    x = np.zeros((len(place), PIN_FEATURES))
    x[: config.inputs, 0] = x[end, 0] = x[driver, 1] = 1
    x[:, 2:4], x[:, 4:6] = place, 1 - place
    row = (np.cumsum(inputs) - inputs)[kinds[gate]] + order
    x[entry, 6:], x[end, 6:] = size * capacitances[row], SMALLEST_DRIVEN * rng.choice(DRIVES, (ends, 1))
    nets = np.stack([driver[np.concatenate([signal, unused])], np.concatenate([entry, end])])
    cells = np.stack([entry, driver[config.inputs + gate]])
    return _timed(x, place, nets, cells, arcs.astype(np.float32)[row], Wires(resistance=Wires.resistance / size**2), rng)


def _wired(rng: np.random.Generator, places: np.ndarray, config: CircuitsConfig, gate: np.ndarray) -> np.ndarray:
    """Which signal (a primary input, else a gate's output, by its row in `places`) each input pin takes, (P,); `gate` (P,) says whose pin it is.

    Gates come in groups, each a quarter as large as all before it, and take their signals from before their group, so there is no cycle. A pin takes the
    signal that is nearest to a random point around its gate, so most wires are short.
    """
    signal = np.empty(len(gate), dtype=np.int64)
    wanted = places[config.inputs + gate] + rng.laplace(scale=config.near / 2, size=(len(gate), 2))
    known = config.inputs
    while known < len(places):
        after = min(known + max(known // 4, 1), len(places))
        pins = slice(*np.searchsorted(gate, [known - config.inputs, after - config.inputs]))
        signal[pins] = cKDTree(places[:known]).query(wanted[pins], p=1)[1]
        known = after
    return signal


def write_circuit(circuit: Arrays, path: Path) -> Path:
    """Write a circuit as .npz arrays that `CircuitPreprocess` reads."""
    np.savez(path, **circuit)
    return path


def _timed(x: np.ndarray, places: np.ndarray, nets: np.ndarray, cells: np.ndarray, tables: np.ndarray, wires: Wires, rng: np.random.Generator) -> Arrays:
    """The arrays of a circuit, with times: inputs come within the first part of a cycle, outputs are due when most of them have come."""
    pins = len(x)
    start = np.sort(rng.uniform(0.0, 0.2, (pins, 2)), axis=1).repeat(2, axis=1)
    circuit = {
        "x": x, "net_index": nets, "net_attr": places[nets[1]] - places[nets[0]], "cell_index": cells, "cell_attr": tables,
        "arrival": start, "slew": rng.uniform(0.03, 0.2, (pins, 1)).repeat(CORNERS, axis=1),
    }  # fmt: skip
    circuit |= analyse(circuit, wires)
    endpoint = (x[:, 0] > 0.5) & (x[:, 1] < 0.5)
    due = np.quantile(circuit["arrival"][endpoint, CORNERS // 2 :].max(axis=1), 0.9)
    circuit["required"] = np.where(endpoint[:, None], np.array([0.1, 0.1, due, due]), 0.0)
    circuit["endpoint"] = endpoint
    return {key: value.astype(np.float32) if value.dtype == np.float64 else value for key, value in circuit.items()}
