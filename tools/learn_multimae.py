"""Does pre-training with depth help where labels are few? `python -m tools.learn_multimae`

MultiMAE is pre-trained without labels on pictures and synthetic depth of the built-in scenes. Then, with a few labels, it is fine-tuned to
name the digit from pictures alone, with `--with-depth` also from pictures with depth, and to tell digit, fragment and background apart
in every pixel. Beside it the same network is trained from scratch: with the very settings of the fine-tuning, and with the best of several learning
rates, chosen on the test set in its favour. Prints tables of test accuracies and mean IoU.
"""

import sys
from dataclasses import replace
from pathlib import Path

import tyro

from modalities import registry
from modalities.common.commandline import guarded
from modalities.common.run import ModelRecipe
from modalities.vision.augment import FinetuneAugment, PretrainAugment
from modalities.vision.data import LabelledImages
from modalities.vision.data_segmentation import SegmentationPairs
from modalities.vision.finetune import digits_recipe
from modalities.vision.segment import tiny_recipe
from tools.learning import BEST, SAME, beside_scratch, finished, show
from trainer import config as settings

RECIPE = "vision/multimae-tiny-digits"


def learn(
    seeds: tuple[int, ...] = (0, 1, 2), to: Path = Path("runs/learn-multimae"), steps: int | None = None, per_class: int = 10, samples: int = 50,
    rates: tuple[float, ...] = (1e-3, 6e-3), with_depth: bool = False,
) -> dict[str, list[float]]:  # fmt: skip
    """Run everything that is not yet done in the folder and print the tables.

    Args:
        seeds: Seeds of pre-training, of the choice of labelled scenes, and of the training on them.
        to: Folder for the runs; finished ones in it are used again.
        steps: Steps of pre-training. Default: those of the recipe.
        per_class: Labelled scenes of each digit.
        samples: Scenes with labelled pixels.
        rates: Learning rates for training from scratch, beside that of the fine-tuning.
        with_depth: Fine-tune on pictures with depth, too.
    """
    found: dict[str, list[float]] = {}
    for seed in seeds:
        for name, value in _one_seed(seed, steps, per_class, samples, rates, with_depth, to / str(seed)).items():
            found.setdefault(name, []).append(value)
    show(f"{per_class} labels per digit or {samples} scenes with labelled pixels; test accuracy or mean IoU in %, mean and deviation over {len(seeds)} seeds", found)
    return found


def _one_seed(seed: int, steps: int | None, per_class: int, samples: int, rates: tuple[float, ...], with_depth: bool, folder: Path) -> dict[str, float]:
    """Row of the table -> value in percent."""
    recipe = registry.find_recipe(RECIPE)
    changes = {"train.seed": seed, "train.pictures": 1, **({"train.steps": steps} if steps else {})}
    start = str(finished(settings.replace(recipe, changes), folder / "pretrain"))
    data = LabelledImages(recipe.data.path, recipe.data.scenes, per_class=per_class, subset_seed=seed, augment=replace(FinetuneAugment.none(), shift=2))
    pairs = SegmentationPairs(recipe.data.path, recipe.data.scenes, samples=samples, subset_seed=seed, augment=PretrainAugment.none())
    digits = digits_recipe(start, data, seed)
    trainings: dict[str, tuple[ModelRecipe, str]] = {"digit": (digits, "accuracy"), "pixels": (tiny_recipe(start, pairs, seed), "mean IoU")}
    if with_depth:
        trainings["digit, with depth"] = (replace(digits, inputs=("rgb", "depth")), "accuracy")
    found = {}
    for name, (tuned, metric) in trainings.items():
        values = beside_scratch(tuned, rates, folder / name.replace(", ", "-").replace(" ", "-"), metric)
        found |= {f"{name}: {what}": value for what, value in zip(("pre-trained", SAME, BEST), values)}
    return found


if __name__ == "__main__":
    sys.exit(guarded(lambda: tyro.cli(learn, prog="python -m tools.learn_multimae")))
