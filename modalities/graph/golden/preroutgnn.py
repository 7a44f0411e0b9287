"""Recomputes golden files of PreRoutGNN: its encoder, its decoder, its timing network, one of them in each file.

The gradients in a file of the encoder are those of the loss of the timing network, whose weights the file does not hold. What the file alone can
tell is checked: whether there are gradients at the latent that the encoder carries back to just those at its weights.
"""

import re
from collections.abc import Callable

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from modalities import registry
from modalities.common.golden import Golden, gradients_of, pick
from modalities.common.model import Model
from modalities.graph.circuits import PIN_FEATURES, TIMES, level_encoding, levels, plain_edges
from modalities.graph.interop import preroutgnn as interop
from modalities.graph.objectives.circuit_reconstruction import CircuitReconstructionConfig
from modalities.graph.objectives.timing import TimingConfig
from modalities.graph.preprocess import collate
from trainer.config import from_dict
from trainer.errors import CheckpointError


def _encoder(golden: Golden) -> dict[str, Tensor]:
    model, batch = _model(golden, "graph/circuit-autoencoder", interop.encoder_fields(golden.state)), _circuit(golden)
    latent, (edges, features) = model.latent(batch), plain_edges(batch)
    objective = CircuitReconstructionConfig().build(model)
    computed = {
        "output.level_encoding": _levels(model, batch),
        "output.homo_edges": edges,
        "output.homo_ef": features,
        "output.latent": latent,
        "output.loss_KL": objective.divergence(latent),
    }
    return pick(computed, golden.expected) | _carried_back(golden, latent, model)


def _carried_back(golden: Golden, latent: Tensor, model: Model) -> dict[str, Tensor]:
    """Gradients of an encoder for a loss that lies outside of the file.

    They are linear in the loss's gradient at the latent, which is found from them by least squares: N times latent_dim unknowns for as many equations
    as the gradients have numbers. CheckpointError when that many cannot tell a right encoder from a wrong one.
    """
    weights = {interop.official_name(name): parameter for name, parameter in model.named_parameters()}
    stored = {name: golden.expected[f"{prefix}{name}"] for name in weights for prefix in ("grad.", "output.grad.") if f"{prefix}{name}" in golden.expected}
    if not stored:
        return {}
    parameters = [weights[name] for name in stored]
    equations, unknowns = sum(p.numel() for p in parameters), latent.numel()
    if equations < 2 * unknowns:
        raise CheckpointError(f"{golden.path}: {equations} numbers of gradients are too few to tell anything of {unknowns} numbers of latents. Store gradients of more weights.")
    units = torch.eye(unknowns, dtype=latent.dtype).view(-1, *latent.shape)
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(latent, parameters, unit, retain_graph=True)]) for unit in units]
    carried = torch.stack(rows, dim=1).double()
    wanted = torch.cat([stored[name].flatten() for name in stored]).double()
    found = carried @ torch.linalg.lstsq(carried, wanted[:, None], driver="gelsd").solution
    parts = found[:, 0].split([p.numel() for p in parameters])
    return golden.gradients({name: part.view_as(p).float() for name, part, p in zip(stored, parts, parameters)})


def _decoder(golden: Golden) -> dict[str, Tensor]:
    model, batch = _model(golden, "graph/circuit-autoencoder", interop.encoder_fields(golden.state, "decoder")), _circuit(golden)
    decoded = model.decode(batch, golden.input("latent"))
    loss = CircuitReconstructionConfig().build(model).error(decoded, batch)
    edges, features = plain_edges(batch)
    computed = {"output.reconstruction": decoded, "output.loss_reconstruction": loss, "output.homo_edges": edges, "output.homo_ef": features}
    return pick(computed, golden.expected) | _gradients(golden, loss, model)


def _timing(golden: Golden) -> dict[str, Tensor]:
    latent = golden.input("latent")
    frequencies = (golden.state["model.dim_up.0.weight"].shape[1] - 2 * latent.shape[1] - PIN_FEATURES - 1) // 2
    model = _model(golden, "graph/preroutgnn", {"latent_dim": latent.shape[1], "frequencies": frequencies, **interop.timing_fields(golden.state, golden.config)})
    batch = _circuit(golden)
    features = model.features(batch, latent)
    taught, found = (model.timing(batch, features, teacher) for teacher in (True, False))
    computed = {"output.level_encoding": _levels(model, batch), "output.net_delays": taught.net_delays}
    for name, timing in (("groundtruth", taught), ("inference", found)):
        computed |= {f"output.atslew.{name}": timing.pins, f"output.cell_delays.{name}": timing.cell_delays}
    gradients = {}
    if "net_delays" in batch and "cell_delays" in batch:
        computed["output.loss_finetune"] = TimingConfig().build(model).losses(taught, batch).loss
        gradients = _gradients(golden, computed["output.loss_finetune"], model)
    return pick(computed, golden.expected) | gradients


def _model(golden: Golden, system: str, fields: dict[str, int]) -> Model:
    """The model of which a file holds one part; what else belongs to it is random, and nothing that the file holds depends on it."""
    where, cls = str(golden.path), registry.system_class(system)
    config = from_dict(cls.config_class, {**interop.told_by_config(golden.state, golden.config), **fields}, where)
    state = {**interop.to_official(cls(config)), **golden.state}
    _, fields, _, state = interop.from_layout(state, golden.config, golden.layout, where)
    return cls.from_state(from_dict(cls.config_class, fields, where), state, where).requires_grad_(True)


def _circuit(golden: Golden) -> Batch:
    """The circuit of a file."""
    x = golden.input("nf")
    made = Data(x=x, net_attr=golden.input("net_ef"), cell_attr=golden.input("cell_ef"))
    made.net_index, made.cell_index = (torch.stack([golden.input(f"{kind}_src"), golden.input(f"{kind}_dst")]) for kind in ("net", "cell"))
    made.timing = golden.inputs.get("n_atslew", x.new_zeros(len(x), TIMES))
    for ours, theirs in {"net_delays": "n_net_delays_log", "cell_delays": "e_cell_delays", "valid": "valid"}.items():
        if theirs in golden.inputs:
            made[ours] = golden.inputs[theirs]
    made.level = levels(torch.cat([made.net_index, made.cell_index], dim=1), len(x), str(golden.path))
    for name, pins in golden.inputs.items():
        if found := re.fullmatch(r"topo\.(\d+)", name):
            made.level[pins] = int(found[1])
    return collate([made])


def _levels(model: Model, batch: Batch) -> Tensor:
    return level_encoding(batch["level"], model.config.frequencies, model.config.max_level)


def _gradients(golden: Golden, loss: Tensor, model: Model) -> dict[str, Tensor]:
    return golden.gradients({interop.official_name(name): tensor for name, tensor in gradients_of(loss, model).items()})


RUNNERS: dict[str, Callable[[Golden], dict[str, Tensor]]] = {"graph/preroutgnn_encoder": _encoder, "graph/preroutgnn_decoder": _decoder, "graph/preroutgnn": _timing}
