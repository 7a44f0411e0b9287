"""Recipes of VGAE (Kipf and Welling 2016) and Deep Graph Infomax (Velickovic et al. 2019): for Cora, and tiny ones."""

from modalities import registry
from modalities.graph.data import UnlabelledGraphs
from modalities.graph.objectives.edge_prediction import EdgePredictionConfig
from modalities.graph.objectives.infomax import InfomaxConfig
from modalities.graph.recipes.base import GraphRecipe, adam
from modalities.graph.recipes.pretrain_gnns import KINDS
from trainer.recipe import TrainConfig

VARIATIONAL, SHUFFLED = EdgePredictionConfig(variational=True), InfomaxConfig(negatives="shuffled")


def _recipe(name: str, train: TrainConfig, objective: EdgePredictionConfig | InfomaxConfig, path: str = "") -> GraphRecipe:
    """A recipe by the name of its model."""
    cls = KINDS["edgepred" if isinstance(objective, EdgePredictionConfig) else "infomax"]
    return cls(recipe=name, model=registry.config_of(name), objective=objective, data=UnlabelledGraphs(path), train=train)


def tiny_vgae() -> GraphRecipe:
    """Generated molecule-like graphs, about a minute on one core."""
    return _recipe("graph/tiny-vgae", adam(1e-3, batch_size=128, steps=600, log_every=20), VARIATIONAL, "molecules")


def tiny_dgi() -> GraphRecipe:
    """Generated molecule-like graphs, about a minute on one core."""
    return _recipe("graph/tiny-dgi", adam(1e-3, batch_size=128, steps=600, log_every=20), SHUFFLED, "molecules")


def cora_vgae() -> GraphRecipe:
    """One graph of papers and citations, as it is: a step is an epoch."""
    return _recipe("graph/cora-vgae", adam(1e-2, batch_size=1, steps=200), VARIATIONAL)


def cora_dgi() -> GraphRecipe:
    """The same graph; the paper stops once the loss has not fallen for 20 epochs, here the number of steps is fixed."""
    return _recipe("graph/cora-dgi", adam(1e-3, batch_size=1, steps=300), SHUFFLED)
