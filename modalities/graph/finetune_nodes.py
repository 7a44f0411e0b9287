"""Fine-tuning a graph encoder on labels of nodes: `python -m modalities.graph.finetune GRAPH --model NAME --task nodes`, or `--task neighbours` for a large graph.

GRAPH is one graph with labels of its nodes (see `modalities.graph.nodes`). With the task "nodes" a step takes the whole graph, with "neighbours" some nodes with neighbours
that are drawn anew each time.
"""

import logging
from dataclasses import dataclass, field
from typing import Literal

from modalities.common.evaluation import samples_of
from modalities.graph.nodes import LabelledNodes
from modalities.graph.objectives.supervised import Supervised
from modalities.graph.sampling import OneGraph, WholeGraph, require_room
from modalities.graph.starting import ClassifierRecipe
from trainer.errors import ConfigError
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig

log = logging.getLogger("zoo")

FANOUTS = (10, 10)
"""Neighbours that are drawn where nothing else is said, GraphSAGE's order of magnitude."""
SAMPLED = "neighbours"


@dataclass(frozen=True)
class NodeRecipe(ClassifierRecipe):
    """Train a classifier of nodes on one graph, starting from a pre-trained encoder."""

    task: Literal["nodes", "neighbours"] = "nodes"
    """nodes: the graph is taken whole. neighbours: a step takes train.batch_size nodes with data.fanouts neighbours."""
    data: LabelledNodes = field(default_factory=LabelledNodes)
    """Which graph, and how its nodes are divided."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.task == SAMPLED) is not bool(self.data.fanouts):
            raise ConfigError(f"data.fanouts are the neighbours that the task {SAMPLED!r} draws, and the task is {self.task!r} with {self.data.fanouts or 'none'}. Change one of the two.")
        if self.task != SAMPLED and self.train.batch_size != 1:
            raise ConfigError(f"The graph is taken whole, so train.batch_size must be 1, found {self.train.batch_size}. Or draw neighbours: --task {SAMPLED}.")

    def build(self) -> tuple[OneGraph, Supervised]:
        encoder = self.encoder()
        train, test = self.data.build(encoder.preprocess)
        if isinstance(train, WholeGraph):
            require_room(train.nodes, train.edges, encoder.config.embed_dim, train.name)
        model = self.classifier(encoder, train, level="node")
        log.info("%d training and %d test nodes of %d %s", samples_of(train), samples_of(test), len(train.classes), "labels" if train.multi_label else "classes")
        return train, Supervised(model)


def node_recipe(model: str, head: str = "linear", data: str = "", task: str = "nodes") -> NodeRecipe:
    """GraphMAE's linear probe of nodes (Adam, lr 0.01, 300 epochs), or for the whole network a smaller rate and dropout; with neighbours 256 nodes in a step, 20 epochs."""
    sampled = task == SAMPLED
    optim = OptimConfig(name="adam", lr=1e-2 if head == "probe" else 1e-3 if sampled else 5e-3, betas=(0.9, 0.999), weight_decay=1e-4)
    train = TrainConfig(batch_size=256 if sampled else 1, epochs=20 if sampled else 300 if head == "probe" else 200, optim=optim, schedule=ScheduleConfig(name="constant", warmup=0.0))
    dropout = {} if head == "probe" else {"dropout": 0.2}
    return NodeRecipe(recipe=f"graph/finetune-{task}", task=task, model=model, head=head, data=LabelledNodes(data, fanouts=FANOUTS if sampled else ()), train=train, **dropout)
