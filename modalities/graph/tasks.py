"""What `zoo evaluate` and `zoo predict` do with graphs."""

from pathlib import Path

import torch
from torch_geometric.data import Data

from modalities.common.classification import described
from modalities.common.confusion import confusion_of
from modalities.common.evaluation import AsItIs, HeldOut, Judge, Row, results
from modalities.common.model import Model
from modalities.graph import circuit_tasks
from modalities.graph.data import LabelledGraphs
from modalities.graph.evaluation import FEATURES, loss_in_words, probed, supervised
from modalities.graph.files import write_graph
from modalities.graph.generated_circuits import generate, write_circuit
from modalities.graph.models.classifier import GraphClassifier
from modalities.graph.models.circuit_autoencoder import CircuitModel
from modalities.graph.models.encoder import GraphEncoder
from modalities.graph.models.graphmae import GraphMAE
from modalities.graph.nodes import LabelledNodes, is_node_set
from modalities.graph.objectives.graphmae import GraphMAEObjectiveConfig
from modalities.graph.objectives.supervised import Supervised
from modalities.graph.pictures import draw_errors
from modalities.graph.predicting import node_table
from modalities.graph.sampling import OneGraph
from modalities.graph.sources import GraphSource
from trainer.errors import ModelError


def evaluate(model: Model, path: str, per_class: int | None = None) -> list[Row]:
    """Results on labelled graphs, or the labelled nodes of one graph: a classifier's accuracy and loss, else probe and 5-NN on frozen features and, of a masked auto-encoder, its loss.

    `path` is a set of graphs or a graph as in the recipes, `per_class` limits the labelled training graphs or nodes. Models of circuits: see `circuit_tasks`.
    """
    if isinstance(model, CircuitModel):
        return circuit_tasks.evaluate(_able_to_read(model), path, per_class)
    train, test = _parts(model, path, per_class)
    if isinstance(model, GraphClassifier):
        return results(supervised(test), Supervised(model))
    if isinstance(model, GraphMAE):
        config = GraphMAEObjectiveConfig()
        return results([probed(train, test), HeldOut(test, FEATURES, loss_in_words(config))], config.build(model))
    return results([probed(train, test)], AsItIs(model))


def judge(model: Model, path: str) -> Judge:
    """What tells models like `model` apart on labelled graphs or nodes: a classifier's accuracy (of several labels its mean AUC), else that of 5-NN on frozen features."""
    train, test = _parts(model, path)
    if isinstance(model, GraphClassifier):
        several = model.config.multi_label
        return Judge(train, supervised(test)[int(several)], "auc" if several else "accuracy", Supervised)
    return Judge(train, probed(train, test, ("knn",)), "knn", AsItIs)


def draw_confusion(model: Model, path: str, to: Path) -> Path:
    """Draw which classes of labelled graphs or nodes a classifier takes for which. ModelError for another model, or one with several labels per graph."""
    if not isinstance(model, GraphClassifier) or model.config.multi_label:
        raise ModelError(f"Which classes are taken for which needs a model that chooses one class for each graph or node, and this {model.system} does not.")
    test = _parts(model, path)[1]
    return confusion_of(model, test, test.label_key, to)


def _parts(model: Model, path: str, per_class: int | None = None) -> tuple[GraphSource | OneGraph, GraphSource | OneGraph]:
    """Labelled graphs or nodes for training and for testing, as a model takes them."""
    if not isinstance(model, GraphEncoder):
        raise ModelError(f"zoo evaluate does not know what to measure on a {type(model).__name__}.")
    _able_to_read(model)
    classes, nodes = None, is_node_set(path)
    if isinstance(model, GraphClassifier):
        classes = model.config.class_names or None
        if (model.config.level == "node") is not nodes:
            raise ModelError(f"This classifier names {model.config.level}s, and the labels of {path} are those of {'nodes' if nodes else 'graphs'}. Give labelled {model.config.level}s.")
    if nodes:
        return LabelledNodes(path, per_class=per_class).build(model.preprocess, classes)
    return LabelledGraphs(path, per_class=per_class).build_plain(model.preprocess, classes)


def _able_to_read(model: Model) -> Model:
    """The model itself, or ModelError when it has no preprocessing."""
    if model.preprocess is None:
        raise ModelError("This model has no preprocessor_config.json, so it cannot read graphs. Export it with its preprocessing.")
    return model


def predict(model: Model, files: list[Path], to: Path | None) -> str:
    """What the model says of graph files, as text. A masked auto-encoder draws them to `to`, hidden nodes coloured by their error; a classifier of nodes writes a table of
    classes, PreRoutGNN one of times."""
    _able_to_read(model)
    if isinstance(model, CircuitModel):
        return circuit_tasks.predict(model, files, to)
    if isinstance(model, GraphClassifier) and model.config.level == "node":
        return node_table(model, files, to)
    batch = model.preprocess([str(f) for f in files])
    if isinstance(model, GraphClassifier):
        with torch.inference_mode():
            return described(model, model(batch), files)
    if not isinstance(model, GraphMAE):
        raise ModelError(f"zoo predict does not know what to show for a {type(model).__name__}.")
    to = to or Path("reconstruction.png")
    graphs = batch.to_data_list()[:8]
    draw_errors(model, GraphMAEObjectiveConfig(), graphs, to, ", ".join(f.name for f in files[:3]))
    return f"{len(graphs)} graph(s), half of the nodes hidden and coloured by how wrong their reconstruction is: {to}"


def write_example(model: Model, folder: Path) -> list[str]:
    """Write `graph.npz`, which the snippets of the cards read: a fixed graph with the node features that the model reads; of a circuit `circuit.npz`."""
    if isinstance(model, CircuitModel):
        return [str(write_circuit(generate(0), folder / "circuit.npz"))]
    nodes, width, atoms = 12, model.config.in_dim, model.config.encoder == "molecule"
    ring = torch.arange(nodes)
    edges = torch.stack([torch.cat([ring, ring[:4]]), torch.cat([ring.roll(-1), ring[:4] + 5])])
    numbers = torch.arange(nodes * width).reshape(nodes, width) * 7 % 11
    graph = Data(edge_index=edges, x=numbers % 3 if atoms else numbers.float() / 10, node_type=ring * 5 % min(width, 7))
    if atoms:
        graph.edge_attr = torch.zeros(edges.shape[1], 2, dtype=torch.long)
    return [str(write_graph(graph, folder / "graph.npz"))]
