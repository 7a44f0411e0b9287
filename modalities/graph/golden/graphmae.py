"""Recomputes golden files of GraphMAE."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch_geometric.data import Data

from modalities.common.golden import Golden, gradients_of, pick
from modalities.graph.interop import graphmae as interop
from modalities.graph.models.graphmae import GraphMAE, GraphMAEConfig
from modalities.graph.objectives.graphmae import GraphMAEObjectiveConfig
from trainer.config import from_dict


def _graphmae(golden: Golden) -> dict[str, Tensor]:
    where = str(golden.path)
    _, fields, options, state = interop.from_layout(golden.state, golden.config, golden.layout, where)
    model = GraphMAE.from_state(from_dict(GraphMAEConfig, fields, where), state, where).requires_grad_(True)
    objective = from_dict(GraphMAEObjectiveConfig, options, where).build(model)
    graph = Data(x=golden.input("x"), edge_index=golden.input("edge_index"))
    none = torch.empty(0, dtype=torch.long)
    nodes, token = golden.input("mask_nodes"), golden.inputs.get("token_nodes", none)
    x = model.corrupted(graph.x, token, golden.inputs.get("noise_nodes", none), golden.inputs.get("noise_source_nodes", none))
    edges = golden.inputs.get("encoder_edge_index", graph.edge_index)
    states, code = model.states(graph, x, edges), model.code(graph, x, edges)
    predicted = model.decode(graph, code, nodes)
    loss = objective.error(predicted[nodes], graph.x[nodes])
    computed = {
        "output.corrupted_x": x,
        **{f"output.encoder_hidden.{i}": state for i, state in enumerate(states)},
        "output.encoder_last": states[-1],
        "output.enc_to_dec_before_remask": code,
        "output.recon": predicted,
        "output.loss": loss,
        "output.embed": model.tokens(graph),
    }
    return pick(computed, golden.expected) | golden.gradients(gradients_of(loss, model))


RUNNERS: dict[str, Callable[[Golden], dict[str, Tensor]]] = {"graph/graphmae": _graphmae}
