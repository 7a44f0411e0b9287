"""The demo of graphs: generated molecule-like graphs, whose class is a functional group, with few labels per class."""

from pathlib import Path

import numpy as np
import torch

from modalities.common.demo import Demo
from modalities.common.model import Model
from modalities.graph.data import LabelledGraphs, UnlabelledGraphs
from modalities.graph.evaluation import CLASSIFICATION, probed
from modalities.graph.files import write_graph
from modalities.graph.finetune import FinetuneRecipe
from modalities.graph.objectives.graphmae import GraphMAEObjectiveConfig
from modalities.graph.pictures import draw_errors
from modalities.graph.recipes.base import adam
from modalities.graph.recipes.graphmae import graphmae_tiny_molecules
from modalities.graph.sources import GraphSource

PER_CLASS = 20
SHOWN = 4


def labelled(data: UnlabelledGraphs, seed: int) -> LabelledGraphs:
    """PER_CLASS labelled training graphs of each class, drawn by `seed`."""
    return LabelledGraphs(data.path, generated=data.generated, per_class=PER_CLASS, subset_seed=seed)


def molecules_recipe(model: str, data: LabelledGraphs, seed: int, scratch: bool = False) -> FinetuneRecipe:
    """The demo's fine-tuning on few labelled graphs; the same budget and settings from scratch."""
    return FinetuneRecipe(recipe="graph/finetune-molecules", model=model, scratch=scratch, data=data, train=adam(1e-3, batch_size=40, steps=100, seed=seed, log_every=50, pictures=0))


def mean_features(source: GraphSource) -> tuple[np.ndarray, np.ndarray]:
    """The share of each kind of atom in each graph, and the labels: what is known without edges."""
    batch = source.fetch(range(len(source)))
    sums = torch.zeros(len(source), batch.x.shape[1]).index_add_(0, batch.batch, batch.x)
    return (sums / sums.sum(dim=1, keepdim=True)).numpy(), batch.y.numpy()


def degree_counts(source: GraphSource, most: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """How many nodes of each number of edges a graph has, and the labels: what is known without atoms."""
    batch = source.fetch(range(len(source)))
    degree = torch.bincount(batch.edge_index[1], minlength=batch.num_nodes).clamp(max=most)
    counts = torch.zeros(len(source), most + 1).index_put_((batch.batch, degree), torch.ones(len(degree)), accumulate=True)
    return counts.numpy(), batch.y.numpy()


def draw(model: Model, test: GraphSource, path: Path, title: str) -> None:
    """Test graphs, which pre-training has not seen: hidden atoms coloured by the error of their reconstruction."""
    draw_errors(model, graphmae_tiny_molecules().objective, [test[i] for i in range(SHOWN)], path, title)


def write(test: GraphSource, index: int, path: Path) -> Path:
    """A test graph as a file."""
    return write_graph(test.item(index), path.with_suffix(".npz"))


DEMO = Demo(
    recipe="graph/graphmae-tiny-molecules",
    title="Molecule-like graphs",
    samples="graphs",
    published="graphmae-tiny-molecules",
    task=CLASSIFICATION,
    per_class=PER_CLASS,
    labelled=labelled,
    finetune=molecules_recipe,
    frozen=probed,
    objective=lambda model: GraphMAEObjectiveConfig(mask_rate=0.25, alpha=1.0).build(model),
    baselines={"kinds of atoms": mean_features, "degrees": degree_counts},
    draw=draw,
    caption="Test graphs: hidden atoms, coloured by the error of their reconstruction",
    write=write,
)
