"""Do the variants of masked auto-encoding do what their papers say? `python -m tools.learn_mim`, three seeds, on the built-in digits.

MR-MAE: linear probe of frozen features, against MAE with twice the steps. Self-distillation: the same after further pre-training on
few pictures of another kind, against plain further pre-training and against none.
"""

import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Literal

import tyro
from rich.console import Console
from rich.table import Table

from modalities import registry
from modalities.common import pretrained
from modalities.common.commandline import guarded
from modalities.common.further import further_pretrain
from modalities.common.run import run
from modalities.vision.data import LabelledImages
from modalities.vision.digits import SceneConfig
from modalities.vision.evaluation import probed
from modalities.vision.objectives.mae import MAEObjectiveConfig
from trainer.config import replace
from trainer.evaluation import measure

QUIET = {"train.pictures": 0, "train.log_every": 200, "train.keep_last": 1, "train.save_every": 10**6}
OTHER = SceneConfig(travel=2.5, rotation=30.0, views=1, seed=7)
"""Pictures of another kind than those that the start was trained on: farther off the middle, more turned; one of each digit."""
START = {"train.steps": 300}
"""The start is trained for a short time, so that there is something left to learn."""
FURTHER = {"train.steps": 400, "train.batch_size": 64, "train.optim.lr": 2e-3, "data.scenes": OTHER}
"""The same in both stages."""

Rows = dict[str, list[float]]


def learn(what: tyro.conf.Positional[Literal["mrmae", "further", "both"]] = "both", seeds: tuple[int, ...] = (0, 1, 2), steps: int = 600) -> None:
    """Train, measure and print.

    Args:
        what: Which of the two.
        seeds: One run of each kind per seed.
        steps: Of MAE; MR-MAE has half of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        if what != "further":
            show("Linear probe on cluttered digits, accuracy in %", mimicry(seeds, steps, Path(folder)))
        if what != "mrmae":
            show("Linear probe on other scenes, after further pre-training on 1,297 of them, accuracy in %", further(seeds, Path(folder)))


def mimicry(seeds: tuple[int, ...], steps: int, folder: Path) -> Rows:
    """Probe accuracy of MAE, of MAE in half of the steps, of MR-MAE in half and in a quarter, and of its teacher."""
    plain = replace(registry.find_recipe("vision/mae-tiny-digits"), QUIET)
    mimic = replace(registry.find_recipe("vision/mrmae-tiny-digits"), QUIET)
    data, teacher = LabelledImages(plain.data.path, plain.data.scenes), mimic.objective.mimic.teacher
    rows: Rows = {f"teacher: the bundled {teacher}, 2400 steps": [probe(teacher, data)]}
    for seed in seeds:
        for name, recipe, length in (
            ("MAE", plain, steps), ("MAE", plain, steps // 2), ("MR-MAE", mimic, steps // 2), ("MR-MAE", mimic, steps // 4)
        ):  # fmt: skip
            export = run(replace(recipe, {"train.seed": seed, "train.steps": length}), folder / f"{name}-{length}-{seed}")
            rows.setdefault(f"{name}, {length} steps", []).append(probe(export, data))
    return rows


def further(seeds: tuple[int, ...], folder: Path) -> Rows:
    """Probe accuracy of the start, and of both stages of `further_pretrain`: the first is plain further pre-training."""
    recipe = replace(registry.find_recipe("vision/mae-tiny-digits"), QUIET)
    data = LabelledImages(recipe.data.path, OTHER)
    rows: Rows = {}
    for seed in seeds:
        own, place = replace(recipe, {"train.seed": seed}), folder / f"further-{seed}"
        start = run(replace(own, START), folder / f"start-{seed}")
        further_pretrain(replace(own, {**FURTHER, "init_from": str(start.parent)}), place)
        for name, export in (("start", start), ("plain further pre-training", place / "teacher"), ("self-distilled", place / "student")):
            rows.setdefault(name, []).append(probe(export, data))
    return rows


def probe(source: Path | str, data: LabelledImages) -> float:
    """Accuracy in percent of a linear probe on the features of a model."""
    model = pretrained.load(source)
    return 100 * measure([probed(*data.build_plain(model.preprocess))], MAEObjectiveConfig().build(model))["probe"]


def show(title: str, rows: Rows) -> None:
    """Print a table: mean and each seed."""
    table = Table(title=title)
    for heading, justify in (("", "left"), ("mean", "right"), ("seeds", "right")):
        table.add_column(heading, justify=justify)
    for name, values in rows.items():
        table.add_row(name, f"{mean(values):.1f}", "  ".join(f"{v:.1f}" for v in values))
    Console(soft_wrap=True, highlight=False, width=120).print(table)


if __name__ == "__main__":
    sys.exit(guarded(lambda: tyro.cli(learn, prog="python -m tools.learn_mim", use_underscores=True)))
