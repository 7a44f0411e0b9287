"""What the learning proofs share: runs that are made once, what was measured at their end, and the printed table."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from modalities.common.run import ModelRecipe, run
from trainer.config import replace
from trainer.files import read_json

SAME, BEST = "from scratch, same settings", "from scratch, best learning rate"


def finished(recipe: ModelRecipe, folder: Path) -> Path:
    """The export of a run, which is made or ended when it is not there."""
    return folder / "export" if (folder / "record.json").exists() else run(recipe, folder, resume=(folder / "recipe.yaml").exists())


def measured(recipe: ModelRecipe, folder: Path, metric: str = "accuracy") -> float:
    """What was measured at the end of a run (see `finished`), in percent."""
    finished(recipe, folder)
    return next(row["value"] for row in read_json(folder / "record.json")["evaluations"] if row["metric"] == metric)


def beside_scratch(tuned: ModelRecipe, rates: Sequence[float], folder: Path, metric: str = "accuracy") -> tuple[float, float, float]:
    """What a fine-tuning reaches, the same network and settings from scratch, and the best from scratch of those settings and other learning rates; in percent.

    The best is chosen by the very metric, in the favour of training from scratch.
    """
    scratch = replace(tuned, {"scratch": True})
    same = measured(scratch, folder / "scratch", metric)
    others = [measured(replace(scratch, {"train.optim.lr": rate}), folder / f"scratch-{rate:g}", metric) for rate in rates]
    return measured(tuned, folder / "tuned", metric), same, max([same, *others])


def few_labels(make: Callable[[int], ModelRecipe], pretrained: str, seeds: Sequence[int], rates: Sequence[float], to: Path) -> dict[str, list[float]]:
    """The rows of `beside_scratch` over some seeds: `make` gives the fine-tuning of a seed, `pretrained` is what its row is called."""
    found = [beside_scratch(make(seed), rates, to / str(seed)) for seed in seeds]
    return dict(zip((pretrained, SAME, BEST), map(list, zip(*found))))


def show(title: str, rows: Mapping[str, Sequence[float]]) -> None:
    """Print a title and a line for each row: mean and deviation over the seeds, and the seeds."""
    print(title)
    width = max(map(len, rows)) + 1
    for what, found in rows.items():
        spread = f" +- {stdev(found):.1f}" if len(found) > 1 else ""
        print(f"{what:<{width}} {mean(found):5.1f}{spread:<8} ({', '.join(f'{value:.1f}' for value in found)})")
