"""Does POA's pre-training help, for the whole network and for parts of it? `python -m tools.learn_poa`

Pre-trains `vision/poa-tiny-digits` on cluttered scenes of digits without labels. With a few labelled scenes of each digit the whole network and
parts that are cut out of it are then fine-tuned, and networks of the same sizes are trained from scratch: with the very settings of the
fine-tuning, and with another learning rate, of which the better is chosen on the test set, in its favour. Frozen features of both are
probed as well. Prints a table of test accuracies.
"""

import logging
import sys
from pathlib import Path

import torch
import tyro

from modalities import registry
from modalities.common import pretrained
from modalities.common.commandline import guarded
from modalities.common.evaluation import AsItIs, percent
from modalities.vision.augment import FinetuneAugment
from modalities.vision.data import LabelledImages
from modalities.vision.evaluation import probed
from modalities.vision.finetune import digits_recipe
from tools.learning import BEST, SAME, beside_scratch, finished, show
from trainer.config import replace
from trainer.evaluation import measure

RECIPE = "vision/poa-tiny-digits"
WHOLE = "whole"
PRETRAINED = "pre-trained"
KINDS = {"probe": "linear probe of frozen features", "knn": "5-NN of frozen features"}


def learn(
    seeds: tuple[int, ...] = (0, 1, 2), to: Path = Path("runs/learn-poa"), parts: tuple[str, ...] = ("48_3", "32_2"), steps: int | None = None,
    per_class: int = 10, rates: tuple[float, ...] = (1e-3,),
) -> dict[str, list[float]]:  # fmt: skip
    """Run everything that is not yet done in the folder and print the table.

    Args:
        seeds: Seeds of the labelled subset, of the training on it, and of the random weights.
        to: Folder for the runs; finished ones in it are used again.
        parts: The sizes (width_depth) that are cut out, besides the whole network.
        steps: Steps of the pre-training. Default: as the recipe says.
        per_class: Labelled scenes per digit.
        rates: Learning rates for training from scratch, beside that of the fine-tuning.
    """
    logging.getLogger("zoo").setLevel(logging.WARNING)
    recipe = replace(registry.find_recipe(RECIPE), {"train.pictures": 1, **({"train.steps": steps} if steps else {})})
    export = finished(recipe, to / "pretrain")
    augment = replace(FinetuneAugment.none(), {"shift": 2})
    rows: dict[str, list[float]] = {}
    for seed in seeds:
        data = LabelledImages(recipe.data.path, recipe.data.scenes, per_class=per_class, subset_seed=seed, augment=augment)
        for name in (WHOLE, *parts):
            size = None if name == WHOLE else name
            tuned = replace(digits_recipe(str(export), data, seed), {"size": size, "train.pictures": 0})
            found = dict(zip((f"fine-tuned, {PRETRAINED}", SAME, BEST), beside_scratch(tuned, rates, to / f"{name}-{seed}")))
            model = pretrained.load(export).part(size)
            torch.manual_seed(seed)
            fresh = type(model)(model.config).eval()
            for start, network in ((PRETRAINED, model), ("random weights", fresh)):
                shares = measure([probed(*data.build_plain(model.preprocess))], AsItIs(network))
                found |= {f"{words}, {start}": percent(shares[kind]) for kind, words in KINDS.items()}
            for what, value in found.items():
                rows.setdefault(f"{name}: {what}", []).append(value)
    show(f"{per_class} labels per class; test accuracy in %, mean and deviation over {len(seeds)} seeds", rows)
    return rows


if __name__ == "__main__":
    sys.exit(guarded(lambda: tyro.cli(learn, prog="python -m tools.learn_poa", use_underscores=True)))
