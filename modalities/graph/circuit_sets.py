"""Sets of circuits as sources of samples: generated ones, or a folder of .npz files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch_geometric.data import Data

from modalities.graph.generated import LICENCE, SOURCE
from modalities.graph.generated_circuits import CircuitsConfig, generate
from modalities.graph.preprocess import collate
from modalities.graph.preprocess_circuits import CircuitPreprocess
from trainer.errors import ConfigError, DataError

GENERATED = "generated"
TEST_BEGINS = 1_000_000
"""Number of the first generated circuit that is held out."""


class CircuitSource:
    """Circuits in memory. A sample is a PyG `Data` as `CircuitPreprocess` makes it."""

    in_memory = True
    collate = staticmethod(collate)
    held_out: "CircuitSource | None" = None
    """Of a training set: circuits to measure on."""

    def __init__(self, circuits: Sequence[Data], name: str, about: dict[str, Any], names: Sequence[str] = ()) -> None:
        self.circuits, self.name, self.about, self.names = list(circuits), name, about, list(names)

    def __len__(self) -> int:
        return len(self.circuits)

    def __getitem__(self, index: int) -> Data:
        return self.circuits[index].clone()

    def id(self, index: int) -> str:
        """The file's name, else the number."""
        return self.names[index] if self.names else str(index)

    def describe(self) -> dict[str, Any]:
        """Facts for logs and cards."""
        pins = [circuit.num_nodes for circuit in self.circuits]
        return {"name": self.name, "samples": len(self), "pins": f"{min(pins)} to {max(pins)}, {sum(pins) / len(pins):.1f} on average", **self.about}


@dataclass(frozen=True)
class CircuitSet:
    """Which circuits."""

    path: str = GENERATED
    """`generated`, or a folder with `train` and perhaps `test`, each with one .npz file for each circuit."""
    circuits: int = 32
    """Generated circuits for training."""
    test_circuits: int = 8
    """Generated circuits to measure on, none of which is among the others."""
    generated: CircuitsConfig = field(default_factory=CircuitsConfig)
    """How large generated circuits are."""
    seed: int = 0
    """Of the generated circuits."""

    def __post_init__(self) -> None:
        if not 1 <= self.circuits < TEST_BEGINS or self.test_circuits < 1:
            raise ConfigError(f"data.circuits must be between 1 and {TEST_BEGINS - 1:,}, and data.test_circuits at least 1; found {self.circuits} and {self.test_circuits}.")
        own = {name: getattr(self, name) for name, usual in (("circuits", 32), ("test_circuits", 8), ("generated", CircuitsConfig()), ("seed", 0)) if getattr(self, name) != usual}
        if self.path != GENERATED and own:
            raise ConfigError(f"data.{', data.'.join(own)} only change(s) generated circuits, and data.path is {self.path!r}. Leave out.")

    def build(self, preprocess: CircuitPreprocess) -> CircuitSource:
        """The training circuits, with those that are held out."""
        if self.path != GENERATED:
            place = Path(self.path)
            source = _folder(place / "train", preprocess)
            source.held_out = _folder(place / "test", preprocess) if (place / "test").is_dir() else None
            return source
        source, source.held_out = (self._generated(first, count, preprocess) for first, count in ((0, self.circuits), (TEST_BEGINS, self.test_circuits)))
        return source

    def _generated(self, first: int, count: int, preprocess: CircuitPreprocess) -> CircuitSource:
        made = [preprocess.transform(generate(number, self.generated, self.seed), f"generated circuit {number}") for number in range(first, first + count)]
        return CircuitSource(made, "generated circuits", {"source": SOURCE, "licence": LICENCE, "derivation": f"{count:,} circuits of a made-up library, with the times of a timing engine."})


def _folder(place: Path, preprocess: CircuitPreprocess) -> CircuitSource:
    """The circuits of a folder, in the order of their names. DataError when there are none."""
    files = sorted(place.glob("*.npz"))
    if not files:
        raise DataError(f"{place} holds no circuits. Expected .npz files, one for each circuit.")
    return CircuitSource([preprocess.transform(file, str(file)) for file in files], place.resolve().parent.name, {"source": "circuits of the user"}, [file.name for file in files])
