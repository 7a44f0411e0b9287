"""Does the bundled forecaster gain by fine-tuning, and what is its start worth? `python -m tools.learn_ttm`, three seeds, on built-in real series.

On each of the longer sets that come with statsmodels the bundled model is fine-tuned on the first 70 % of the series, as the fine-tuning script does by
default, and the same network is trained from scratch: with the same settings, and with the learning rate among three that is best on the test part of
that set, in its favour. Errors are those of the last 20 %.
"""

import sys
import tempfile
from pathlib import Path
from statistics import mean

import tyro

from modalities.common.commandline import guarded
from modalities.time_series.demo import tuning
from modalities.time_series.metrics import geometric_mean
from modalities.time_series.real import real_sets
from tools.learning import measured, show
from trainer.config import replace
from trainer.files import read_json

QUIET = {"train.pictures": 0, "train.log_every": 1000, "train.keep_last": 1, "train.save_every": 10**6}
RATE = 3e-4
"""Of fine-tuning, the default of the script."""
RATES = (RATE, 1e-3, 3e-3)
"""Of training from scratch."""
LEAST = 500
"""Steps of the longest series of a set that is taken."""
METRIC = "relative_mae"


def learn(seeds: tuple[int, ...] = (0, 1, 2), sets: tuple[str, ...] = (), steps: int = 100, batch_size: int = 32, folder: Path | None = None) -> None:
    """Train, measure and print.

    Args:
        seeds: One run of each kind per seed and set.
        sets: Built-in sets. Default: all that have a series of at least 500 steps.
        steps: Of each training.
        batch_size: Windows of a step.
        folder: Where the runs go and are found again. Default: a temporary folder.
    """
    taken = [data for data in real_sets(sets or None) if sets or max(item.length for item in data.items) >= LEAST]
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        errors: dict[str, dict[str, list[float]]] = {}
        for data in taken:

            def error(start: str, seed: int, rate: float) -> float:
                recipe = replace(tuning(data.name, data.steps_ahead, start == "scratch"), {**QUIET, "train.steps": steps, "train.batch_size": batch_size, "train.seed": seed, "train.optim.lr": rate})
                return 100 * measured(recipe, place / f"{data.name}-{start}-{rate:g}-{seed}", METRIC)

            tuned = [error("tuned", seed, RATE) for seed in seeds]
            scratch = {rate: [error("scratch", seed, rate) for seed in seeds] for rate in RATES}
            errors[data.name] = {
                "zero-shot": [_before(place / f"{data.name}-tuned-{RATE:g}-{seed}") for seed in seeds],
                "fine-tuned": tuned,
                "from scratch, same settings": scratch[RATE],
                "from scratch, best learning rate": min(scratch.values(), key=mean),
            }
    for name, found in errors.items():
        show(f"\n{name}: mean absolute error on the last fifth, in % of that of repeating the last value", found)
    starts = next(iter(errors.values()))
    together = {start: [geometric_mean([found[start][number] for found in errors.values()]) for number in range(len(seeds))] for start in starts}
    show(f"\nGeometric mean over {len(errors)} sets", together)


def _before(folder: Path) -> float:
    """The error of the bundled model before any training, in percent."""
    return 100 * next(row["before"] for row in read_json(folder / "record.json")["evaluations"] if row["metric"] == METRIC)


if __name__ == "__main__":
    sys.exit(guarded(lambda: tyro.cli(learn, prog="python -m tools.learn_ttm", use_underscores=True)))
