"""Does pre-training with depth help where labels are few? `python -m tools.learn_multimae [--seeds 0 1 2]`

MultiMAE is pre-trained without labels on pictures and synthetic depth of the built-in scenes. Then, with a few labels, it is fine-tuned on
pictures alone (with `--with-depth` also on pictures with depth), and beside it, with the same budget and settings, the same network from
scratch. Prints a table of test accuracies. A `--folder` keeps the runs; what is finished there is not run again.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean

import tyro

from modalities import registry
from modalities.common.commandline import guarded
from modalities.common.run import ModelRecipe, run
from modalities.vision.augment import FinetuneAugment
from modalities.vision.data import LabelledImages
from modalities.vision.finetune import digits_recipe
from trainer import config as settings
from trainer.files import read_json

RECIPE = "vision/multimae-tiny-digits"


def learn(seeds: tuple[int, ...] = (0, 1, 2), per_class: int = 10, steps: int = 0, with_depth: bool = False, folder: Path | None = None) -> None:
    """Pre-train and fine-tune with several seeds and print the accuracies.

    Args:
        seeds: Seeds of pre-training, of the choice of labelled scenes, and of fine-tuning.
        per_class: Labelled training scenes of each class.
        steps: Steps of pre-training. 0: those of the recipe.
        with_depth: Fine-tune on pictures with depth, too.
        folder: Where the runs go. Default: a temporary folder.
    """
    with tempfile.TemporaryDirectory() as temporary:
        found: dict[str, list[float]] = {}
        for seed in seeds:
            for name, accuracy in _one_seed(seed, per_class, steps, with_depth, (folder or Path(temporary)) / str(seed)).items():
                found.setdefault(name, []).append(accuracy)
    recipe = registry.find_recipe(RECIPE)
    print(f"\n{per_class} labels per class, {steps or recipe.train.steps} steps of pre-training, test accuracy in %")
    print(f"{'':32}  mean   {'  '.join(f'seed {seed}' for seed in seeds)}")
    for name, values in found.items():
        print(f"{name:32} {mean(values):5.1f}   {'  '.join(f'{value:6.1f}' for value in values)}")


def _one_seed(seed: int, per_class: int, steps: int, with_depth: bool, folder: Path) -> dict[str, float]:
    """Row of the table -> test accuracy in percent."""
    recipe = registry.find_recipe(RECIPE)
    changes = {"train.seed": seed, "train.pictures": 1, **({"train.steps": steps} if steps else {})}
    start = _done(settings.replace(recipe, changes), folder / "pretrain") / "export"
    data = LabelledImages(recipe.data.path, recipe.data.scenes, per_class=per_class, subset_seed=seed, augment=replace(FinetuneAugment.none(), shift=2))
    rows = {"rgb: pre-trained": (("rgb",), False), "rgb: from scratch": (("rgb",), True)}
    if with_depth:
        rows |= {"rgb and depth: pre-trained": (("rgb", "depth"), False), "rgb and depth: from scratch": (("rgb", "depth"), True)}
    found = {}
    for name, (inputs, scratch) in rows.items():
        place = _done(replace(digits_recipe(str(start), data, seed, scratch), inputs=inputs), folder / name.replace(": ", "-").replace(" ", "-"))
        found[name] = next(row["value"] for row in read_json(place / "record.json")["evaluations"] if row["metric"] == "accuracy")
    return found


def _done(recipe: ModelRecipe, place: Path) -> Path:
    """The folder of a run, which is run unless it was finished before."""
    if not (place / "record.json").exists():
        run(recipe, place, resume=(place / "recipe.yaml").exists())
    return place


if __name__ == "__main__":
    sys.exit(guarded(lambda: tyro.cli(learn, prog="python -m tools.learn_multimae")))
