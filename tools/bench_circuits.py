"""How much memory a large circuit takes: `python -m tools.bench_circuits` makes one, trains PreRoutGNN on its parts and finds all its times, each in a process of its own whose most memory is printed."""

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import tyro

from modalities import registry
from modalities.common import pretrained
from modalities.common.commandline import guarded
from modalities.common.run import run
from modalities.graph.generated_circuits import CircuitsConfig, generate, write_circuit
from trainer.config import replace
from trainer.files import read_json

PINS_PER_GATE = 3.2
"""Of a generated circuit, its share of the ports included."""


def bench(pins: int = 200_000, part_pins: int = 50_000, steps: int = 8, model: str = "graph/preroutgnn-tiny") -> None:
    """Make, train, find times; print seconds and memory.

    Args:
        pins: Pins of the circuit, about.
        part_pins: Pins of a part. 0: the circuit is trained on as a whole.
        steps: Of training, one part each.
        model: Whose sizes the network has: graph/preroutgnn-tiny or graph/preroutgnn-base.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "train").mkdir()
        for task, arguments in ((make, (pins,)), (train, (part_pins, steps, model)), (find, ())):
            with multiprocessing.get_context("spawn").Pool(1) as alone:
                print(alone.apply(measured, (task, folder, *arguments)), flush=True)


def measured(task: Callable[..., str], *arguments: object) -> str:
    """What a task says it did, with its time and the most memory of this process."""
    began = time.perf_counter()
    done = task(*arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"{done}: {time.perf_counter() - began:.1f} s, at most {peak / 1e9:.2f} GB"


def make(folder: Path, pins: int) -> str:
    """The circuit."""
    circuit = generate(0, CircuitsConfig(gates=int(pins / PINS_PER_GATE), spread=1, inputs=100))
    write_circuit(circuit, folder / "train" / "large.npz")
    return f"made a circuit of {len(circuit['x']):,} pins, {circuit['net_index'].shape[1]:,} wires, {circuit['cell_index'].shape[1]:,} cell arcs"


def train(folder: Path, part_pins: int, steps: int, model: str) -> str:
    """A run on its parts."""
    changes = {f"model.{name}": value for name, value in registry.find(model).fields.items()}
    changes |= {"data.path": str(folder), "data.parts.pins": part_pins, "train.batch_size": 1, "train.steps": steps, "train.pictures": 0, "train.log_every": steps}
    run(replace(registry.find_recipe("graph/preroutgnn-tiny"), changes), folder / "run")
    record = read_json(folder / "run" / "record.json")
    return f"trained {record['parameters']:,} parameters for {steps} steps on {record['samples']} part(s), {record['seconds'] / steps:.1f} s a step"


def find(folder: Path) -> str:
    """All times of the whole circuit, level by level."""
    model = pretrained.load(str(folder / "run"))
    with torch.inference_mode():
        model.timing_of(model.preprocess(str(folder / "train" / "large.npz")))
    return "found all times of the whole circuit"


if __name__ == "__main__":
    sys.exit(guarded(lambda: tyro.cli(bench, prog="python -m tools.bench_circuits", use_underscores=True)))
