"""Recipes of GraphMAE: the paper's, and tiny ones that run in a minute on a laptop."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from modalities import registry
from modalities.common.run import Draw
from modalities.common.sheets import spread
from modalities.graph.data import UnlabelledGraphs
from modalities.graph.evaluation import loss_in_words
from modalities.graph.models.graphmae import GraphMAEConfig
from modalities.graph.objectives.graphmae import GraphMAEObjective, GraphMAEObjectiveConfig
from modalities.graph.pictures import draw_errors
from modalities.graph.recipes.base import GraphRecipe, adam
from modalities.graph.sources import GraphSource
from trainer.schedule import ScheduleConfig

PICTURES = 4
"""Graphs in a picture."""


@dataclass(frozen=True)
class GraphMAERecipe(GraphRecipe):
    """Pre-train a masked graph auto-encoder without labels (Hou et al. 2022, arXiv 2205.10803)."""

    system: ClassVar[str] = "graph/graphmae"
    model: GraphMAEConfig = field(default_factory=GraphMAEConfig)
    """The network."""
    objective: GraphMAEObjectiveConfig = field(default_factory=GraphMAEObjectiveConfig)
    """Masking and loss."""

    @property
    def loss(self) -> str:
        """What the loss is, in words."""
        return loss_in_words(self.objective)

    def draw(self, objective: GraphMAEObjective, source: GraphSource) -> Draw:
        """Draws a few graphs, their hidden nodes coloured by the error of the reconstruction, always with the same nodes hidden."""
        graphs = [source[i] for i in spread(len(source), PICTURES)]

        def draw(objective: GraphMAEObjective, path: Path, title: str) -> None:
            draw_errors(objective.model, self.objective, graphs, path, title)

        return draw


def _graphmae(name: str, objective: dict[str, Any], data: UnlabelledGraphs | None = None, **train: Any) -> GraphMAERecipe:
    """A recipe by the name of its model. The learning rate falls along a cosine to 0, unless `train` says otherwise."""
    train = {"schedule": ScheduleConfig(warmup=0.0), **train}
    name = f"graph/graphmae-{name}"
    return GraphMAERecipe(recipe=name, model=registry.config_of(name), objective=GraphMAEObjectiveConfig(**objective), data=data or UnlabelledGraphs(), train=adam(**train))


def graphmae_tiny_molecules() -> GraphMAERecipe:
    """Generated molecule-like graphs, about a minute on one core."""
    return _graphmae("tiny-molecules", dict(mask_rate=0.25, alpha=1.0), UnlabelledGraphs("molecules"), lr=1e-3, batch_size=128, steps=600, log_every=20)


def graphmae_cora() -> GraphMAERecipe:
    """One graph of papers and citations, as it is: a step is an epoch."""
    return _graphmae("cora", dict(mask_rate=0.5, replace_rate=0.05, alpha=3.0), lr=1e-3, weight_decay=2e-4, batch_size=1, steps=1500)


def graphmae_pubmed() -> GraphMAERecipe:
    return _graphmae("pubmed", dict(mask_rate=0.75, alpha=3.0), lr=1e-3, weight_decay=1e-5, batch_size=1, steps=1000)


CONSTANT = ScheduleConfig(name="constant", warmup=0.0)


def graphmae_mutag() -> GraphMAERecipe:
    return _graphmae("mutag", dict(mask_rate=0.75, replace_rate=0.1, alpha=2.0), lr=5e-4, batch_size=64, epochs=20, schedule=CONSTANT)


def graphmae_proteins() -> GraphMAERecipe:
    return _graphmae("proteins", dict(mask_rate=0.5, alpha=1.0), lr=1.5e-4, batch_size=32, epochs=100, schedule=CONSTANT)


def graphmae_nci1() -> GraphMAERecipe:
    return _graphmae("nci1", dict(mask_rate=0.25, replace_rate=0.1, alpha=2.0), lr=1e-3, batch_size=16, epochs=300)
