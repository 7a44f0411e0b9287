"""Our layers against PyG's where they are the same, and those for molecules against what is written out node by node."""

import pytest
import torch
from torch.nn import functional as F
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GAE, DeepGraphInfomax, GATConv, GCNConv, GINConv
from torch_geometric.utils import to_undirected

import zoo
from modalities.graph.models.bond_layers import bond_layer, with_loops
from modalities.graph.models.classifier import LEARNED, GraphClassifier, GraphClassifierConfig
from modalities.graph.models.encoder import GraphEncoder, GraphEncoderConfig
from modalities.graph.models.layers import GATLayer, GCNLayer, GINLayer
from modalities.graph.objectives.edge_prediction import EdgePredictionConfig
from modalities.graph.objectives.infomax import InfomaxConfig
from trainer.errors import CheckpointError, ConfigError


@pytest.fixture
def graph():
    """Nine nodes, one of them without neighbours."""
    torch.manual_seed(0)
    return torch.randn(9, 5), to_undirected(torch.randint(0, 8, (2, 12)))


def test_gat_is_that_of_pyg(graph):
    x, edges = graph
    ours, theirs = GATLayer(5, 4, 3), GATConv(5, 4, 3, add_self_loops=False)
    theirs.load_state_dict({"lin.weight": ours.fc.weight, "att_src": ours.attn_l, "att_dst": ours.attn_r, "bias": ours.bias})
    torch.testing.assert_close(ours(x, edges), theirs(x, edges))


def test_gin_is_that_of_pyg(graph):
    x, edges = graph
    ours = GINLayer(5, 8, 6, norm="layernorm")
    theirs = GINConv(ours.apply_func)  # draws the weights anew
    torch.testing.assert_close(ours(x, edges), theirs(x, edges))


def test_gcn_is_that_of_pyg_on_undirected_graphs_with_loops(graph):
    x, edges = graph
    edges = torch.cat([edges[:, edges[0] != edges[1]], torch.arange(9).expand(2, -1)], dim=1)
    ours, theirs = GCNLayer(5, 6), GCNConv(5, 6, add_self_loops=False)
    theirs.load_state_dict({"lin.weight": ours.fc.weight, "bias": torch.zeros(6)})
    with torch.no_grad():
        ours.fc.bias.zero_()  # PyG adds its bias last, DGL's layer before the degrees
    torch.testing.assert_close(ours(x, edges), theirs(x, edges))


def test_edge_prediction_is_the_loss_of_gae(graph):
    x, edges = graph
    other = torch.randint(0, 9, (2, 7))
    loss, _ = EdgePredictionConfig().build(GraphEncoder(GraphEncoderConfig(in_dim=5, embed_dim=5))).error(x, edges, other)
    torch.testing.assert_close(loss, GAE(torch.nn.Identity()).recon_loss(x, edges, other))


def test_infomax_is_the_loss_of_deep_graph_infomax_and_takes_one_graph(graph):
    x, _ = graph
    objective = InfomaxConfig("shuffled").build(GraphEncoder(GraphEncoderConfig(in_dim=5, embed_dim=5)))
    theirs = DeepGraphInfomax(5, torch.nn.Identity(), summary=lambda z: z.mean(dim=0).sigmoid(), corruption=None)
    theirs.weight.data = objective.discriminator_weight.detach().T
    one = Batch.from_data_list([Data(x=x)])
    for shift, others in ((0, x.flip(0)), (1, x)):  # a graph alone follows itself
        loss, _ = objective.error(x, others, one, shift)
        torch.testing.assert_close(loss, theirs.loss(x, others, x.mean(dim=0).sigmoid()))


def _written_out(layer, kind, x, edges, bonds):
    """What a layer for molecules gives, edge by edge."""
    table = lambda bond: layer.edge_embedding1.weight[bond[0]] + layer.edge_embedding2.weight[bond[1]]  # noqa: E731
    pairs = list(zip(*edges.tolist()))
    values = {"gin": lambda x: x, "gat": lambda x: layer.weight_linear(x)}.get(kind, lambda x: layer.linear(x))(x)
    messages = [values[a] + table(bond) for (a, _), bond in zip(pairs, bonds.tolist())]
    into = [[i for i, (_, b) in enumerate(pairs) if b == node] for node in range(len(x))]
    if kind == "gin":
        return layer.mlp(torch.stack([sum(messages[i] for i in own) for own in into]))
    if kind == "graphsage":
        return F.normalize(torch.stack([torch.stack([messages[i] for i in own]).mean(dim=0) for own in into]), dim=1)
    leave = [sum(a == node for a, _ in pairs) for node in range(len(x))]
    if kind == "gcn":
        return torch.stack([sum(messages[i] / (leave[pairs[i][0]] * leave[node]) ** 0.5 for i in own) for node, own in enumerate(into)])
    width, heads = x.shape[1], layer.att.shape[1]
    messages = [message.view(heads, width) for message in messages]
    scores = [F.leaky_relu((torch.cat([values[b].view(heads, width), message], dim=1) * layer.att[0]).sum(dim=1), 0.2).exp() for (_, b), message in zip(pairs, messages)]
    shares = [score / sum(other for other, (a, _) in zip(scores, pairs) if a == pairs[i][0]) for i, score in enumerate(scores)]
    return torch.stack([sum(shares[i][:, None] * messages[i] for i in own).mean(dim=0) for own in into]) + layer.bias


@pytest.mark.parametrize("kind", ["gin", "gcn", "gat", "graphsage"])
def test_layers_for_molecules(kind):
    torch.manual_seed(0)
    edges = torch.tensor([[0, 1, 1, 2, 2, 3, 1, 3], [1, 0, 2, 1, 3, 2, 3, 1]])  # the fifth atom is alone
    edges, bonds = with_loops(edges, torch.randint(0, 3, (8, 2)), 5)
    x, layer = torch.randn(5, 6), bond_layer(kind, 6, 2)
    torch.testing.assert_close(layer(x, edges, bonds), _written_out(layer, kind, x, edges, bonds))


@pytest.mark.parametrize("pool", LEARNED)
def test_learned_pooling_starts_with_the_head_and_is_kept(pool, tmp_path, graph):
    x, edges = graph
    encoder = GraphEncoder(GraphEncoderConfig(in_dim=5, embed_dim=8))
    batch = Batch.from_data_list([Data(x=x, edge_index=edges), Data(x=x[:1], edge_index=torch.empty(2, 0, dtype=torch.long))])
    model = GraphClassifier.from_encoder(encoder, 3, pool=pool).eval()
    assert model(batch).shape == (2, 3) and model.embed(batch).shape == (2, model.head_width)
    if pool == "attention":
        torch.testing.assert_close(model.embed(batch)[1], model.tokens(batch)[9])  # one node has all of it
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(zoo.from_pretrained(tmp_path)(batch), model(batch))
    other = zoo.from_pretrained(tmp_path, task="classification", num_outputs=2, pool="mean")
    assert other.pool is None and other(batch).shape == (2, 2)
    with pytest.raises(ConfigError, match="is learned"):
        GraphClassifierConfig(pool=pool, level="node")


def test_what_no_tensor_of_a_molecule_network_shows_must_be_said():
    from modalities.common import pretrained
    from modalities.graph.interop.pretrain_gnns import to_official

    state = to_official(GraphEncoder(GraphEncoderConfig("molecule", 2, 8, 2, activation="relu", bond_layer="gcn")))
    with pytest.raises(CheckpointError, match="'gcn' or 'graphsage'.*gnn_type"):
        pretrained.from_tensors(state, None, "here")
    with pytest.raises(CheckpointError, match="says gnn_type 'gin'.*'gcn' or 'graphsage'"):
        pretrained.from_tensors(state, {"gnn_type": "gin"}, "here")
    assert pretrained.from_tensors(state, {"gnn_type": "graphsage"}, "here").config.bond_layer == "graphsage"
    pooled = GraphClassifier(GraphClassifierConfig(encoder="molecule", in_dim=2, embed_dim=8, activation="relu", num_classes=1, multi_label=True, pool="set2set"))
    with pytest.raises(CheckpointError, match="steps.*set2set3"):
        pretrained.from_tensors(to_official(pooled), None, "here")
