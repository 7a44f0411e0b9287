"""One run from recipe to export: the same for every modality, for pre-training and for fine-tuning.

A run folder holds `recipe.yaml`, `metrics.jsonl`, `sessions.jsonl` (every start of it), `tensorboard/`, `pictures/`, `checkpoints/`, `record.json`
(what was done, on what, how long, with which result) and `export/` (what would be published).
"""

import logging
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from torch import nn

from modalities.common import pretrained
from modalities.common.evaluation import ReportedEvaluator, in_words, results
from modalities.common.licences import licence_of_start
from modalities.common.loading import match, own_name
from modalities.common.model import Model
from trainer.callback import overriding
from trainer.config import leaves
from trainer.data import Source
from trainer.devices import hardware
from trainer.errors import ConfigError, Interrupted, ZooError
from trainer.evaluation import Evaluate
from trainer.files import TEMPORARY, remove_leftovers, write_json
from trainer.lock import NAME as LOCK
from trainer.lock import locked
from trainer.logs import MetricsFile, Pictures, ProgressBar, Sessions, TensorBoard, finite, read_lines
from trainer.multigrid import MultigridPlan
from trainer.objective import Objective
from trainer.parallel import Processes, restarted
from trainer.profiler import Profiler
from trainer.recipe import Recipe, difference, read_recipe
from trainer.report import write_report
from trainer.trackers import Trackers
from trainer.trainer import Trainer
from trainer.versions import versions
from trainer.warm_start import find_checkpoint, objective_state, take_moments

log = logging.getLogger("zoo")

WATCHING = ("train.profile", "train.trackers")
"""Fields that change what is seen of a run, not what it computes: a resumed run may have others."""

CardWriter = Callable[[Model, dict[str, Any], Path], tuple[str, dict[str, Path | str]]]
"""(model, record, run folder) -> the text of the card and the files that lie beside it (name -> path, or text)."""

Draw = Callable[[Objective, Path, str], None]
"""(objective, path, title): draw what the objective does now."""


@dataclass(frozen=True)
class ModelRecipe(Recipe):
    """A recipe that can say how its parts are built. Each modality has one per kind of training."""

    def build(self) -> tuple[Source, Objective]:
        """The training data and the objective, whose `export()` is the model with its preprocessing."""
        raise NotImplementedError(f"{type(self).__name__} must define build()")

    def plan(self, source: Source, objective: Objective) -> MultigridPlan | None:
        """What the steps of the run take, where `train.multigrid` changes it. ConfigError for a model that reads one size only."""
        if self.train.multigrid.cycles == "none":
            return None
        model = objective.export()
        shape, multiple = model.input_shape(), model.size_multiple()
        if shape is None or multiple is None:
            raise ConfigError(f"train.multigrid changes the size of the inputs, and {type(model).__name__} reads one size only. Set train.multigrid.cycles to none.")
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in objective.modules()):
            raise ConfigError("train.multigrid changes the batch size, which batch norm does not bear here. Set train.multigrid.cycles to none.")
        steps = self.train.total_steps(len(source))
        return MultigridPlan(self.train.multigrid, self.train.batch_size, steps, tuple(shape[1:]), multiple, model.input_key)

    def draw(self, objective: Objective, source: Source) -> Draw | None:
        """What draws the state of training, or None."""
        return None

    def views(self, objective: Objective, source: Source) -> dict[str, Draw]:
        """What draws more sheets of the state of training, by their names (letters only)."""
        return {}

    def evaluators(self, source: Source, objective: Objective) -> list[ReportedEvaluator]:
        """What is measured at the end of the run and, with `train.evaluate`, inside it. `source` and `objective` are what `build` gave."""
        return []


def run(
    recipe: ModelRecipe, folder: Path | str, resume: bool = False, card: CardWriter | None = None, requeue: bool = False
) -> Path:
    """Train as the recipe says and export the model; returns the export folder.

    `folder` must be new or empty, unless `resume` is given: then the run in it goes on where it stopped, and
    the recipe must be the same. So it does with `requeue`, when the folder holds a run, and when torchrun starts the
    processes again after one has died.
    `card` writes README.md of the export. Raises ConfigError when the folder and `resume` do not go together or
    another process uses the folder, Interrupted when the user stops the run.
    """
    folder = Path(folder)
    began = time.perf_counter()
    processes = Processes()
    resume = processes.on_main(lambda: _check(recipe, folder, resume, requeue or restarted()))
    # Everything that can be wrong with data, model or options is found before a folder is made.
    set_seed(recipe.train.seed)
    source, objective = recipe.build()
    checkpoint = _warm_start(recipe, objective) if recipe.init_from and not resume else None
    if recipe.init_from:
        objective.export().licence = licence_of_start(recipe.init_from)
    evaluators = recipe.evaluators(source, objective)
    boards = [TensorBoard()]
    if recipe.train.trackers:
        boards.append(Trackers(recipe.train.trackers, leaves(recipe)))
    callbacks = [MetricsFile(), Sessions({"command": command(), "versions": versions()}), *boards, ProgressBar()]
    draw = recipe.draw(objective, source)
    if recipe.train.pictures:
        drawn = ({"step": draw} if draw is not None else {}) | recipe.views(objective, source)
        callbacks += [Pictures(each, *boards, name=name) for name, each in drawn.items()]
    if recipe.train.evaluate.every is not None:
        callbacks.append(Evaluate(evaluators, recipe.train.evaluate))
    if recipe.train.profile is not None:
        callbacks.append(Profiler(recipe.train.profile))
    trainer = Trainer(objective, source, recipe.train, folder, callbacks, processes, recipe.plan(source, objective))
    if checkpoint is not None and recipe.init_optimizer:
        take_moments(trainer, checkpoint)
    with locked(folder) if processes.main else nullcontext():
        processes.on_main(lambda: _begin(recipe, folder, resume))
        try:
            trainer.fit(resume=resume)
            return _finish(recipe, trainer, evaluators, began, card)
        except (KeyboardInterrupt, Interrupted) as error:
            stopped = error if isinstance(error, Interrupted) else Interrupted(f"Stopped at once; the last checkpoint in {folder} is what counts.")
            stopped.args = (f"{stopped} The same command with --resume goes on from there.",)
            raise stopped from error


def _check(recipe: ModelRecipe, folder: Path, resume: bool, requeue: bool) -> bool:
    """Whether to resume; refuses a folder that does not fit. Nothing is written."""
    resume = resume or (requeue and (folder / "recipe.yaml").exists())
    _check_resumable(recipe, folder) if resume else _check_new(folder)
    return resume


def _begin(recipe: ModelRecipe, folder: Path, resume: bool) -> None:
    """The first writing in a run folder, under its lock."""
    remove_leftovers(folder)
    if not resume:
        _check_new(folder)  # again: another run may have begun since
        recipe.save(folder / "recipe.yaml")


def _warm_start(recipe: ModelRecipe, objective: Objective) -> Path | None:
    """Give the objective the weights of `recipe.init_from`; returns the checkpoint they come from, if they come from one."""
    path = Path(recipe.init_from).expanduser()
    exported = (path / "export").is_dir() and not recipe.init_optimizer
    checkpoint = None if exported else find_checkpoint(path)
    if recipe.init_optimizer and checkpoint is None:
        raise ConfigError(f"init_optimizer needs a run or a checkpoint in init_from; {path} holds no optimizer. Set it to false.")
    if checkpoint is not None:
        state, target, where = objective_state(checkpoint), objective, str(checkpoint)
    else:
        model = pretrained.load(recipe.init_from)
        state, target, where = model.state_dict(), objective.export(), recipe.init_from
    match(target, state, own_name, f"init_from: {where} does not fit the model of this recipe.")
    target.load_state_dict(state)
    if target is not objective:
        objective.after_warm_start()
    log.info("Beginning with the weights of %s%s", where, " and its optimizer's moments" if recipe.init_optimizer else "")
    return checkpoint


def _finish(
    recipe: ModelRecipe, trainer: Trainer, evaluators: list[ReportedEvaluator], began: float, card: CardWriter | None
) -> Path:
    """Evaluate the trained model, write the record and the export; returns the export folder."""
    folder = trainer.folder
    objective = trainer.plain()
    if trainer.processes.main:
        model = objective.export()
        for hook in overriding(trainer.callbacks, "export"):
            model = hook(trainer, model)
        model.eval()
        # what a hook made of the model is published, so that is what is measured
        measured = objective if model is objective.export() else recipe.objective.build(model)
        rows = results(evaluators, measured.to(trainer.device))
        for row in rows:
            log.info("%s", in_words(row))
        record = {
            "recipe": recipe.recipe,
            "command": command(),
            "data": trainer.source.describe() if hasattr(trainer.source, "describe") else {},
            "samples": len(trainer.source),
            "steps": trainer.step,
            "batch_size": recipe.train.batch_size,
            "parameters": sum(p.numel() for p in model.parameters()),
            "hardware": hardware(trainer.device, trainer.processes.world),
            "precision": trainer.precision,
            "seconds": round(trainer.seconds, 1),
            "seconds_with_setup": round(time.perf_counter() - began, 1),
            "restarts": trainer.restarts,
            **trainer.guard.totals(),
            "final": {k: v for k, v in finite(trainer.last).items() if k not in ("samples_per_second", "data_wait")},
            "best": next((c.best() for c in trainer.callbacks if isinstance(c, Evaluate)), None),
            "evaluations": rows,
            "versions": versions(),
        }
        write_json(folder / "record.json", record)
        text, files = card(model, record, folder) if card is not None else (None, None)
        model.save_pretrained(folder / "export", card=text, files=files)
        log.info("Exported to %s", folder / "export")
        report(folder)
    trainer.processes.wait()
    return folder / "export"


def report(folder: Path) -> None:
    """Write report.html and curves.png of a finished run. Only a disk that does not take them is an error: the run is done and saved."""
    try:
        log.info("Report: %s", write_report(folder))
    except ZooError:
        raise
    except Exception as error:  # a fault in drawing
        log.warning("The report could not be made (%s: %s). `zoo report %s` tries again.", type(error).__name__, error, folder)


def command() -> str:
    """The command line as a person would type it again."""
    program = Path(sys.argv[0]).name
    if program.endswith(".py") or program == "-c":
        module = getattr(sys.modules.get("__main__"), "__spec__", None)
        program = f"python -m {module.name.removesuffix('.__main__')}" if module else f"python {program}"
    return " ".join([program, *map(shlex.quote, sys.argv[1:])])


def _check_new(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file. Choose a folder for the run.")
    if (folder / "recipe.yaml").exists():
        lines = read_lines(folder / "metrics.jsonl")
        reached = f", logged up to step {lines[-1]['step']:,}" if lines else ""
        raise ConfigError(
            f"{folder} holds a run already{reached}. Add --resume to go on with it, or choose another folder with --to."
        )
    if folder.exists() and any(p.name != LOCK and not p.name.startswith(TEMPORARY) for p in folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and holds no run. Choose a new folder with --to.")


def _check_resumable(recipe: Recipe, folder: Path) -> None:
    if not (folder / "recipe.yaml").exists():
        raise ConfigError(f"There is no run in {folder} to resume (no recipe.yaml). Leave --resume out to start one.")
    changed = [c for c in difference(read_recipe(folder / "recipe.yaml", recipe), recipe) if c.partition(":")[0] not in WATCHING]
    if changed:
        raise ConfigError(
            "The recipe differs from the one this run was started with:\n  " + "\n  ".join(changed)
            + "\nResume with the same options, or start a new run in another folder."
        )  # fmt: skip
