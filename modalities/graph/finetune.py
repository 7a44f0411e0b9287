"""Fine-tuning a graph encoder on labelled graphs: `python -m modalities.graph.finetune DATA --model NAME`.

With `--task nodes` (or `neighbours`, for a large graph) it learns the class of every node of one graph instead (see `modalities.graph.finetune_nodes`).

The recipe is that of Hu et al. (ICLR 2020): the pooled embedding, dropout, a linear layer; Adam at a constant rate; or, with `--head probe`, a
linear layer on the frozen, batch-normalised embedding.
"""

import logging
import sys
from dataclasses import dataclass, field

from modalities.graph.data import LabelledGraphs
from modalities.graph.finetune_nodes import NodeRecipe, node_recipe
from modalities.graph.objectives.supervised import Supervised
from modalities.graph.sources import GraphSource
from modalities.graph.starting import ClassifierRecipe
from trainer.errors import ConfigError, did_you_mean
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig

log = logging.getLogger("zoo")

TASKS = ("graphs", "nodes", "neighbours")
"""What is classified: whole graphs, or the nodes of one graph, taken whole or with drawn neighbours."""


@dataclass(frozen=True)
class FinetuneRecipe(ClassifierRecipe):
    """Train a classifier on labelled graphs, starting from a pre-trained encoder."""

    data: LabelledGraphs = field(default_factory=LabelledGraphs)
    """Which labelled graphs."""

    def build(self) -> tuple[GraphSource, Supervised]:
        encoder = self.encoder()
        train, test = self.data.build(encoder.preprocess)
        model = self.classifier(encoder, train)
        log.info("%d training and %d test graphs of %d %s", len(train), len(test), len(train.classes), "labels" if train.multi_label else "classes")
        return train, Supervised(model)


def default_recipe(model: str, head: str = "linear", data: str = "", task: str = TASKS[0]) -> FinetuneRecipe | NodeRecipe:
    """Fine-tuning as Hu et al. do it (batch 32, Adam 1e-3, 100 epochs, dropout 0.5), or, for head="probe", a linear probe; of nodes by the other tasks."""
    if task not in TASKS:
        raise ConfigError(f"--task must be one of {', '.join(TASKS)}, found {task!r}.{did_you_mean(task, TASKS)}")
    if head not in ("linear", "probe"):
        raise ConfigError(f"--head must be linear or probe, found {head!r}.")
    if task != TASKS[0]:
        return node_recipe(model, head, data, task)
    shared = dict(recipe="graph/finetune", model=model, data=LabelledGraphs(data))
    optim = OptimConfig(name="adam", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0)
    if head == "probe":
        return FinetuneRecipe(**shared, head="probe", train=TrainConfig(batch_size=64, epochs=50, optim=optim, schedule=ScheduleConfig(warmup=0.0)))
    return FinetuneRecipe(**shared, dropout=0.5, train=TrainConfig(batch_size=32, epochs=100, optim=optim, schedule=ScheduleConfig(name="constant", warmup=0.0)))


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    from modalities.common.commandline import finetune_command, guarded

    arguments = sys.argv[1:] if arguments is None else arguments
    return guarded(lambda: finetune_command("python -m modalities.graph.finetune", default_recipe, arguments))


if __name__ == "__main__":
    sys.exit(main())
