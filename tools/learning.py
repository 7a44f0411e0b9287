"""What the learning proofs share: runs that are made once, what was measured at their end, and the printed table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from modalities.common.run import ModelRecipe, run
from trainer.files import read_json


def finished(recipe: ModelRecipe, folder: Path) -> Path:
    """The export of a run, which is made or ended when it is not there."""
    return folder / "export" if (folder / "record.json").exists() else run(recipe, folder, resume=(folder / "recipe.yaml").exists())


def measured(recipe: ModelRecipe, folder: Path, metric: str = "accuracy") -> float:
    """What was measured at the end of a run (see `finished`), in percent."""
    finished(recipe, folder)
    return next(row["value"] for row in read_json(folder / "record.json")["evaluations"] if row["metric"] == metric)


def show(title: str, rows: Mapping[str, Sequence[float]]) -> None:
    """Print a title and a line for each row: mean and deviation over the seeds, and the seeds."""
    print(title)
    width = max(map(len, rows)) + 1
    for what, found in rows.items():
        spread = f" +- {stdev(found):.1f}" if len(found) > 1 else ""
        print(f"{what:<{width}} {mean(found):5.1f}{spread:<8} ({', '.join(f'{value:.1f}' for value in found)})")
