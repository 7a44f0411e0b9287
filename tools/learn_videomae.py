"""Does VideoMAE's pre-training help at few labels? `python -m tools.learn_videomae`

Pre-trains `video/videomae-tiny-motion` on generated clips of moving discs without labels, then fine-tunes it on a few labelled clips of each motion, and trains
the same network from scratch: once with the very settings of the fine-tuning, once with the best of several learning rates, chosen on the test set in
its favour. Beside it, linear probes of frozen features, and of a random network's. Prints a table of test accuracies.
"""

import sys
from pathlib import Path

import torch
import tyro

from modalities.common import pretrained
from modalities.common.commandline import guarded
from modalities.registry import find_recipe
from modalities.video.augment import FinetuneAugment
from modalities.video.data import LabelledVideos
from modalities.video.evaluation import probed
from modalities.video.finetune import FinetuneRecipe, motion_recipe
from modalities.video.models.videomae import VideoMAE
from modalities.video.objectives.videomae import VideoMAEObjectiveConfig
from tools.learning import few_labels, finished, show
from trainer.config import replace
from trainer.evaluation import measure

PROBE, RANDOM = "linear probe, pre-trained features", "linear probe, random features"


def learn(
    seeds: tuple[int, ...] = (0, 1, 2), to: Path = Path("runs/learn-videomae"), steps: int = 1200, finetune_steps: int = 100, per_class: int = 10,
    rates: tuple[float, ...] = (1e-3, 4e-3),
) -> dict[str, list[float]]:  # fmt: skip
    """Run everything that is not yet done in the folder and print the table.

    Args:
        seeds: Seeds of the labelled subset and of the training on it.
        to: Folder for the runs; finished ones in it are used again.
        steps: Steps of the pre-training (64 clips each).
        finetune_steps: Steps of each fine-tuning (40 clips each).
        per_class: Labelled clips per motion.
        rates: Learning rates for training from scratch, beside that of the fine-tuning.
    """
    recipe = replace(find_recipe("video/videomae-tiny-motion"), {"train.steps": steps, "train.pictures": 1})
    export = finished(recipe, to / "pretrain")
    model = pretrained.load(export)

    def labelled(seed: int) -> LabelledVideos:
        return LabelledVideos(recipe.data.path, motion=recipe.data.motion, per_class=per_class, subset_seed=seed, augment=FinetuneAugment.none())

    def tuned(seed: int) -> FinetuneRecipe:
        return replace(motion_recipe(str(export), labelled(seed), seed), {"train.steps": finetune_steps, "train.pictures": 0})

    values = few_labels(tuned, "fine-tuned, pre-trained by VideoMAE", seeds, rates, to) | {PROBE: [], RANDOM: []}
    for seed in seeds:
        torch.manual_seed(seed)
        for name, network in ((PROBE, model), (RANDOM, VideoMAE(model.config))):
            parts = labelled(seed).build_plain(model.preprocess)
            values[name].append(100 * measure([probed(*parts)], VideoMAEObjectiveConfig().build(network))["probe"])
    show(f"{per_class} labels per class, {finetune_steps} steps; test accuracy in %, mean and deviation over {len(seeds)} seeds", values)
    return values


def main() -> int:
    """The command line; returns the exit code."""
    return guarded(lambda: tyro.cli(learn, prog="python -m tools.learn_videomae"))


if __name__ == "__main__":
    sys.exit(main())
