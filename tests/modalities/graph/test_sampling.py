"""Neighbour sampling of one large graph: what is drawn, that it is a pure function of seed and step, and a run on it."""

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from modalities import registry
from modalities.common.run import run
from modalities.graph import sampling
from modalities.graph.finetune import default_recipe
from modalities.graph.nodes import NodeSet
from modalities.graph.models.classifier import GraphClassifier, GraphClassifierConfig
from modalities.graph.objectives.supervised import Supervised
from modalities.graph.preprocess import GraphPreprocess
from modalities.graph.protocols import link_scores, node_probe, svm_folds
from modalities.graph.sampling import NeighbourSource
from modalities.graph.models.encoder import GraphEncoder, GraphEncoderConfig
from trainer.config import replace
from trainer.data import Share, batches
from trainer.errors import ConfigError, DataError


def large(nodes=200, seed=0):
    rng = np.random.default_rng(seed)
    member = rng.integers(0, 3, nodes)
    a, b = rng.integers(0, nodes, (2, 12 * nodes))
    kept = (member[a] == member[b]) | (rng.random(len(a)) < 0.1)
    x = np.eye(6, dtype=np.float32)[np.where(rng.random(nodes) < 0.5, member, rng.integers(0, 6, nodes))]
    return Data(x=torch.from_numpy(x), edge_index=torch.from_numpy(np.stack([a[kept], b[kept]])), y=torch.from_numpy(member))


def source_of(graph, fanouts=(3, 2)):
    nodes = NodeSet("large", graph, graph.y, ("a", "b", "c"), np.arange(graph.num_nodes), {})
    return NeighbourSource(graph, GraphPreprocess(in_dim=6), fanouts).nodes_of(nodes)


def same(a, b):
    return all(a[key].equal(b[key]) for key in ("x", "edge_index", "batch", "root", "sample_key", "y"))


def test_neighbours_are_those_of_the_graph_and_few():
    graph = large()
    source = source_of(graph)
    batch = source.fetch([5, 9, 5], np.array([1, 2, 3], np.uint64))
    real = set(map(tuple, graph.edge_index.T.tolist())) | set(map(tuple, graph.edge_index.flip(0).T.tolist()))
    features = batch.x.argmax(dim=1)
    assert batch.num_graphs == 3 and batch.y.tolist() == graph.y[[5, 9, 5]].tolist()
    assert features[batch.root].tolist() == graph.x[[5, 9, 5]].argmax(dim=1).tolist()
    sizes = torch.bincount(batch.batch)
    assert (sizes <= 1 + 3 + 3 * 2).all() and batch.batch[batch.edge_index[0]].equal(batch.batch[batch.edge_index[1]])
    one = batch.to_data_list()[1]
    assert one.num_nodes == sizes[1] and one.edge_index.max() < one.num_nodes and one.is_undirected() and one.has_self_loops()
    whole = source_of(graph, (10**4,)).fetch([7])  # all neighbours
    assert whole.num_nodes == 1 + len({b for a, b in real if a == 7 and b != 7})


def test_the_stream_is_a_pure_function_of_seed_and_step():
    source = source_of(large())
    whole = list(batches(source, 16, 3, 0, 6, 0))
    again = list(batches(source, 16, 3, 4, 6, 0))
    assert all(same(a, b) for a, b in zip(whole[4:], again))
    assert not same(whole[4], next(batches(source, 16, 4, 4, 6, 0)))
    halves = [next(batches(source, 16, 3, 0, 6, 0, Share(rank, 2))) for rank in range(2)]
    assert torch.cat([half.x for half in halves]).equal(whole[0].x) and sum(half.num_edges for half in halves) == whole[0].num_edges
    with_worker = next(batches(source, 16, 3, 0, 1, 1))
    assert same(with_worker, whole[0])


def test_nodes_are_classified_from_their_surroundings():
    graph = large()
    torch.manual_seed(0)
    objective = Supervised(GraphClassifier(GraphClassifierConfig(in_dim=6, embed_dim=16, num_classes=3, level="node")))
    optimizer = torch.optim.Adam(objective.parameters(), 1e-2)
    source = source_of(graph, (5, 5))
    for batch in batches(source.take(range(100)), 50, 0, 0, 30, 0):
        losses = objective(batch)
        losses.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    objective.eval()
    with torch.no_grad():
        found = objective(source.take(range(100, 200)).fetch(range(100)))
    assert losses.count == 50 and found.count == 100 and found.parts["accuracy"] > 0.7


def test_a_run_on_one_large_graph(tmp_path):
    graph = large()
    np.savez(tmp_path / "big.npz", edge_index=graph.edge_index.numpy(), x=graph.x.numpy(), y=graph.y.numpy())
    changes = {"data.path": str(tmp_path / "big.npz"), "data.fanouts": [3, 3], "train.steps": 2, "train.batch_size": 8, "train.pictures": 0}
    recipe = registry.find_recipe("graph/graphmae-tiny-molecules")
    export = run(replace(recipe, changes), tmp_path / "run")
    assert (export / "model.safetensors").exists()
    with pytest.raises(ConfigError, match="one large graph"):
        replace(recipe, {"data.fanouts": [3]}).build()
    with pytest.raises(ConfigError, match="at least 1"):
        NeighbourSource(graph, GraphPreprocess(in_dim=6), (0,))


def test_a_graph_too_large_to_be_taken_whole_is_told_before_training(tmp_path, monkeypatch):
    graph = large()
    np.savez(tmp_path / "big.npz", edge_index=graph.edge_index.numpy(), x=graph.x.numpy(), y=graph.y.numpy())
    monkeypatch.setattr(sampling, "_memory", lambda: 2**20)
    options = {"data.path": str(tmp_path / "big.npz"), "train.batch_size": 1}
    for recipe in (registry.find_recipe("graph/graphmae-tiny-molecules"), replace(default_recipe("graph/graphmae-tiny-molecules", task="nodes"), {"scratch": True})):
        with pytest.raises(ConfigError, match="200 nodes and .* needs about 0 GB.*fanouts 10 10"):
            replace(recipe, options).build()
    assert len(replace(registry.find_recipe("graph/graphmae-tiny-molecules"), {**options, "data.fanouts": [3]}).build()[0]) == 200


def test_protocols():
    graph = large()
    torch.manual_seed(0)
    model = GraphEncoder(GraphEncoderConfig("gcn", 6, 16, norm="none")).eval()
    made = GraphPreprocess(in_dim=6).transform(graph)
    with torch.no_grad():
        tokens = model.tokens(made).numpy()
    assert np.mean(node_probe(tokens, graph.y.numpy(), 10, 3)) > 0.6
    area, precision = link_scores(model, made)
    assert 0.4 < area <= 1 and 0.4 < precision <= 1
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    assert np.mean(svm_folds(labels[:, None] * 4 + rng.normal(size=(40, 3)), labels, folds=4)) > 0.9
    with pytest.raises(DataError, match="smallest class"):
        node_probe(tokens, graph.y.numpy(), 100)
    with pytest.raises(DataError, match="10 folds"):
        svm_folds(rng.normal(size=(8, 2)), np.repeat([0, 1], 4))
