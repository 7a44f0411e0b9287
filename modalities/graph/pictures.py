"""Pictures of graphs: nodes coloured by a value (an error, a prediction), edges as lines, as PNG files."""

from collections.abc import Sequence
from pathlib import Path

import networkx as nx
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.preprocessing import StandardScaler
from torch_geometric.data import Data

from modalities.graph.models.graphmae import GraphMAE
from modalities.graph.objectives.graphmae import GraphMAEObjectiveConfig
from modalities.graph.preprocess import collate
from trainer.errors import DataError
from trainer.evaluation import evaluating
from trainer.files import explain
from trainer.randomness import seeded

LARGEST = 2000
"""Nodes of a graph that is drawn."""
UNKNOWN = (0.85, 0.85, 0.85, 1.0)
"""Colour of nodes without a value."""


def layout(graph: Data) -> np.ndarray:
    """A place (x, y) in -1..1 for each node, (N, 2), the same each time. DataError for a graph too large to be drawn."""
    if graph.num_nodes > LARGEST:
        raise DataError(f"The graph has {graph.num_nodes:,} nodes; graphs of up to {LARGEST:,} are drawn. Draw a part of it.")
    plain = nx.Graph()
    plain.add_nodes_from(range(graph.num_nodes))
    plain.add_edges_from((a, b) for a, b in graph.edge_index.T.tolist() if a != b)
    near = graph.num_nodes <= 300
    places = nx.kamada_kawai_layout(plain) if near and nx.is_connected(plain) else nx.spring_layout(plain, seed=0, iterations=80 if near else 30)
    return np.array([places[node] for node in range(graph.num_nodes)], dtype=float).reshape(-1, 2)


def draw_graphs(graphs: Sequence[Data], values: Sequence[np.ndarray], captions: Sequence[str], path: Path | str, title: str, scale: str = "") -> Path:
    """A row or more of graphs whose nodes are coloured by `values` (N,), NaN grey. `scale` names the values; the colours span all graphs."""
    columns = min(len(graphs), 4)
    rows = -(-len(graphs) // columns)
    figure = Figure(figsize=(3.2 * columns + 0.8, 3.4 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    known = np.concatenate([v[np.isfinite(v)] for v in values])
    norm = Normalize(float(known.min()) if len(known) else 0.0, float(known.max()) if len(known) else 1.0)
    colours = colormaps["viridis"].with_extremes(bad=UNKNOWN)
    for axis, graph, value, caption in zip(axes.flat, graphs, values, captions):
        places = layout(graph)
        _lines(axis, graph, places)
        size = float(np.clip(1500 / graph.num_nodes, 8, 90))
        axis.scatter(*places.T, c=value, cmap=colours, norm=norm, s=size, zorder=2, edgecolors="0.3", linewidths=0.5, plotnonfinite=True)
        axis.set_title(caption, fontsize=9)
        axis.set_aspect("equal")
    for axis in axes.flat:
        axis.axis("off")
    if scale:
        figure.colorbar(ScalarMappable(norm, colours), ax=axes, label=scale, shrink=0.8)
    figure.suptitle(title, fontsize=11)
    return save(figure, path)


def draw_classes(graph: Data, numbers: np.ndarray, classes: Sequence[str], path: Path | str, title: str) -> Path:
    """A graph whose nodes are coloured by class, `numbers` (N,); negative ones grey."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    axis, places = figure.subplots(), layout(graph)
    _lines(axis, graph, places)
    size = float(np.clip(3000 / graph.num_nodes, 8, 90))
    for number in np.unique(numbers):
        colour, label = (UNKNOWN, "not known") if number < 0 else (colormaps["tab10" if len(classes) <= 10 else "tab20"](int(number) % 20), classes[number])
        axis.scatter(*places[numbers == number].T, s=size, color=[colour], label=label, zorder=2, edgecolors="0.3", linewidths=0.4)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.set_aspect("equal")
    axis.axis("off")
    figure.suptitle(title, fontsize=11)
    return save(figure, path)


def _lines(axis: Axes, graph: Data, places: np.ndarray) -> None:
    """The edges of a graph, each once."""
    ends = np.unique(np.sort(graph.edge_index[:, graph.edge_index[0] != graph.edge_index[1]].T.numpy(), axis=1), axis=0)
    axis.add_collection(LineCollection(places[ends], colors="0.6", linewidths=0.8, zorder=1))


def save(figure: Figure, path: Path | str) -> Path:
    """Write a figure as PNG; CheckpointError when the disk does not take it."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        FigureCanvasAgg(figure).print_png(path)
    except OSError as error:
        raise explain(error, path) from error
    return path


def draw_errors(model: GraphMAE, config: GraphMAEObjectiveConfig, graphs: Sequence[Data], path: Path | str, title: str) -> Path:
    """Graphs whose hidden nodes are coloured by how wrong their reconstruction is, always with the same nodes hidden; the others are grey."""
    objective, found = config.build(model), []
    for graph in graphs:
        with seeded(0), evaluating(model):
            found.append(objective.errors(collate([graph]).to(model.device)).float().cpu().numpy())
    captions = [f"{graph.num_nodes} nodes, error {np.nanmean(value):.2f}" for graph, value in zip(graphs, found)]
    return draw_graphs(graphs, found, captions, path, title, "1 - cosine of predicted and true features")


def draw_embeddings(vectors: np.ndarray, labels: np.ndarray, classes: Sequence[str], path: Path | str, title: str) -> Path:
    """Embeddings (N, D) in two dimensions, by their principal components and by t-SNE, coloured by class; always the same for the same vectors."""
    scaled = StandardScaler().fit_transform(vectors)
    flat = {"principal components": PCA(2, random_state=0).fit_transform(scaled)}
    flat["t-SNE"] = TSNE(2, perplexity=min(30.0, max((len(vectors) - 1) / 3, 1.0)), init="pca", random_state=0).fit_transform(scaled)
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    for axis, (name, places) in zip(figure.subplots(1, 2), flat.items()):
        for number, label in enumerate(classes):
            axis.scatter(*places[labels == number].T, s=8, label=label, color=colormaps["tab10"](number % 10))
        axis.set_title(name, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.axes[-1].legend(fontsize=8, markerscale=2)
    figure.suptitle(title, fontsize=11)
    return save(figure, path)
