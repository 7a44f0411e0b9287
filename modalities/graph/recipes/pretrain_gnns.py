"""Recipes of Hu et al. (ICLR 2020), of GraphMAE for molecules, VGAE, Deep Graph Infomax and GraphCL: the papers', and tiny ones."""

from dataclasses import dataclass, field, make_dataclass
from functools import partial
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


def _pretraining(objective: type, what: str, loss: str, base: type[GraphRecipe] = GraphRecipe) -> type[GraphRecipe]:
    """A recipe with the config of an objective, described in words, as is its loss."""
    name = f"{objective.__name__.removesuffix('Config').removesuffix('Objective')}Recipe"
    return make_dataclass(name, [("objective", objective, field(default_factory=objective))], bases=(base,), namespace={"__doc__": what, "__module__": __name__, "loss": loss}, frozen=True)


@dataclass(frozen=True)
class _Decoding(GraphRecipe):
    """Trains a decoder of atoms, too."""

    system: ClassVar[str] = "graph/graphmae-molecules"
    model: GraphMAEMoleculesConfig = field(default_factory=GraphMAEMoleculesConfig)
    """The network."""


KINDS = {
    "masking": _pretraining(
        AttributeMaskingConfig, "Pre-train by naming hidden nodes (Hu et al. 2020, arXiv 1905.12265).", "cross-entropy of the kinds of hidden nodes"
    ),
    "contextpred": _pretraining(
        ContextPredictionConfig, "Pre-train by telling the surroundings of a node from others (Hu et al. 2020, arXiv 1905.12265).", "binary cross-entropy of surroundings"
    ),
    "edgepred": _pretraining(
        EdgePredictionConfig, "Pre-train by telling nodes that are joined (Hu et al. 2020; GAE and VGAE, arXiv 1611.07308).", "binary cross-entropy of edges"
    ),
    "infomax": _pretraining(
        InfomaxConfig, "Pre-train by telling which nodes belong to a summary (Hu et al. 2020; Deep Graph Infomax, arXiv 1809.10341).", "binary cross-entropy of nodes and summaries"
    ),
    "graphcl": _pretraining(GraphCLConfig, "Pre-train by contrast of changed views (GraphCL, arXiv 2010.13902).", "contrastive loss of two views"),
    "graphmae": _pretraining(
        GraphMAEMoleculesObjectiveConfig, "Pre-train GraphMAE for molecules (Hou et al. 2022, arXiv 2205.10803).", "scaled cosine error of the types of hidden atoms", _Decoding
    ),
}
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


molecules_masking = partial(_zinc, "masking")
molecules_contextpred = partial(_zinc, "contextpred")
molecules_edgepred = partial(_zinc, "edgepred")
molecules_infomax = partial(_zinc, "infomax")
molecules_graphcl = partial(_zinc, "graphcl", objective=GraphCLConfig(temperature=0.1))
molecules_graphmae = partial(_zinc, "graphmae")
tiny_masking = partial(_tiny, "masking")
tiny_contextpred = partial(_tiny, "contextpred", objective=ContextPredictionConfig(context_size=2))
tiny_edgepred = partial(_tiny, "edgepred")
tiny_infomax = partial(_tiny, "infomax")
tiny_graphcl = partial(_tiny, "graphcl")
tiny_graphmae = partial(_tiny, "graphmae")
