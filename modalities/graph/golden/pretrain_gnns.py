"""Recomputes golden files of pretrain-gnns and of GraphMAE's molecule branch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch_geometric.data import Batch

from modalities import registry
from modalities.common.golden import Golden, gradients_of, pick
from modalities.graph.interop import pretrain_gnns as interop
from modalities.graph.models.classifier import GraphClassifier
from modalities.graph.models.encoder import GraphEncoder
from modalities.graph.objectives.attribute_masking import AttributeMaskingConfig
from modalities.graph.objectives.edge_prediction import EdgePredictionConfig
from modalities.graph.objectives.graphmae_molecules import GraphMAEMoleculesObjectiveConfig
from modalities.graph.objectives.infomax import InfomaxConfig
from modalities.graph.objectives.supervised import Supervised
from trainer.config import from_dict
from trainer.objective import Objective

OBJECTIVES = ("linear_pred_atoms.", "linear_pred_bonds.", "discriminator_weight")
"""Tensors of a file that belong to objectives, not to the model."""


def _load(golden: Golden) -> tuple[GraphEncoder, dict[str, Any]]:
    """The model of a file, every parameter with gradient, and the objective's fields."""
    where = str(golden.path)
    state = {name: tensor for name, tensor in golden.state.items() if not name.startswith(OBJECTIVES)}
    system, fields, options, state = interop.from_layout(state, golden.config, golden.layout, where)
    cls = registry.system_class(system)
    return cls.from_state(from_dict(cls.config_class, fields, where), state, where).requires_grad_(True), options


def _graph(golden: Golden, x: str = "x", bonds: str = "edge_attr") -> Batch:
    graph = Batch(x=golden.input(x), edge_index=golden.input("edge_index"), edge_attr=golden.inputs.get(bonds, golden.input("edge_attr")), batch=golden.input("batch"))
    graph._num_graphs = int(graph.batch.max()) + 1
    return graph


def _gradients(golden: Golden, loss: Tensor, module: Module) -> dict[str, Tensor]:
    """Gradients of a loss for the model and the heads of an objective around it; zeros for tensors of the file that none of them has, which the loss does not reach."""
    unused = {name: torch.zeros_like(tensor) for name, tensor in golden.state.items() if tensor.is_floating_point()}
    found = gradients_of(loss, module)
    return golden.gradients(unused | {interop.official_name(name.removeprefix("model."), "gnn."): tensor for name, tensor in found.items()})


def _with_heads(objective: Objective, golden: Golden) -> Objective:
    """The objective with its own weights from the file."""
    own = {name: tensor for name, tensor in golden.state.items() if name in objective.state_dict()}
    objective.load_state_dict(own, strict=False)
    return objective


def _pretrain_gnns(golden: Golden) -> dict[str, Tensor]:
    model, options = _load(golden)
    graph, masked = _graph(golden), _graph(golden, "x_masked", "edge_attr_masked")
    tokens, hidden = model.tokens(graph), model.tokens(masked)
    mask_edge = bool(options.get("mask_edge"))
    masking = _with_heads(AttributeMaskingConfig(mask_edge=mask_edge).build(model), golden)
    nodes = golden.input("masked_atom_indices")
    scores = masking.linear_pred_atoms(hidden[nodes])
    loss = torch.nn.functional.cross_entropy(scores, golden.input("mask_node_label")[:, 0])
    computed = {"output.node_representation": tokens, "output.node_representation_masked": hidden, "output.pred_node": scores}
    if mask_edge:
        ends = golden.input("edge_index")[:, golden.input("connected_edge_indices")]
        computed |= dict.fromkeys(("output.pred_edge", "output.pred_bond"), masking.linear_pred_bonds(hidden[ends[0]] + hidden[ends[1]]))
        loss = loss + masking.bond_loss(hidden, ends, golden.input("mask_edge_label")[:, 0])
    computed["output.loss_masking"] = loss
    if "negative_edge_index" in golden.inputs:
        positive = golden.input("edge_index")[:, ::2]
        computed["output.loss_edgepred"] = EdgePredictionConfig().build(model).error(tokens, positive, golden.input("negative_edge_index"))[0]
    if "discriminator_weight" in golden.state:
        computed["output.loss_infomax"] = _with_heads(InfomaxConfig().build(model), golden).error(tokens, tokens, graph, shift=1)[0]
    if isinstance(model, GraphClassifier):
        computed["output.graph_pred"] = model(graph)
        if "y" in golden.inputs:
            y = golden.input("y").float()
            graph.y = torch.where(y == 0, torch.nan, (y + 1) / 2).view_as(computed["output.graph_pred"])
            computed["output.loss_finetune"] = Supervised(model).eval()(graph).loss
    return pick(computed, golden.expected) | _gradients(golden, loss, masking)


def _graphmae_chem(golden: Golden) -> dict[str, Tensor]:
    model, options = _load(golden)
    objective = from_dict(GraphMAEMoleculesObjectiveConfig, options, str(golden.path)).build(model)
    graph, nodes = _graph(golden, "x_masked"), golden.input("masked_atom_indices")
    tokens = model.tokens(graph)
    scores = model.decode(graph, tokens, nodes)
    loss = objective.error(scores[nodes], golden.input("node_attr_label").argmax(dim=1))
    computed = {"output.node_representation": tokens, "output.pred_node": scores, "output.loss": loss}
    return pick(computed, golden.expected) | _gradients(golden, loss, model)


RUNNERS: dict[str, Callable[[Golden], dict[str, Tensor]]] = {"graph/pretrain_gnns": _pretrain_gnns, "graph/graphmae_chem": _graphmae_chem}
