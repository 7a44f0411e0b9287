"""Recipes of Hu et al. (ICLR 2020), of GraphMAE for molecules, VGAE, Deep Graph Infomax and GraphCL: the papers', and tiny ones."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from modalities import registry
from modalities.graph.data import UnlabelledGraphs
from modalities.graph.models.graphmae_molecules import GraphMAEMoleculesConfig
from modalities.graph.objectives.attribute_masking import AttributeMaskingConfig
from modalities.graph.objectives.context_prediction import ContextPredictionConfig
from modalities.graph.objectives.edge_prediction import EdgePredictionConfig
from modalities.graph.objectives.graphcl import GraphCLConfig
from modalities.graph.objectives.graphmae_molecules import GraphMAEMoleculesObjectiveConfig
from modalities.graph.objectives.infomax import InfomaxConfig
from modalities.graph.recipes.base import GraphRecipe, adam
from trainer.config import replace


@dataclass(frozen=True)
class AttributeMaskingRecipe(GraphRecipe):
    """Pre-train by naming hidden nodes (Hu et al. 2020, arXiv 1905.12265)."""

    loss: ClassVar[str] = "cross-entropy of the kinds of hidden nodes"
    objective: AttributeMaskingConfig = field(default_factory=AttributeMaskingConfig)
    """What is hidden."""


@dataclass(frozen=True)
class ContextPredictionRecipe(GraphRecipe):
    """Pre-train by telling the surroundings of a node from others (Hu et al. 2020, arXiv 1905.12265)."""

    loss: ClassVar[str] = "binary cross-entropy of surroundings"
    objective: ContextPredictionConfig = field(default_factory=ContextPredictionConfig)
    """Which surroundings."""


@dataclass(frozen=True)
class EdgePredictionRecipe(GraphRecipe):
    """Pre-train by telling nodes that are joined (Hu et al. 2020; GAE and VGAE, arXiv 1611.07308)."""

    loss: ClassVar[str] = "binary cross-entropy of edges"
    objective: EdgePredictionConfig = field(default_factory=EdgePredictionConfig)
    """What the embeddings are."""


@dataclass(frozen=True)
class InfomaxRecipe(GraphRecipe):
    """Pre-train by telling which nodes belong to a summary (Hu et al. 2020; Deep Graph Infomax, arXiv 1809.10341)."""

    loss: ClassVar[str] = "binary cross-entropy of nodes and summaries"
    objective: InfomaxConfig = field(default_factory=InfomaxConfig)
    """What nodes are told apart from."""


@dataclass(frozen=True)
class GraphCLRecipe(GraphRecipe):
    """Pre-train by contrast of changed views (GraphCL, arXiv 2010.13902)."""

    loss: ClassVar[str] = "contrastive loss of two views"
    objective: GraphCLConfig = field(default_factory=GraphCLConfig)
    """Views and temperature."""


@dataclass(frozen=True)
class GraphMAEMoleculesRecipe(GraphRecipe):
    """Pre-train GraphMAE for molecules (Hou et al. 2022, arXiv 2205.10803)."""

    system: ClassVar[str] = "graph/graphmae-molecules"
    loss: ClassVar[str] = "scaled cosine error of the types of hidden atoms"
    model: GraphMAEMoleculesConfig = field(default_factory=GraphMAEMoleculesConfig)
    """The network."""
    objective: GraphMAEMoleculesObjectiveConfig = field(default_factory=GraphMAEMoleculesObjectiveConfig)
    """What is hidden."""


KINDS = {
    "masking": AttributeMaskingRecipe, "contextpred": ContextPredictionRecipe, "edgepred": EdgePredictionRecipe, "infomax": InfomaxRecipe,
    "graphcl": GraphCLRecipe, "graphmae": GraphMAEMoleculesRecipe,
}  # fmt: skip
"""What the recipes call a way of training -> its recipe."""


def _recipe(name: str, train: Any, **fields: Any) -> GraphRecipe:
    """A recipe by the name of its model."""
    entry = registry.find(name)
    cls = KINDS[name.split("-")[1]]
    config = registry.system_class(entry.system).config_class()
    return cls(recipe=name, model=replace(config, entry.fields), train=train, **fields)


def _zinc(kind: str, **fields: Any) -> GraphRecipe:
    """The papers' pre-training on two million molecules: 100 epochs of batches of 256."""
    return _recipe(f"graph/molecules-{kind}", adam(1e-3, batch_size=256, epochs=100), **fields)


def _tiny(kind: str, **fields: Any) -> GraphRecipe:
    """On the built-in molecule-like graphs, about a minute on one core."""
    return _recipe(f"graph/tiny-{kind}", adam(1e-3, batch_size=128, steps=600, log_every=20), data=UnlabelledGraphs("molecules"), **fields)


def molecules_masking() -> GraphRecipe:
    return _zinc("masking")


def molecules_contextpred() -> GraphRecipe:
    return _zinc("contextpred")


def molecules_edgepred() -> GraphRecipe:
    return _zinc("edgepred")


def molecules_infomax() -> GraphRecipe:
    return _zinc("infomax")


def molecules_graphcl() -> GraphRecipe:
    return _zinc("graphcl", objective=GraphCLConfig(temperature=0.1))


def molecules_graphmae() -> GraphRecipe:
    return _zinc("graphmae")


def tiny_masking() -> GraphRecipe:
    return _tiny("masking")


def tiny_contextpred() -> GraphRecipe:
    return _tiny("contextpred", objective=ContextPredictionConfig(context_size=2))


def tiny_edgepred() -> GraphRecipe:
    return _tiny("edgepred")


def tiny_infomax() -> GraphRecipe:
    return _tiny("infomax")


def tiny_graphcl() -> GraphRecipe:
    return _tiny("graphcl")


def tiny_graphmae() -> GraphRecipe:
    return _tiny("graphmae")
