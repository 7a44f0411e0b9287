"""Objectives of pre-training: every encoder under each of them, what they hide, and what they compare."""

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.utils import k_hop_subgraph

import zoo
from modalities import registry
from modalities.common.run import run
from modalities.graph.generated import GeneratedConfig, graphs
from modalities.graph.models.encoder import GraphEncoder, GraphEncoderConfig
from modalities.graph.models.graphmae import GraphMAE, GraphMAEConfig
from modalities.graph.objectives.attribute_masking import AttributeMaskingConfig
from modalities.graph.objectives.context_prediction import ContextPredictionConfig, steps_from
from modalities.graph.objectives.edge_prediction import EdgePredictionConfig, negatives
from modalities.graph.objectives.graphcl import VIEWS, GraphCLConfig
from modalities.graph.objectives.graphmae import GraphMAEObjectiveConfig
from modalities.graph.objectives.infomax import InfomaxConfig
from modalities.graph.objectives.masks import hide_bonds, masked_nodes
from modalities.graph.preprocess import GraphPreprocess
from trainer.config import replace
from trainer.errors import ConfigError

OBJECTIVES = {
    "masking": AttributeMaskingConfig(), "edges": EdgePredictionConfig(), "vgae": EdgePredictionConfig(variational=True, latent_dim=4), "infomax": InfomaxConfig(),
    "dgi": InfomaxConfig("shuffled"), "graphcl": GraphCLConfig(), "context": ContextPredictionConfig(context_size=2), "skipgram": ContextPredictionConfig(mode="skipgram", neg_samples=2),
}  # fmt: skip
ENCODERS = {
    "gin": {}, "gat": {"num_heads": 2}, "dotgat": {"num_heads": 2}, "gcn": {}, "sage": {}, "pna": {}, "gps": {"num_heads": 2, "activation": "relu", "positions": "random_walk", "position_dim": 4},
    "gps with eigenvectors": {"encoder": "gps", "num_heads": 2, "activation": "relu", "positions": "laplacian", "position_dim": 3},
    "molecule": {"in_dim": 2, "activation": "relu"}, "molecule of gat": {"encoder": "molecule", "in_dim": 2, "activation": "relu", "bond_layer": "gat", "num_heads": 2},
}  # fmt: skip


def config_of(encoder, **more):
    return GraphEncoderConfig(**{"encoder": encoder, "in_dim": 6, "embed_dim": 8, **ENCODERS[encoder], **more})


def batch_for(config, count=6):
    raw = graphs("molecules", "train", GeneratedConfig(12, 4))[0][:count]
    preprocess = GraphPreprocess("atoms", 2, self_loops=False) if config.encoder == "molecule" else GraphPreprocess("types", 6, positions=config.positions, position_dim=config.position_dim)
    batch = preprocess(list(raw))
    batch["sample_key"] = torch.arange(count) * 7919
    return batch


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_encoder_under_every_objective(name, encoder):
    torch.manual_seed(0)
    config = config_of(encoder)
    objective = OBJECTIVES[name].build(GraphEncoder(config))
    losses = objective(batch_for(config))
    losses.loss.backward()
    assert losses.loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in objective.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.export().parameters())
    torch.optim.SGD(objective.parameters(), 1e-3).step()
    assert objective(batch_for(config)).loss.isfinite()
    model = objective.export().eval()
    batch = batch_for(config)
    assert model.tokens(batch).shape == (batch.num_nodes, model.width) and model.embed(batch).shape == (6, model.width)


@pytest.mark.parametrize("encoder", ["sage", "pna", "gps"])
def test_further_encoders_under_graphmae(encoder):
    fields = config_of(encoder)
    model = GraphMAE(GraphMAEConfig(**{name: getattr(fields, name) for name in fields.__dataclass_fields__}, decoder="gcn"))
    losses = GraphMAEObjectiveConfig(drop_edge_rate=0.2).build(model)(batch_for(fields))
    losses.loss.backward()
    assert losses.loss.isfinite()


@pytest.mark.parametrize("jk, width", [("last", 8), ("sum", 8), ("max", 8), ("concat", 24)])
def test_jumping_knowledge_of_molecules(jk, width):
    config = config_of("molecule", jk=jk)
    batch, model = batch_for(config), GraphEncoder(config).eval()
    states = model.states(batch)
    assert len(states) == 3 and model.tokens(batch).shape == (batch.num_nodes, width) == (batch.num_nodes, model.width)
    if jk == "sum":
        assert torch.allclose(model.tokens(batch), states[0] + states[1] + states[2])


def test_at_least_one_node_of_each_graph_is_hidden():
    batch = GraphPreprocess(in_dim=1)([Data(x=torch.zeros(n, 1), edge_index=torch.empty(2, 0, dtype=torch.long)) for n in (1, 5, 13, 20)])
    batch["sample_key"] = torch.arange(4)
    nodes = masked_nodes(batch, 0.15)
    assert torch.bincount(batch.batch[nodes]).tolist() == [1, 1, 2, 4] and nodes.unique().equal(nodes)
    assert not nodes.equal(masked_nodes(_with_keys(batch, 4), 0.15))


def _with_keys(batch, first):
    other = batch.clone()
    other["sample_key"] = torch.arange(first, first + batch.num_graphs)
    return other


def test_bonds_of_hidden_atoms_are_hidden_in_both_directions():
    edges = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])
    bonds, once = hide_bonds(edges, torch.zeros(6, 2, dtype=torch.long), torch.tensor([1]))
    assert bonds[:, 0].tolist() == [5, 5, 5, 5, 0, 0] and edges[:, once].T.tolist() == [[0, 1], [1, 2]]
    objective = AttributeMaskingConfig(mask_edge=True).build(GraphEncoder(config_of("molecule")))
    assert {"accuracy", "bonds"} == objective(batch_for(config_of("molecule"))).parts.keys()
    with pytest.raises(ConfigError, match="mask_edge"):
        AttributeMaskingConfig(mask_edge=True).build(GraphEncoder(config_of("gin")))


def test_negative_pairs_are_not_joined_and_lie_in_one_graph():
    config = config_of("gin")
    batch = batch_for(config)
    once = batch.edge_index[0] < batch.edge_index[1]
    pairs = negatives(batch, once)
    edges = set(map(tuple, batch.edge_index.T.tolist()))
    assert pairs.shape[1] > 0.95 * once.sum() and batch.batch[pairs[0]].equal(batch.batch[pairs[1]])
    assert not edges & set(map(tuple, pairs.T.tolist())) and (pairs[0] != pairs[1]).all()


def test_steps_are_those_of_pyg():
    batch = batch_for(config_of("gin"), 1)
    distance = steps_from(batch.edge_index, torch.tensor([3]), batch.num_nodes, 4)
    for steps in range(5):
        assert set(k_hop_subgraph(3, steps, batch.edge_index, num_nodes=batch.num_nodes)[0].tolist()) == set(((distance >= 0) & (distance <= steps)).nonzero()[:, 0].tolist())


@pytest.mark.parametrize("view", VIEWS)
def test_views_of_graphcl(view):
    config = config_of("molecule")
    batch, objective = batch_for(config), GraphCLConfig((view,), ratio=0.25).build(GraphEncoder(config))
    changed = objective.view(batch, torch.rand(batch.num_nodes), torch.rand(batch.num_nodes), 0, 0)
    before, after = (torch.bincount(b.batch, minlength=6) for b in (batch, changed))
    if view in ("drop_nodes", "subgraph"):
        assert after.tolist() == [n - int(0.25 * n) for n in before.tolist()] and changed.edge_index.max() < changed.num_nodes
        assert len(changed.edge_attr) == changed.edge_index.shape[1]
    elif view == "mask_attributes":
        assert int((changed.x[:, 0] == 119).sum()) == sum(int(0.25 * n) for n in before.tolist())
    elif view == "drop_edges":
        assert changed.edge_index.shape[1] == len(changed.edge_attr) < batch.edge_index.shape[1]
    else:
        assert changed is batch
    with pytest.raises(ConfigError, match="views"):
        GraphCLConfig(("drop",))


@pytest.mark.parametrize("way", ["vgae", "dgi"])
def test_recipes_of_vgae_and_infomax(way, tmp_path):
    few = {"train.steps": 2, "train.batch_size": 6, "data.generated.samples": 12, "data.generated.test_samples": 6, "train.pictures": 0, "model.embed_dim": 8, "model.depth": 2}
    model = zoo.from_pretrained(run(replace(registry.find_recipe(f"graph/tiny-{way}"), few), tmp_path / "run"))
    assert model.system == "graph/encoder" and model.name == f"graph/tiny-{way}"
    objective = registry.find_recipe(f"graph/cora-{way}").objective
    assert (objective.variational if way == "vgae" else objective.negatives == "shuffled") and registry.find_recipe(f"graph/cora-{way}").model.in_dim == 1433


def test_a_graph_alone_has_nothing_to_be_told_from():
    config = config_of("gin")
    for name in ("infomax", "graphcl"):
        with pytest.raises(ConfigError, match="one only"):
            OBJECTIVES[name].build(GraphEncoder(config))(batch_for(config, 1))
