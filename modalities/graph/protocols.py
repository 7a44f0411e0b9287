"""How papers measure graph encoders: `python -m modalities.graph.protocols svm|nodes|links|map MODEL DATA`.

svm    graphs of a TU set: an SVM (rbf) on frozen features, 10 folds, C chosen inside each training part by 5 folds (GraphMAE, InfoGraph)
nodes  one graph with classes of nodes: a linear classifier on frozen embeddings, in the division of the graph's masks or of OGB, else with 20 training nodes per class in 10 divisions
links  one graph or more: edges hidden from the encoder told from pairs that are not joined by the product of the embeddings (AUC, AP)
map    no figure but a picture: embeddings of labelled graphs by principal components and t-SNE
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch_geometric.data import Data
from torch_geometric.utils import negative_sampling

from modalities.common import pretrained
from modalities.common.commandline import guarded
from modalities.common.evaluation import features, probes
from modalities.graph.data import BUILT_IN, LabelledGraphs
from modalities.graph.models.encoder import GraphEncoder
from modalities.graph.nodes import LabelledNodes
from modalities.graph.pictures import draw_embeddings
from modalities.graph.preprocess import collate
from trainer.errors import ConfigError, DataError, ModelError
from trainer.randomness import seeded

CHOICES = {"C": [1e-3, 1e-2, 1e-1, 1.0, 10.0]}
"""Of the SVM."""
PER_CLASS, DIVISIONS = 20, 10
HIDDEN = 0.1
"""Share of the edges that the encoder does not see."""


def svm_folds(vectors: np.ndarray, labels: np.ndarray, folds: int = 10, seed: int = 0) -> list[float]:
    """Accuracy (micro-F1) of each of `folds` stratified folds."""
    if min(np.bincount(labels)) < folds:
        raise DataError(f"{folds} folds need at least {folds} graphs of each class, found {min(np.bincount(labels))}.")
    found = []
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(vectors, labels):
        search = GridSearchCV(make_pipeline(StandardScaler(), SVC()), {f"svc__{key}": values for key, values in CHOICES.items()}, cv=5)
        found.append(float(search.fit(vectors[train], labels[train]).score(vectors[test], labels[test])))
    return found


def node_probe(tokens: np.ndarray, labels: np.ndarray, per_class: int = PER_CLASS, divisions: int = DIVISIONS) -> list[float]:
    """Accuracy of a linear classifier on the embeddings (N, D) of nodes with labels (N,), trained on `per_class` of each class; all others are tested."""
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    if counts.min() <= per_class:
        raise DataError(f"{per_class} training nodes per class leave none to test: the smallest class has {counts.min()}.")
    found = []
    for seed in range(divisions):
        rng = np.random.default_rng(seed)
        train = np.concatenate([rng.choice(np.flatnonzero(labels == c), per_class, replace=False) for c in classes])
        test = np.setdiff1d(np.flatnonzero(labels >= 0), train)
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(tokens[train], labels[train])
        found.append(float(probe.score(tokens[test], labels[test])))
    return found


def link_scores(model: GraphEncoder, graph: Data, seed: int = 0) -> tuple[float, float]:
    """(AUC, AP) of hidden edges of a preprocessed graph against as many pairs that are not joined, by the product of the embeddings."""
    edges = graph.edge_index
    once = (edges[0] < edges[1]).nonzero()[:, 0]
    with seeded(seed):
        hidden = once[torch.randperm(len(once))[: max(int(HIDDEN * len(once)), 1)]]
        pairs = negative_sampling(edges, graph.num_nodes, len(hidden))
    if not len(once) or not pairs.shape[1]:
        raise DataError("Link prediction needs a graph with edges, and pairs of nodes that are not joined.")
    ids = edges[0] * graph.num_nodes + edges[1]
    gone = torch.cat([edges[0, hidden] * graph.num_nodes + edges[1, hidden], edges[1, hidden] * graph.num_nodes + edges[0, hidden]])
    seen = graph.clone()
    seen.edge_index = edges[:, ~torch.isin(ids, gone)]
    if "edge_attr" in graph:
        seen.edge_attr = graph.edge_attr[~torch.isin(ids, gone)]
    with torch.inference_mode():
        tokens = model.eval().tokens(collate([seen])).float()
    scores = torch.cat([(tokens[a] * tokens[b]).sum(dim=1) for a, b in (edges[:, hidden], pairs)]).numpy()
    truth = np.repeat([1, 0], [len(hidden), pairs.shape[1]])
    return float(roc_auc_score(truth, scores)), float(average_precision_score(truth, scores))


def measure(what: tyro.conf.Positional[Literal["svm", "nodes", "links", "map"]], model: tyro.conf.Positional[str], data: tyro.conf.Positional[str], /, to: Path | None = None) -> list[float]:
    """Measure a model by a protocol and print it.

    Args:
        what: The protocol.
        model: Folder or name of the model.
        data: svm, map: a set of labelled graphs. links: a graph file. nodes: one with labels of nodes, or an OGB folder.
        to: Where the picture of map goes. Default: embeddings.png.
    """
    encoder = pretrained.load(model)
    if not isinstance(encoder, GraphEncoder) or encoder.preprocess is None:
        raise ModelError(f"{model} is no graph encoder with its preprocessing.")
    if to is not None and what != "map":
        raise ConfigError(f"to={to} is where the picture of 'map' goes; {what!r} draws none.")
    if what == "map":
        test = LabelledGraphs(data).build(encoder.preprocess)[1]
        with torch.inference_mode():
            found = features(encoder.eval(), test)
        print(draw_embeddings(*found, test.classes, to or Path("embeddings.png"), f"{len(test):,} test graphs of {test.name}, embeddings of {model}"))
        return []
    if what == "svm":
        parts = LabelledGraphs(data).build(encoder.preprocess)
        if parts[0].multi_label:
            raise DataError(f"{data} has yes-or-no labels, and the SVM tells classes of graphs. Train a head: python -m modalities.graph.finetune {data} --model {model} --head probe.")
        with torch.inference_mode():
            found = svm_folds(*(np.concatenate(both) for both in zip(*(features(encoder.eval(), part) for part in parts))))
        words = "SVM on frozen features, 10 folds"
    elif what == "nodes":
        found, words = _nodes(encoder, data)
    else:
        if data in BUILT_IN or not Path(data).is_file():
            raise DataError(f"{data} is no file of one graph, which the protocol 'links' needs.")
        made = encoder.preprocess.transform(data, data)
        found, precisions = zip(*(link_scores(encoder, made, seed) for seed in range(DIVISIONS)))
        print(f"{_mean(found)}  AUC, {_mean(precisions)} AP: hidden edges by the product of embeddings, {DIVISIONS} divisions of {data}")
        return list(found)
    print(f"{_mean(found)}  accuracy: {words} of {data}")
    return found


def _nodes(encoder: GraphEncoder, data: str) -> tuple[list[float], str]:
    """Accuracies of the linear classifier of nodes, and what was measured."""
    nodes = LabelledNodes(data).read()
    if nodes.labels.is_floating_point():
        raise DataError(f"{data} has yes-or-no labels, and the probe tells classes of nodes. Train a head: python -m modalities.graph.finetune {data} --task nodes --head probe.")
    with torch.inference_mode():
        tokens = encoder.eval().tokens(collate([encoder.preprocess.transform(nodes.graph, data)])).float().numpy()
    if nodes.parts:
        train, test = ((tokens[part.chosen], part.labels.numpy()) for part in (nodes.part("train"), nodes.part("test")))
        return [probes(train, test, ("probe",))["probe"]], f"linear probe of nodes, {len(train[1])} training nodes, the division"
    return node_probe(tokens[nodes.chosen], nodes.labels.numpy()), f"linear probe of nodes, {PER_CLASS} per class, {DIVISIONS} divisions"


def _mean(shares: Sequence[float]) -> str:
    """Mean and deviation in percent; of one value itself."""
    return f"{100 * np.mean(shares):6.2f} %" + (f" +- {100 * np.std(shares):.2f}" if len(shares) > 1 else "")


if __name__ == "__main__":
    sys.exit(guarded(lambda: tyro.cli(measure, prog="python -m modalities.graph.protocols", use_underscores=True)))
