"""Does SparK's pre-training help a convolutional network at few labels? `python -m tools.learn_spark`

Pre-trains `vision/spark-tiny` on cluttered scenes of digits without labels, then fine-tunes the dense backbone on a few labelled scenes of
each digit, and trains the same network from scratch: once with the very settings of the fine-tuning, once with the best of several
learning rates, chosen on the test set in its favour. Prints a table of test accuracies.
"""

import sys
from pathlib import Path

import tyro

from modalities.common.commandline import guarded
from modalities.registry import find_recipe
from modalities.vision.augment import FinetuneAugment
from modalities.vision.data import LabelledImages
from modalities.vision.finetune import FinetuneRecipe, digits_recipe
from tools.learning import few_labels, finished, show
from trainer.config import replace


def learn(
    seeds: tuple[int, ...] = (0, 1, 2), to: Path = Path("runs/learn-spark"), steps: int = 800, finetune_steps: int = 300, per_class: int = 10,
    rates: tuple[float, ...] = (1e-3, 4e-3),
) -> dict[str, list[float]]:  # fmt: skip
    """Run everything that is not yet done in the folder and print the table.

    Args:
        seeds: Seeds of the labelled subset and of the training on it.
        to: Folder for the runs; finished ones in it are used again.
        steps: Steps of the pre-training (64 samples each).
        finetune_steps: Steps of each fine-tuning (50 samples each).
        per_class: Labelled scenes per digit.
        rates: Learning rates for training from scratch, beside that of the fine-tuning.
    """
    recipe = replace(find_recipe("vision/spark-tiny"), {"train.steps": steps, "train.pictures": 1})
    model = finished(recipe, to / "pretrain")

    def tuned(seed: int) -> FinetuneRecipe:
        data = LabelledImages(
            recipe.data.path, replace(recipe.data.scenes, {"test_views": 1}), per_class=per_class, subset_seed=seed, augment=replace(FinetuneAugment.none(), {"shift": 8})
        )
        return replace(digits_recipe(str(model), data, seed), {"train.batch_size": 50, "train.steps": finetune_steps, "train.pictures": 0, "train.optim.lr": 2e-3})

    values = few_labels(tuned, "fine-tuned, pre-trained by SparK", seeds, rates, to)
    show(f"{per_class} labels per class, {finetune_steps} steps; test accuracy in %, mean and deviation over {len(seeds)} seeds", values)
    return values


def main() -> int:
    """The command line; returns the exit code."""
    return guarded(lambda: tyro.cli(learn, prog="python -m tools.learn_spark"))


if __name__ == "__main__":
    sys.exit(main())
