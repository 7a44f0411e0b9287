"""Raw graphs to batches: what is repaired, what is refused, and that packed graphs are the same."""

import networkx as nx
import pytest
import torch
from torch_geometric.data import Data

from modalities.graph.generated import BUILT_IN, SETS, GeneratedConfig, graphs
from modalities.graph.preprocess import GraphPreprocess, collate
from modalities.graph.sources import GraphSource
from trainer.errors import ConfigError, DataError


def path_of(*nodes):
    return torch.tensor([nodes[:-1], nodes[1:]])


def test_edges_are_cleaned():
    graph = Data(x=torch.rand(4, 3), edge_index=torch.tensor([[0, 0, 1, 1], [1, 1, 1, 2]]), edge_attr=torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    made = GraphPreprocess(in_dim=3).transform(graph)
    assert made.edge_index.T.tolist() == [[0, 1], [1, 0], [1, 2], [2, 1], [0, 0], [1, 1], [2, 2], [3, 3]]
    assert made.edge_attr[:, 0].tolist() == [1.0, 1.0, 4.0, 4.0, 0.0, 0.0, 0.0, 0.0]
    plain = GraphPreprocess(in_dim=3, self_loops=False, undirected=False).transform(graph)
    assert plain.edge_index.T.tolist() == [[0, 1], [1, 2]] and plain.x.equal(graph.x)


def test_features_are_made():
    graph = {"edge_index": path_of(0, 1, 2).numpy(), "num_nodes": 4, "node_type": torch.tensor([0, 2, 1, 1])}
    assert GraphPreprocess("degree", 3).transform(graph).x.argmax(dim=1).tolist() == [1, 2, 1, 0]
    assert GraphPreprocess("degree", 2).transform(graph).x.argmax(dim=1).tolist() == [1, 1, 1, 0]
    assert GraphPreprocess("types", 3).transform(graph).x.argmax(dim=1).tolist() == [0, 2, 1, 1]
    assert GraphPreprocess("constant", 1).transform(graph).x.tolist() == [[1.0]] * 4
    scaled = GraphPreprocess(in_dim=1, mean=(1.0,), std=(2.0,)).transform(Data(x=torch.tensor([3.0, 5.0]), edge_index=path_of(0, 1)))
    assert scaled.x.tolist() == [[1.0], [2.0]]
    assert GraphPreprocess("degree", 4)(nx.star_graph(3)).x.argmax(dim=1).tolist() == [3, 1, 1, 1]


@pytest.mark.parametrize(
    "graph, words",
    [
        (Data(x=torch.rand(3, 2), edge_index=path_of(0, 1, 3)), "edge 1 leads from node 1 to node 3, and there are 3 nodes"),
        (Data(x=torch.rand(3, 2), edge_index=path_of(0, -1)), "node -1"),
        (Data(x=torch.rand(3, 5), edge_index=path_of(0, 1)), r"shape \(3, 5\); the model reads \(nodes, 2\)"),
        (Data(x=torch.tensor([[1.0, 2.0], [torch.nan, 0.0]]), edge_index=path_of(0, 1)), "x of node 1 is NaN"),
        (Data(x=torch.rand(0, 2), edge_index=torch.empty(2, 0, dtype=torch.long)), "no nodes"),
        (Data(x=torch.rand(3, 2), edge_index=torch.rand(2, 4)), "whole numbers"),
        (Data(x=torch.rand(3, 2)), "edge_index must hold"),
        (Data(edge_index=path_of(0, 1)), "has no x"),
        (Data(x=torch.rand(3, 2), edge_index=path_of(0, 1), edge_attr=torch.rand(3, 1)), "one row for each edge, 1, found 3"),
        (7, "is a int"),
    ],
)
def test_bad_graphs_are_refused(graph, words):
    with pytest.raises(DataError, match=words):
        GraphPreprocess(in_dim=2)(graph)


def test_wrong_options_are_refused():
    with pytest.raises(ConfigError, match="mean"):
        GraphPreprocess(in_dim=2, mean=(1.0,), std=(1.0,))
    with pytest.raises(ConfigError, match="constant"):
        GraphPreprocess("constant", 2)


def test_packed_graphs_are_those_of_pyg():
    config = GeneratedConfig(12, 4)
    raw, labels = graphs("molecules", "train", config)
    preprocess = GraphPreprocess("types", 6)
    source = GraphSource(raw, preprocess, labels, SETS["molecules"].classes)
    chosen = [7, 0, 11, 7]
    ours, theirs = source.fetch(chosen), collate([preprocess.transform(raw[i]) for i in chosen])
    for key in ("x", "edge_index", "edge_attr", "batch", "ptr", "node_type"):
        assert ours[key].equal(theirs[key]), key
    assert ours.y.tolist() == labels[chosen].tolist() and ours.num_graphs == 4
    one = ours.to_data_list()[2]
    assert one.edge_index.equal(preprocess.transform(raw[11]).edge_index) and one.keys() == source[11].keys()
    assert source.take([3, 5]).fetch([1]).x.equal(source.fetch([5]).x)


@pytest.mark.parametrize("name", BUILT_IN)
def test_generated_sets(name):
    config = GeneratedConfig(8, 4)
    raw, labels = graphs(name, "train", config)
    assert labels.tolist() == [0, 1, 2, 3] * 2 and len(raw) == 8
    again = graphs.__wrapped__(name, "train", config)[0]
    other = graphs.__wrapped__(name, "train", GeneratedConfig(8, 4, seed=1))[0]
    assert all(a.edge_index.equal(b.edge_index) for a, b in zip(raw, again)) and not raw[0].edge_index.equal(other[0].edge_index)
    for graph in raw:
        assert graph.is_undirected() and not graph.has_self_loops() and graph.num_edges >= graph.num_nodes
