"""Does pre-training on graphs help where labels are few? `python -m tools.learn_graph`, three seeds, on the built-in molecule-like graphs.

GraphMAE and attribute masking are pre-trained without labels; then the same classifier is trained on few labelled graphs from their weights and, by
the same recipe, from scratch. The rate and the steps of that training are chosen for each of them among the same ones, on graphs of another set. Linear
probes of the frozen network, pre-trained and random, stand beside them.
"""

import sys
import tempfile
from pathlib import Path

import torch
import tyro

from modalities import registry
from modalities.common import pretrained
from modalities.common.commandline import guarded
from modalities.common.evaluation import AsItIs
from modalities.common.model import Model
from modalities.graph.data import LabelledGraphs
from modalities.graph.evaluation import probed
from modalities.graph.finetune import FinetuneRecipe
from modalities.graph.generated import GeneratedConfig
from modalities.graph.recipes.base import adam
from tools.learning import finished, measured, show
from trainer.config import replace
from trainer.randomness import seeded
from trainer.schedule import ScheduleConfig

QUIET = {"train.pictures": 0, "train.log_every": 1000, "train.keep_last": 1, "train.save_every": 10**6}
METHODS = {
    "attribute masking (GIN with bonds)": "graph/tiny-masking", "GraphMAE for molecules (GIN with bonds)": "graph/tiny-graphmae", "GraphMAE (GIN, atoms only)": "graph/graphmae-tiny-molecules",
}  # fmt: skip


def training(model: Path, data: LabelledGraphs, seed: int, scratch: bool, lr: float, steps: int) -> FinetuneRecipe:
    """The same for both starts: the whole network, without dropout, Adam with a rate that falls along a cosine."""
    train = adam(lr, batch_size=40, steps=steps, seed=seed, schedule=ScheduleConfig(warmup=0.0))
    return replace(FinetuneRecipe(recipe="graph/finetune-molecules", model=str(model), scratch=scratch, data=data, train=train), QUIET)


@torch.no_grad()
def linear_probe(model: Model, data: LabelledGraphs) -> float:
    """Test accuracy of a logistic regression on frozen features, in percent."""
    return 100 * probed(*data.build(model.preprocess))(AsItIs(model.eval()))["probe"]


def learn(
    seeds: tuple[int, ...] = (0, 1, 2), per_class: int = 20, steps: int = 600, rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2), lengths: tuple[int, ...] = (100, 300),
    samples: int = 4000, test_samples: int = 1000, folder: Path | None = None,
) -> dict[str, list[float]]:  # fmt: skip
    """Train, measure and print.

    Args:
        seeds: One run of each kind per seed; it also decides which graphs are labelled.
        per_class: Labelled graphs of each class.
        steps: Of pre-training, 128 graphs each.
        rates: Learning rates for the training on labelled graphs, of which the best on another set is taken, for each start.
        lengths: Steps of that training, of which the best are taken likewise.
        samples: Graphs for pre-training; the labelled ones are among them.
        test_samples: Graphs on which accuracy is measured.
        folder: Where the runs go and are found again. Default: a temporary folder.
    """
    generated = GeneratedConfig(samples, test_samples)
    other = GeneratedConfig(min(samples, 20 * per_class), test_samples, seed=1)
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch_folder:
        place = folder or Path(scratch_folder)
        for name, recipe_name in METHODS.items():
            short = recipe_name.partition("/")[2]
            recipe = replace(registry.find_recipe(recipe_name), {**QUIET, "train.steps": steps, "data.generated": generated})
            starts = {seed: finished(replace(recipe, {"train.seed": seed}), place / f"{short}-{seed}") for seed in seeds}

            def labelled(config: GeneratedConfig, seed: int) -> LabelledGraphs:
                return LabelledGraphs("molecules", generated=config, per_class=per_class, subset_seed=seed)

            for scratch, words in ((False, "pre-trained"), (True, "from scratch")):

                def accuracy(config: GeneratedConfig, seed: int, lr: float, length: int) -> float:
                    run = training(starts[seed], labelled(config, seed), seed, scratch, lr, length)
                    return measured(run, place / f"{short}-{words.replace(' ', '-')}-{config.seed}-{lr:g}-{length}-{seed}")

                choices = [(lr, length) for lr in rates for length in lengths]
                lr, length = max(choices, key=lambda choice: accuracy(other, seeds[0], *choice))
                rows[f"{name}, {words}, lr {lr:g}, {length} steps"] = [accuracy(generated, seed, lr, length) for seed in seeds]
            models = {seed: pretrained.load(starts[seed]) for seed in seeds}
            rows[f"{name}, pre-trained, frozen"] = [linear_probe(model, labelled(generated, seed)) for seed, model in models.items()]
            rows[f"{name}, random, frozen"] = [linear_probe(_fresh(model, seed), labelled(generated, seed)) for seed, model in models.items()]
        show(f"Accuracy on {test_samples:,} test graphs, {per_class} labelled graphs per class, in %", rows)
    return rows


def _fresh(model: Model, seed: int) -> Model:
    """The same network with random weights."""
    with seeded(seed):
        fresh = type(model)(model.config)
    fresh.preprocess = model.preprocess
    return fresh


if __name__ == "__main__":
    sys.exit(guarded(lambda: tyro.cli(learn, prog="python -m tools.learn_graph", use_underscores=True)))
