"""One run from recipe to export: the same for every modality, for pre-training and for fine-tuning.

A run folder holds `recipe.yaml`, `metrics.jsonl`, `tensorboard/`, `pictures/`, `checkpoints/`, `record.json`
(what was done, on what, how long, with which result) and `export/` (what would be published).
"""

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed

from modalities.common.model import Model
from trainer.callback import overriding
from trainer.data import Source
from trainer.errors import ConfigError, Interrupted
from trainer.files import explain, remove_leftovers, write_json
from trainer.logs import MetricsFile, Pictures, ProgressBar, TensorBoard, read_lines
from trainer.objective import Objective
from trainer.recipe import Recipe, difference, read_recipe
from trainer.trainer import Trainer, hardware

log = logging.getLogger("zoo")

CardWriter = Callable[[Model, dict[str, Any], Path], tuple[str, dict[str, Path]]]
"""(model, record, run folder) -> the text of the card and the files that it shows (name -> path)."""


@dataclass(frozen=True)
class ModelRecipe(Recipe):
    """A recipe that can say how its parts are built. Each modality has one per kind of training."""

    def build(self) -> tuple[Source, Objective]:
        """The training data and the objective, whose `export()` is the model with its preprocessing."""
        raise NotImplementedError(f"{type(self).__name__} must define build()")

    def draw(self, objective: Objective, source: Source) -> Callable[[Path, str], None] | None:
        """A function (path, title) that draws the state of training, or None."""
        return None

    def evaluate(self, model: Model) -> list[dict[str, Any]]:
        """Measured results of the exported model: dicts with task, data, metric, value, samples."""
        return []


def run(recipe: ModelRecipe, folder: Path | str, resume: bool = False, card: CardWriter | None = None) -> Path:
    """Train as the recipe says and export the model; returns the export folder.

    `folder` must be new or empty, unless `resume` is given: then the run in it goes on where it stopped, and
    the recipe must be the same. `card` writes README.md of the export. Raises ConfigError when the folder and
    `resume` do not go together, Interrupted when the user stops the run.
    """
    folder = Path(folder)
    began = time.perf_counter()
    set_seed(recipe.train.seed)
    if resume:
        _check_resumable(recipe, folder)
    else:
        _check_new(folder)
    # Everything that can be wrong with data, model or options is found before a folder is made.
    source, objective = recipe.build()
    board = TensorBoard()
    callbacks = [MetricsFile(), board, ProgressBar()]
    draw = recipe.draw(objective, source)
    if draw is not None and recipe.train.pictures:
        callbacks.append(Pictures(draw, board))
    trainer = Trainer(objective, source, recipe.train, folder, callbacks)
    if not resume:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain(error, folder) from error
        recipe.save(folder / "recipe.yaml")
    try:
        trainer.fit(resume=resume)
        return _finish(recipe, trainer, began, card)
    except (KeyboardInterrupt, Interrupted) as error:
        reached = f"{error}" if isinstance(error, Interrupted) else f"Stopped at once; the last checkpoint in {folder} is what counts."
        raise Interrupted(f"{reached} The same command with --resume goes on from there.") from error


def _finish(recipe: ModelRecipe, trainer: Trainer, began: float, card: CardWriter | None) -> Path:
    """Evaluate the trained model, write the record and the export; returns the export folder."""
    folder = trainer.folder
    model = trainer.objective.export()
    for hook in overriding(trainer.callbacks, "export"):
        model = hook(trainer, model)
    model.eval()
    record = {
        "recipe": recipe.recipe,
        "command": command(),
        "data": trainer.source.describe() if hasattr(trainer.source, "describe") else {},
        "samples": len(trainer.source),
        "steps": trainer.steps,
        "batch_size": recipe.train.batch_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "hardware": hardware(trainer.accelerator.device),
        "seconds": round(trainer.seconds, 1),
        "seconds_with_setup": round(time.perf_counter() - began, 1),
        "final": {k: v for k, v in trainer.last.items() if k != "samples_per_second"},
        "evaluations": recipe.evaluate(model),
        "versions": versions(),
    }
    if trainer.accelerator.is_main_process:
        write_json(folder / "record.json", record)
        text, files = card(model, record, folder) if card is not None else (None, None)
        model.save_pretrained(folder / "export", card=text, files=files)
    log.info("Exported to %s", folder / "export")
    return folder / "export"


def command() -> str:
    """The command line as a person would type it again."""
    program = Path(sys.argv[0]).name
    if program.endswith(".py") or program == "-c":
        module = getattr(sys.modules.get("__main__"), "__spec__", None)
        program = f"python -m {module.name.removesuffix('.__main__')}" if module else f"python {program}"
    return " ".join([program, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Versions of the libraries that decide a result."""
    found = {"python": sys.version.split()[0], "torch": torch.__version__}
    for name in ("modality-zoo", "timm", "accelerate"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a source tree that is not installed
            found[name] = "source tree"
    return found


def _check_new(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file. Choose a folder for the run.")
    if (folder / "recipe.yaml").exists():
        lines = read_lines(folder / "metrics.jsonl")
        reached = f", logged up to step {lines[-1]['step']:,}" if lines else ""
        raise ConfigError(
            f"{folder} holds a run already{reached}. Add --resume to go on with it, or choose another folder with --to."
        )
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and holds no run. Choose a new folder with --to.")


def _check_resumable(recipe: Recipe, folder: Path) -> None:
    if not (folder / "recipe.yaml").exists():
        raise ConfigError(f"There is no run in {folder} to resume (no recipe.yaml). Leave --resume out to start one.")
    remove_leftovers(folder)
    changed = difference(read_recipe(folder / "recipe.yaml", recipe), recipe)
    if changed:
        raise ConfigError(
            "The recipe differs from the one this run was started with:\n  " + "\n  ".join(changed)
            + "\nResume with the same options, or start a new run in another folder."
        )  # fmt: skip
