"""Does pre-training on graphs help where labels are few? `python -m tools.learn_graph`, three seeds, on the built-in molecule-like graphs.

GraphMAE and attribute masking are pre-trained without labels; then the same classifier is trained on few labelled graphs from their weights and, by
the same recipe, from scratch. The rate of fine-tuning is chosen for each of them among the same ones, on labelled graphs that are not test graphs.
"""

import sys
import tempfile
from pathlib import Path

import tyro

from modalities import registry
from modalities.common.commandline import guarded
from modalities.graph.data import LabelledGraphs
from modalities.graph.finetune import FinetuneRecipe
from modalities.graph.generated import GeneratedConfig
from modalities.graph.recipes.base import adam
from tools.learning import finished, measured, show
from trainer.config import replace

QUIET = {"train.pictures": 0, "train.log_every": 1000, "train.keep_last": 1, "train.save_every": 10**6}
METHODS = {
    "GraphMAE (GIN)": "graph/graphmae-tiny-molecules", "attribute masking (GIN with bonds)": "graph/tiny-masking", "GraphMAE for molecules (GIN with bonds)": "graph/tiny-graphmae",
}  # fmt: skip
RATES = (1e-3, 3e-3)
OTHERS = GeneratedConfig(4000, 400, seed=1)
"""Graphs on which rates are chosen: another set of the same kind."""


def finetuning(model: str, data: LabelledGraphs, seed: int, lr: float, scratch: bool, steps: int) -> FinetuneRecipe:
    """The same for both starts."""
    return FinetuneRecipe(recipe="graph/finetune-molecules", model=model, scratch=scratch, data=data, train=adam(lr, batch_size=40, steps=steps, seed=seed))


def learn(seeds: tuple[int, ...] = (0, 1, 2), per_class: int = 20, steps: int = 600, finetune_steps: int = 100, folder: Path | None = None) -> None:
    """Train, measure and print.

    Args:
        seeds: One run of each kind per seed; it also decides which graphs are labelled.
        per_class: Labelled graphs of each class.
        steps: Of pre-training.
        finetune_steps: Of fine-tuning, also from scratch.
        folder: Where the runs go and are found again. Default: a temporary folder.
    """
    with tempfile.TemporaryDirectory() as scratch_folder:
        place = folder or Path(scratch_folder)
        rows: dict[str, list[float]] = {}
        for name, recipe_name in METHODS.items():
            short = recipe_name.partition("/")[2]
            starts = {seed: finished(replace(registry.find_recipe(recipe_name), {**QUIET, "train.steps": steps, "train.seed": seed}), place / f"{short}-{seed}") for seed in seeds}
            for scratch in (False, True):
                what = f"{short}-{'scratch' if scratch else 'pretrained'}"

                def accuracy(seed: int, lr: float, generated: GeneratedConfig, label: str) -> float:
                    data = LabelledGraphs("molecules", generated=generated, per_class=per_class, subset_seed=seed)
                    return measured(replace(finetuning(str(starts[seed]), data, seed, lr, scratch, finetune_steps), QUIET), place / f"{what}-{label}-{lr:g}-{seed}")

                best = max(RATES, key=lambda lr: accuracy(seeds[0], lr, OTHERS, "choice"))
                words = "from scratch" if scratch else "pre-trained"
                rows[f"{name}, {words}, lr {best:g}"] = [accuracy(seed, best, GeneratedConfig(), "test") for seed in seeds]
        show(f"Accuracy on 1,000 test graphs, {per_class} labelled graphs per class, in %", rows)


if __name__ == "__main__":
    sys.exit(guarded(lambda: tyro.cli(learn, prog="python -m tools.learn_graph", use_underscores=True)))
