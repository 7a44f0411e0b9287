"""Recomputes golden files of PreRoutGNN: its encoder, its decoder, its timing network, one of them in each file.

The gradients in a file of the encoder are those of the loss of the timing network, which is in another file of the same circuit: that
file is looked for in the same folder.
"""

import re
from collections.abc import Callable
from dataclasses import replace

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
from trainer.weights import read_metadata


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
    return pick(computed, golden.expected) | _gradients_of_timing(golden)


def _gradients_of_timing(golden: Golden) -> dict[str, Tensor]:
    """Gradients of an encoder through the timing network that was computed with it."""
    if not any("grad." in name for name in golden.expected):
        return {}
    other = _companion(golden)
    whole = replace(other, state={**other.state, **golden.state})
    model = _model(whole, "graph/preroutgnn", {**interop.encoder_fields(whole.state), **interop.timing_fields(whole.state, whole.config)})
    return _gradients(golden, TimingConfig().build(model)(_circuit(other)).loss, model)


def _companion(golden: Golden) -> Golden:
    """The file of the timing network that belongs to an encoder: the same config, the same circuit. CheckpointError when there is none."""
    for path in sorted(golden.path.parent.glob("*.safetensors")):
        said = read_metadata(path)
        if said.get("model") == "graph/preroutgnn" and said.get("config") == golden.metadata["config"]:
            other = Golden.read(path)
            if all(name in other.inputs and other.inputs[name].equal(tensor) for name, tensor in golden.inputs.items()):
                return other
    raise CheckpointError(f"{golden.path} holds gradients of the timing network's loss; that network, for the same circuit, must lie beside it as a file of the model graph/preroutgnn, and none does.")


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
