"""Loading a model from a folder against transformers' from_pretrained on the same tensors: `python -m tools.bench_loading`.

Time: both in one process, interleaved, so that a slow moment of the machine hits both; files in the page cache. Memory: each in a fresh
process, growth of the resident set at its highest, pages of mapped files included, relative to the size of the weights.
Ends with 0 only if loading is no slower than transformers (ratio of medians at most 1) and takes at most 1.1 times the weights.
"""

import dataclasses
import gc
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import tyro

import zoo
from modalities.vision.interop.mae import to_transformers
from trainer.weights import write_safetensors

MOST_MEMORY = 1.1
"""Times the weights."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    size: str = "base"
    """Size of vision/mae-*."""
    repeats: int = 21
    """Loads of each, after two that do not count."""
    threads: int | None = None
    """Threads of torch. Default: as torch takes them."""


def main(options: Options) -> int:
    """Measure and print; 0 when both limits are kept."""
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="bench-loading-") as root:
        ours, theirs = Path(root) / "ours", Path(root) / "theirs"
        weights = make(options.size, ours, theirs)
        ways = {"zoo, its own folder": ("zoo", ours), "zoo, transformers' folder": ("zoo", theirs), "transformers": ("transformers", theirs)}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.repeats + 2):
            for name, (kind, folder) in ways.items():
                seconds[name].append(clock(loader(kind), folder))
        medians = {name: statistics.median(values[2:]) for name, values in seconds.items()}
        grown = {name: fresh_memory(kind, folder) / weights for name, (kind, folder) in ways.items()}
    print(f"vision/mae-{options.size}, {weights / 1e6:.0f} MB, {torch.get_num_threads()} thread(s), load average {os.getloadavg()[0]:.1f}, {options.repeats} loads each, interleaved")
    print(f"{'':<28}{'median, ms':>12}{'least, ms':>12}{'ratio':>8}{'memory / weights':>19}")
    for name, median in medians.items():
        ratio = median / medians["transformers"]
        print(f"{name:<28}{1e3 * median:>12.1f}{1e3 * min(seconds[name][2:]):>12.1f}{ratio:>8.2f}{grown[name]:>19.2f}")
    kept = medians["zoo, its own folder"] <= medians["transformers"] and all(grown[name] <= MOST_MEMORY for name in ways if name.startswith("zoo"))
    print(f"no slower than transformers, at most {MOST_MEMORY} times the weights: {'yes' if kept else 'NO'}")
    return 0 if kept else 1


def make(size: str, ours: Path, theirs: Path) -> int:
    """Write one model with random weights in both layouts; returns the bytes of its weights."""
    torch.manual_seed(0)
    model = zoo.create(f"vision/mae-{size}")
    model.save_pretrained(ours)
    state, config = to_transformers(model)
    theirs.mkdir()
    write_safetensors(state, theirs / "model.safetensors")
    (theirs / "config.json").write_text(json.dumps(config))
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def loader(kind: str) -> Callable[[Path], Any]:
    """The function that loads a folder, its library imported."""
    if kind == "zoo":
        return zoo.from_pretrained
    from transformers import ViTMAEForPreTraining
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    return ViTMAEForPreTraining.from_pretrained


def clock(load: Callable[[Path], Any], folder: Path) -> float:
    """Seconds of one load; freeing the model does not count."""
    start = time.perf_counter()
    model = load(folder)
    seconds = time.perf_counter() - start
    del model
    gc.collect()
    return seconds


def fresh_memory(kind: str, folder: Path) -> int:
    """Bytes by which a fresh process grows at its highest while it loads."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth, (kind, folder))


def _growth(kind: str, folder: Path) -> int:
    load = loader(kind)
    if kind == "zoo":
        zoo.from_pretrained("vision/mae-tiny-digits")  # imports what any model needs
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    before = _status("VmRSS")
    model = load(folder)
    grown = _status("VmHWM") - before
    del model
    return grown


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m tools.bench_loading")))
