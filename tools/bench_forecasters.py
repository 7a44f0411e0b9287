"""TTM's forecast against granite-tsfm's own class: the same configuration, the same weights, the same series.

    pip install --target PEER --no-deps granite-tsfm
    python -m tools.bench_forecasters --peer PEER [--batches 1 64 1024] [--rounds 30]

The two alternate, in turn the one and the other first; the median of the ratios of each pair counts. Both run in evaluation mode without
gradients; ours is `forecast`, with all its checks. The command fails when outputs differ by more than 1e-4 of their largest magnitude.
"""

import importlib
import sys
import time
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from torch import nn

import zoo
from modalities.common.commandline import guarded
from modalities.time_series.interop.ttm import to_official, to_official_config
from modalities.time_series.models.ttm import TTM
from trainer.errors import MissingDependencyError, ModelError

CLASS = "tsfm_public.models.tinytimemixer"
LONGEST = 2.0
"""Seconds of repetitions of a forward pass that one round measures at least a tenth of."""


def bench(name: str = "time_series/ttm-512-96", peer: Path | None = None, batches: tuple[int, ...] = (1, 64, 1024), rounds: int = 30, seed: int = 0) -> list[float]:
    """Print the time of a forecast of each, and the median ratio, for some numbers of series.

    Args:
        name: Which TTM; weights are random.
        peer: Folder into which granite-tsfm was installed. Default: where Python finds it.
        batches: Numbers of series.
        rounds: Pairs that are timed.
        seed: Of weights and series.
    """
    torch.manual_seed(seed)
    ours = zoo.create(name).eval()
    theirs = official(ours, peer)
    runs = {
        "here": lambda series: ours.forecast({"series": series}, ours.direct_horizon).point,
        "granite-tsfm": lambda series: theirs(past_values=series.transpose(1, 2)).prediction_outputs.transpose(1, 2),
    }
    return race(runs, batches, ours.context_length, rounds)


def race(runs: dict[str, Callable[[torch.Tensor], torch.Tensor]], batches: tuple[int, ...], context: int, rounds: int) -> list[float]:
    """Of two, ours first, that forecast random series (B, 1, context): what `raced` says for some numbers of series."""
    found = []
    with torch.inference_mode():
        for size in batches:
            series = torch.randn(size, 1, context)
            found.append(raced({name: partial(run, series) for name, run in runs.items()}, size, rounds))
    print(f"on {torch.get_num_threads()} thread(s)")
    return found


def raced(runs: dict[str, Callable[[], torch.Tensor]], size: int, rounds: int) -> float:
    """Print the times of two, ours first, for so many series; how many times longer the other takes. ModelError when their outputs differ."""
    here, there = runs
    wanted = runs[there]()
    difference = (runs[here]() - wanted).abs().max().item()
    if not difference <= 1e-4 * max(1.0, wanted.abs().max().item()):
        raise ModelError(f"The two differ by {difference:.1g} for {size} series.")
    seconds = paired(runs, rounds)
    ratio = median(b / a for a, b in zip(seconds[here], seconds[there]))
    words = ", ".join(f"{who} {1000 * median(times):.2f} ms" for who, times in seconds.items())
    print(f"{size:5} series: {words}, ratio {ratio:.2f} (largest difference {difference:.1g})")
    return ratio


def paired(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of one call of each in every round; short calls are repeated within a round."""
    repeats = {}
    for name, run in runs.items():
        run()
        repeats[name] = max(1, round(LONGEST / 100 / timed(run, 1)))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds):
        for name in list(runs)[:: 1 if i % 2 else -1]:
            seconds[name].append(timed(runs[name], repeats[name]))
    return seconds


def timed(run: Callable[[], Any], repeats: int) -> float:
    """Seconds of a call, the mean over some."""
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - began) / repeats


def official(model: TTM, peer: Path | None) -> nn.Module:
    """granite-tsfm's class with the model's configuration and weights. MissingDependencyError when it is not there.

    Only its two modules are read: its packages import much that a forecast does not need.
    """
    places = [Path(place) for place in ([peer] if peer else sys.path)]
    root = next((place / "tsfm_public" for place in places if (place / "tsfm_public").is_dir()), None)
    if root is None:
        raise MissingDependencyError(f"granite-tsfm is not in {peer or 'the path of Python'}: pip install --target FOLDER --no-deps granite-tsfm, and give --peer FOLDER.")
    for package in ("tsfm_public", "tsfm_public.models", CLASS):
        module = types.ModuleType(package)
        module.__path__ = [str(root.joinpath(*package.split(".")[1:]))]
        sys.modules[package] = module
    values = to_official_config(model)
    config = importlib.import_module(f"{CLASS}.configuration_tinytimemixer").TinyTimeMixerConfig(**{k: v for k, v in values.items() if k not in ("model_type", "architectures")})
    theirs = getattr(importlib.import_module(f"{CLASS}.modeling_tinytimemixer"), values["architectures"][0])(config)
    theirs.load_state_dict(to_official(model))
    return theirs.eval()


if __name__ == "__main__":
    sys.exit(guarded(lambda: tyro.cli(bench, prog="python -m tools.bench_forecasters")))
