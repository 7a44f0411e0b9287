"""How much memory a large circuit takes: `python -m tools.bench_circuits` makes one, trains PreRoutGNN on its parts, finds all its times, and prints the most memory that the process had."""

import resource
import sys
import tempfile
import time
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


def bench(pins: int = 200_000, part_pins: int = 50_000, steps: int = 8, model: str = "graph/preroutgnn-tiny", inference: bool = True) -> None:
    """Make, train, find times; print seconds and memory.

    Args:
        pins: Pins of the circuit, about.
        part_pins: Pins of a part. 0: the circuit is trained on as a whole.
        steps: Of training, one part each.
        model: Whose sizes the network has: graph/preroutgnn-tiny or graph/preroutgnn-base.
        inference: Also find the times of the whole circuit, level by level.
    """
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        (place / "train").mkdir()
        began = time.perf_counter()
        circuit = generate(0, CircuitsConfig(gates=int(pins / PINS_PER_GATE), spread=1, inputs=100))
        file = write_circuit(circuit, place / "train" / "large.npz")
        say(f"made a circuit of {len(circuit['x']):,} pins, {circuit['net_index'].shape[1]:,} wires, {circuit['cell_index'].shape[1]:,} cell arcs", began)
        del circuit
        changes = {f"model.{name}": value for name, value in registry.find(model).fields.items()}
        changes |= {"data.path": str(place), "data.parts.pins": part_pins, "train.batch_size": 1, "train.steps": steps, "train.pictures": 0, "train.log_every": 1}
        began = time.perf_counter()
        export = run(replace(registry.find_recipe("graph/preroutgnn-tiny"), changes), place / "run")
        record = read_json(place / "run" / "record.json")
        say(f"trained {record['parameters']:,} parameters for {steps} steps on {record['samples']} part(s), {record['seconds'] / steps:.1f} s a step", began)
        if inference:
            trained = pretrained.load(str(export))
            began = time.perf_counter()
            with torch.inference_mode():
                trained.timing_of(trained.preprocess(str(file)))
            say("found all times of the whole circuit", began)


def say(what: str, began: float) -> None:
    """One line: what was done, how long it took, the most memory so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{what}: {time.perf_counter() - began:.1f} s; peak memory of the process so far {peak / 1e9:.2f} GB", flush=True)


if __name__ == "__main__":
    sys.exit(guarded(lambda: tyro.cli(bench, prog="python -m tools.bench_circuits", use_underscores=True)))
