"""Sets of circuits as sources of samples: generated ones, or a folder of .npz files."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from torch_geometric.data import Data

from modalities.graph.circuit_parts import PartsConfig, cut_out, divide
from modalities.graph.generated import LICENCE, SOURCE
from modalities.graph.generated_circuits import CircuitsConfig, generate
from modalities.graph.preprocess import collate
from modalities.graph.preprocess_circuits import CircuitPreprocess
from trainer.errors import ConfigError, DataError

GENERATED = "generated"
TEST_BEGINS = 1_000_000
"""Number of the first generated circuit that is held out."""


class CircuitSource:
    """Circuits in memory. A sample is a PyG `Data` as `CircuitPreprocess` makes it, or a part of one (see `modalities.graph.circuit_parts`), cut out when it is asked for."""

    in_memory = True
    collate = staticmethod(collate)
    held_out: "CircuitSource | None" = None
    """Of a training set: circuits to measure on."""

    def __init__(self, circuits: Sequence[Data], name: str, about: dict[str, Any], names: Sequence[str] = (), parts: PartsConfig = PartsConfig(pins=0)) -> None:
        self.circuits, self.name, self.about, self.names, self.parts = list(circuits), name, about, list(names), parts
        self.samples: list[tuple[int, range | None]] = []
        """Which circuit a sample is, and which levels of it; None: all."""
        for number, circuit in enumerate(self.circuits):
            large = 0 < parts.pins < circuit.num_nodes
            self.samples += [(number, levels) for levels in (divide(circuit.level, parts.pins) if large else [None])]

    @property
    def divided(self) -> bool:
        """Whether some circuit is given in parts."""
        return len(self.samples) > len(self.circuits)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Data:
        number, levels = self.samples[index]
        return copy.copy(self.circuits[number]) if levels is None else cut_out(self.circuits[number], levels, self.parts)

    def id(self, index: int) -> str:
        """The file's name, else the number; of a part also its levels."""
        number, levels = self.samples[index]
        name = self.names[number] if self.names else str(number)
        return name if levels is None else f"{name}, levels {levels.start} to {levels.stop - 1}"

    def describe(self) -> dict[str, Any]:
        """Facts for logs and cards."""
        pins = [circuit.num_nodes for circuit in self.circuits]
        sizes = {"pins": f"{min(pins)} to {max(pins)}, {sum(pins) / len(pins):.1f} on average"}
        parted = {"circuits": len(self.circuits), "parts": f"runs of levels of about {self.parts.pins:,} pins"} if self.divided else {}
        return {"name": self.name, "samples": len(self), **sizes, **parted, **self.about}


@dataclass(frozen=True)
class CircuitSet:
    """Which circuits."""

    path: str = GENERATED
    """`generated`, or a folder of .npz files, one for each circuit, perhaps in `train` and `test`."""
    circuits: int = 32
    """Generated circuits for training."""
    test_circuits: int = 8
    """Generated circuits to measure on, none of which is among the others."""
    generated: CircuitsConfig = field(default_factory=CircuitsConfig)
    """How large generated circuits are."""
    test_gates: int | None = None
    """Gates of the smallest generated circuit to measure on. Empty: as of those for training."""
    seed: int = 0
    """Of the generated circuits."""
    parts: PartsConfig = field(default_factory=PartsConfig)
    """How large circuits are divided for training; those to measure on are taken whole."""

    def __post_init__(self) -> None:
        if not 1 <= self.circuits < TEST_BEGINS or self.test_circuits < 1:
            raise ConfigError(f"data.circuits must be between 1 and {TEST_BEGINS - 1:,}, and data.test_circuits at least 1; found {self.circuits} and {self.test_circuits}.")
        if self.path == GENERATED:
            return
        usual = CircuitSet()
        own = [one.name for one in fields(self) if one.name not in ("path", "parts") and getattr(self, one.name) != getattr(usual, one.name)]
        if own:
            raise ConfigError(f"data.{', data.'.join(own)} only change(s) generated circuits, and data.path is {self.path!r}. Leave out.")

    def build(self, preprocess: CircuitPreprocess) -> CircuitSource:
        """The training circuits, with those that are held out."""
        if self.path == GENERATED:
            source = self._generated(0, self.circuits, self.generated, preprocess, self.parts)
        else:
            source = _files(self._place("train"), preprocess, self.parts)
        source.held_out = self.build_test(preprocess) if self.path == GENERATED or (Path(self.path) / "test").is_dir() else None
        return source

    def build_test(self, preprocess: CircuitPreprocess) -> CircuitSource:
        """The circuits to measure on, whole: of a path without `test`, all."""
        if self.path == GENERATED:
            size = self.generated if self.test_gates is None else replace(self.generated, gates=self.test_gates)
            return self._generated(TEST_BEGINS, self.test_circuits, size, preprocess)
        return _files(self._place("test"), preprocess)

    def _place(self, part: str) -> Path:
        place = Path(self.path)
        return place / part if (place / part).is_dir() else place

    def _generated(self, first: int, count: int, size: CircuitsConfig, preprocess: CircuitPreprocess, parts: PartsConfig = PartsConfig(pins=0)) -> CircuitSource:
        made = [preprocess.transform(generate(number, size, self.seed), f"generated circuit {number}") for number in range(first, first + count)]
        about = {"source": SOURCE, "licence": LICENCE, "derivation": f"{count:,} circuits of a made-up library, with the times of a timing engine."}
        return CircuitSource(made, "generated circuits", about, parts=parts)


def _files(place: Path, preprocess: CircuitPreprocess, parts: PartsConfig = PartsConfig(pins=0)) -> CircuitSource:
    """The circuit of a file, or those of a folder in the order of their names. DataError when there are none."""
    files = sorted(place.glob("*.npz")) if place.is_dir() else [place]
    if not files:
        raise DataError(f"{place} holds no circuits. Expected .npz files, one for each circuit, here or in `train` and `test`.")
    resolved = place.resolve()
    name = resolved.parent.name if place.name in ("train", "test") else resolved.name.removesuffix(".npz")
    return CircuitSource([preprocess.transform(file, str(file)) for file in files], name, {"source": "circuits of the user"}, [file.name for file in files], parts)
