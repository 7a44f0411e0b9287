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
OTHER = SceneConfig(digit_size=(9.0, 12.0), travel=4.0, rotation=45.0, fragments=4, views=1, seed=7)
"""Pictures of another kind than those that the start was trained on: smaller digits, farther off, turned, more clutter; one of each digit."""

Rows = dict[str, list[float]]


def learn(what: tyro.conf.Positional[Literal["mrmae", "further", "both"]] = "both", seeds: tuple[int, ...] = (0, 1, 2), steps: int = 800, further_steps: int = 1000) -> None:
    """Train, measure and print.

    Args:
        what: Which of the two.
        seeds: One run of each kind per seed.
        steps: Of MAE; MR-MAE has half of them.
        further_steps: Of each further pre-training.
    """
    with tempfile.TemporaryDirectory() as folder:
        if what != "further":
            show("Linear probe on cluttered digits, accuracy in %", mimicry(seeds, steps, Path(folder)))
        if what != "mrmae":
            show("Linear probe on other scenes after further pre-training on 1,297 of them, accuracy in %", further(seeds, further_steps, Path(folder)))


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


def further(seeds: tuple[int, ...], steps: int, folder: Path) -> Rows:
    """Probe accuracy of the start, and of both stages of `further_pretrain`: the first is plain further pre-training."""
    recipe = registry.find_recipe("vision/mae-tiny-digits-further")
    recipe = replace(recipe, {**QUIET, "train.steps": steps, "data.scenes": OTHER})
    data = LabelledImages(recipe.data.path, OTHER)
    rows: Rows = {"start: no further pre-training": [probe(recipe.init_from, data)] * len(seeds)}
    for seed in seeds:
        place = folder / f"further-{seed}"
        own = replace(recipe, {"train.seed": seed})
        further_pretrain(own, place)
        rows.setdefault("plain further pre-training", []).append(probe(place / "teacher", data))
        rows.setdefault("self-distilled", []).append(probe(place / "student", data))
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
