"""Generated circuits: gates of a made-up library, placed on a die, wired without cycles, timed by `circuit_timing`.

The library is the same for all, so that what is learned on some holds for others.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from modalities.graph.circuit_timing import Arrays, analyse
from modalities.graph.circuits import AXIS, CELL_FEATURES, CORNERS, TABLES
from trainer.errors import ConfigError

INPUTS = (1, 1, 2, 2, 2, 3)
"""Input pins of the kinds of gates."""
SLEWS, LOADS = np.geomspace(0.02, 1.0, AXIS), np.geomspace(0.02, 2.0, AXIS)
"""Points of the axes of all tables."""


@dataclass(frozen=True)
class CircuitsConfig:
    """How large the circuits are."""

    gates: int = 60
    """Gates of the smallest; the largest have twice as many."""
    inputs: int = 6
    """Primary inputs."""
    near: float = 0.3
    """How far from a gate its inputs usually come, as a share of the die."""

    def __post_init__(self) -> None:
        if self.gates < 1 or self.inputs < 1:
            raise ConfigError(f"generated circuits need at least 1 gate and 1 input, found gates={self.gates} and inputs={self.inputs}.")
        if self.near <= 0:
            raise ConfigError(f"generated circuits need near above 0, found {self.near}.")


@dataclass(frozen=True)
class Gate:
    """A kind of gate."""

    capacitance: np.ndarray
    """Of each input pin, (inputs, 4)."""
    arcs: np.ndarray
    """Tables of the arc from each input pin, (inputs, 512)."""


@cache
def library() -> tuple[Gate, ...]:
    """The kinds of gates: each has an own delay, an own strength, and pins that differ a little."""
    rng = np.random.default_rng(2403)
    slew, load = np.meshgrid(SLEWS, LOADS, indexing="ij")
    header = np.concatenate([[1.0], SLEWS, LOADS])
    kinds = []
    for inputs in INPUTS:
        base, strength, steep = rng.uniform(0.03, 0.10), rng.uniform(0.10, 0.35), rng.uniform(0.1, 0.3)
        arcs = np.zeros((inputs, CELL_FEATURES))
        for arc in arcs:
            own = rng.uniform(0.8, 1.2)
            corner = own * np.repeat([0.85, 1.15], 2) * np.tile([1.0, rng.uniform(0.8, 1.2)], 2)
            delays = corner[:, None, None] * (base + strength * load + steep * slew + 0.1 * np.sqrt(slew * load))
            slews = corner[:, None, None] * (0.03 + 1.5 * strength * load + 0.2 * slew)
            arc[:] = np.concatenate([np.tile(header, TABLES), delays.ravel(), slews.ravel()])
        early_late = np.repeat([0.95, 1.05], 2)
        kinds.append(Gate(rng.uniform(0.02, 0.10, (inputs, 1)) * early_late * rng.uniform(0.9, 1.1, (inputs, CORNERS)), arcs))
    return tuple(kinds)


def generate(number: int, config: CircuitsConfig = CircuitsConfig(), seed: int = 0) -> Arrays:
    """One circuit, as `CircuitPreprocess` takes it, with all labels, and `required` (N, 4) and `endpoint` (N,) for slacks.

    It follows from (seed, number) alone. Signals that nothing else uses go to primary outputs, which are the end points.
    """
    rng = np.random.default_rng((seed, number))
    gates = int(rng.integers(config.gates, 2 * config.gates + 1))
    kinds = rng.integers(len(INPUTS), size=gates)
    drivers: list[tuple[int, np.ndarray]] = []
    features: list[np.ndarray] = []
    places: list[np.ndarray] = []
    nets: list[tuple[int, int]] = []
    cells: list[tuple[int, int]] = []
    tables: list[np.ndarray] = []

    def pin(place: np.ndarray, port: bool, drives: bool, capacitance: np.ndarray | float = 0.0) -> int:
        features.append(np.concatenate([[port, drives], place, 1 - place, np.broadcast_to(capacitance, CORNERS)]))
        places.append(place)
        return len(features) - 1

    for _ in range(config.inputs):
        place = rng.random(2)
        drivers.append((pin(place, True, True), place))
    for kind in kinds:
        place, gate = rng.random(2), library()[kind]
        ways = np.array([np.abs(place - there).sum() for _, there in drivers])
        likely = np.exp(-ways / config.near)
        chosen = rng.choice(len(drivers), size=len(gate.arcs), p=likely / likely.sum())
        entries = [pin(place, False, False, capacitance) for capacitance in gate.capacitance]
        nets += [(drivers[which][0], entry) for which, entry in zip(chosen, entries)]
        out = pin(place, False, True)
        cells += [(entry, out) for entry in entries]
        tables += list(gate.arcs)
        drivers.append((out, place))
    used = {driver for driver, _ in nets}
    ends = [driver for driver, _ in drivers if driver not in used]
    nets += [(driver, pin(rng.random(2), True, False, 0.05)) for driver in ends]
    return _timed(np.array(features), np.array(places), np.array(nets).T, np.array(cells).T, np.array(tables), rng)


def write_circuit(circuit: Arrays, path: Path) -> Path:
    """Write a circuit as .npz arrays that `CircuitPreprocess` reads."""
    np.savez(path, **circuit)
    return path


def _timed(x: np.ndarray, places: np.ndarray, nets: np.ndarray, cells: np.ndarray, tables: np.ndarray, rng: np.random.Generator) -> Arrays:
    """The arrays of a circuit, with times: inputs come within the first part of a cycle, outputs are due when most of them have come."""
    pins = len(x)
    start = np.sort(rng.uniform(0.0, 0.2, (pins, 2)), axis=1).repeat(2, axis=1)
    circuit = {
        "x": x, "net_index": nets, "net_attr": places[nets[1]] - places[nets[0]], "cell_index": cells, "cell_attr": tables,
        "arrival": start, "slew": rng.uniform(0.03, 0.2, (pins, 1)).repeat(CORNERS, axis=1),
    }  # fmt: skip
    circuit |= analyse(circuit)
    endpoint = (x[:, 0] > 0.5) & (x[:, 1] < 0.5)
    due = np.quantile(circuit["arrival"][endpoint, CORNERS // 2 :].max(axis=1), 0.9)
    circuit["required"] = np.where(endpoint[:, None], np.array([0.1, 0.1, due, due]), 0.0)
    circuit["endpoint"] = endpoint
    return {key: value.astype(np.float32) if value.dtype == np.float64 else value for key, value in circuit.items()}
