"""What all commands share: recipes as options, one way to show an error, one way to end on Ctrl-C."""

import argparse
import dataclasses
import inspect
import logging
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from trainer.config import read_yaml
from trainer.errors import ConfigError, Interrupted, ZooError

if TYPE_CHECKING:
    from modalities.common.run import CardWriter, ModelRecipe

STOPPED = 130
"""Exit code after Ctrl-C, as shells have it."""


def guarded(action: Callable[[], Any]) -> int:
    """Run a command; show a ZooError as one message without traceback. Returns the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    # of several processes one speaks; all say what went wrong
    logging.getLogger("zoo").setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    try:
        action()
        return 0
    except Interrupted as error:
        print(f"\n{error}", file=sys.stderr)
        return error.code
    except ZooError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Nothing half-written was left behind.", file=sys.stderr)
        return STOPPED
    except BrokenPipeError:  # `zoo list | head`
        sys.stderr.close()
        return 0


def run_recipe(
    program: str, recipe: "ModelRecipe", arguments: list[str], description: str, folder: Path, card: "CardWriter | None" = None,
    train: Callable[..., Any] | None = None,
) -> None:  # fmt: skip
    """Train as `recipe` says with the options applied: into --to or else `folder`, or, with --show-schedule, not at all.

    `train` takes the place of `modalities.common.run.run` and gets what that gets.

    Every field of the recipe is an option: `--train.optim.lr 3e-4`. A wrong option ends the process with code 2
    and names similar ones (tyro does this).
    """
    import tyro

    from modalities.common.run import run
    from trainer.recipe import settle

    options = dataclasses.make_dataclass(
        "Options",
        [
            ("to", Annotated[Path | None, tyro.conf.arg(help="Folder of the run. Default: runs/ and the recipe's name.")], None),
            ("resume", Annotated[bool, tyro.conf.arg(help="Go on with the run in that folder.")], False),
            ("requeue", Annotated[bool, tyro.conf.arg(help="Begin the run, or go on with it if the folder holds it: for jobs that a cluster starts again.")], False),
            ("show_schedule", Annotated[bool, tyro.conf.arg(help="Draw the learning rate over the run into this folder and do not train.")], False),
            ("run", Annotated[type(recipe), tyro.conf.arg(name="")], recipe),
        ],
    )
    chosen = tyro.cli(options, args=arguments, prog=program, description=description, use_underscores=True)
    recipe = settle(chosen.run, recipe)
    if chosen.show_schedule:
        show_schedule(recipe)
    else:
        (train or run)(recipe, chosen.to or folder, chosen.resume, card, chosen.requeue)


def show_schedule(recipe: "ModelRecipe") -> Path:
    """Draw the learning rate of a recipe as NAME-schedule.png in the current folder and print it at a few steps.

    The data is read only when the length of the run depends on its size (epochs).
    """
    from trainer.pictures import draw_schedule

    train = recipe.train
    if train.multigrid.cycles != "none":
        raise ConfigError("--show-schedule draws runs whose steps all take as many samples. Set train.multigrid.cycles to none to see the schedule beneath.")
    steps = train.total_steps(len(recipe.build()[0]) if train.epochs is not None else 0)
    schedule, peak = train.schedule, train.optim.peak_lr(train.batch_size)
    title = f"{recipe.recipe}: {schedule.name}, {steps:,} steps of {train.batch_size:,} samples, peak lr {peak:.4g}"
    path = draw_schedule(schedule, steps, peak, train.batch_size, Path(f"{recipe.recipe.replace('/', '-')}-schedule.png"), title)
    print(f"{title}\n{'step':>12} {'samples':>15}  learning rate")
    quarters = {0, steps // 4, steps // 2, 3 * steps // 4, steps - 1}
    for step in sorted(quarters | {min(math.ceil(schedule.warmup_length(steps)), steps - 1), *schedule.milestones(steps)}):
        print(f"{step:>12,} {step * train.batch_size:>15,}  {schedule.lr(step, steps, peak, train.batch_size):.4g}")
    print(f"Drawn to {path}")
    return path


def positional(arguments: list[str]) -> tuple[str, list[str]]:
    """The first argument, when it is no option, and the others."""
    return (arguments[0], arguments[1:]) if arguments and not arguments[0].startswith("-") else ("", arguments)


def early_options(arguments: list[str], *names: str) -> tuple[dict[str, str | None], list[str]]:
    """Options that decide which recipe the others belong to, and the arguments that are left."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in names:
        parser.add_argument(f"--{name}")
    known, rest = parser.parse_known_args(arguments)
    return vars(known), rest


def with_config_file(recipe: "ModelRecipe", path: str | None) -> "ModelRecipe":
    """The recipe with the fields of a YAML file in place of its own."""
    from trainer.recipe import read_recipe

    return recipe if path is None else read_recipe(Path(path), recipe)


def finetune_command(
    program: str, default_recipe: Callable[..., "ModelRecipe"], arguments: list[str], card: "CardWriter | None" = None
) -> None:
    """`PROGRAM DATA --model NAME [--task TASK] [--head probe] [--preset NAME] [--config FILE] [--to FOLDER] [--resume] [--show-schedule] [--any.field value]`.

    `default_recipe(model, head, data)` gives the recipe to begin from; one with presets or several tasks takes `preset` or `task` too.
    """
    data, arguments = positional(arguments)
    known, rest = early_options(arguments, "model", "head", "config", "preset", "task")
    stored = read_yaml(Path(known["config"])) if known["config"] else {}
    model, head = known["model"] or stored.get("model", ""), known["head"] or stored.get("head", "linear")
    more = {name: value for name, value in (("preset", known["preset"]), ("task", known["task"] or stored.get("task"))) if value}
    if "task" not in more and head not in ("linear", "probe"):  # other tasks have other heads
        raise ConfigError(f"--head must be linear or probe, found {head!r}.")
    for name, value in more.items():
        if name not in inspect.signature(default_recipe).parameters:
            raise ConfigError(f"There are no {name}s for this kind of data, found --{name} {value}. Leave it out.")
    recipe = with_config_file(default_recipe(model, head, data, **more), known["config"])
    given = ["--model", model, "--head", head] + (["--data.path", data] if data else [])
    run_recipe(program, recipe, given + rest, "DATA --model NAME: fine-tune an encoder on labelled data.", Path("runs") / "finetune", card)
