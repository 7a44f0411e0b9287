"""Graph networks in the layout of the official codes: GraphMAE, the networks for molecules of pretrain-gnns, and PreRoutGNN."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from modalities.common import pretrained
from modalities.common.exporting import Export, Run
from modalities.common.model import Model
from modalities.graph.generated_circuits import generate
from modalities.graph.interop import preroutgnn as circuit_interop
from modalities.graph.interop.graphmae import official_config
from modalities.graph.interop.pretrain_gnns import official_config as config_of_molecules
from modalities.graph.interop.pretrain_gnns import to_official
from modalities.graph.models.circuit_autoencoder import CircuitModel
from modalities.graph.models.encoder import GraphEncoder
from modalities.graph.preprocess import collate
from trainer.files import read_json, write_json
from trainer.weights import read_safetensors, write_safetensors

WEIGHTS, CONFIG = "model.safetensors", "config.json"
OF_MOLECULES = {
    "graph/encoder": "GNN(num_layer, emb_dim) of github.com/snap-stanford/pretrain-gnns",
    "graph/classifier": "GNN_graphpred(num_layer, emb_dim, num_tasks) of github.com/snap-stanford/pretrain-gnns",
    "graph/graphmae-molecules": "GNN and GNNDecoder (each takes the tensors with its own prefix) of the folder chem of github.com/THUDM/GraphMAE",
}
"""System -> the classes of the official code that take its tensors."""


def official_export(model: GraphEncoder, objective: dict[str, Any]) -> Export:
    """The tensors under the official names, and the arguments of the official class. ModelError for an encoder that the official code has not."""
    atoms = model.config.encoder == "molecule" or model.system == "graph/classifier"
    state, config = (to_official(model), config_of_molecules(model)) if atoms else (dict(model.state_dict()), official_config(model))
    network = OF_MOLECULES[model.system] if atoms else "PreModel(**arguments) of github.com/THUDM/GraphMAE"
    return _export(model, state, config, network, lambda samples: _example(model, samples))


def circuit_export(model: CircuitModel, objective: dict[str, Any]) -> Export:
    """The tensors of a model of circuits under the official names, and the arguments of the official code."""
    network = "PreRoutGNN and DeepGCNII (each takes the tensors with its own prefix) of github.com/Thinklab-SJTU/EDA-AI"
    return _export(model, circuit_interop.to_official(model), circuit_interop.official_config(model), network, lambda samples: model.preprocess([generate(i) for i in range(samples)]))


def _export(model: Model, state: dict[str, Tensor], config: dict[str, Any], network: str, example: Callable[[int], Batch]) -> Export:
    """Tensors and arguments as files of the official code of `network`."""

    def write(folder: Path) -> None:
        write_safetensors(state, folder / WEIGHTS)
        write_json(folder / CONFIG, config)

    def load(folder: Path) -> Run:
        back = pretrained.from_tensors(read_safetensors(folder / WEIGHTS), read_json(folder / CONFIG), str(folder), "official")
        return back.outputs

    return Export(
        "pytorch", write, load,
        f'from safetensors.torch import load_file\n\nstate = load_file("PLACE/{WEIGHTS}")  # for load_state_dict of {network}',
        notes=("what was written is checked by reading it back here, since the official code is no library that can be installed",),
        expected=model.outputs, example=example,
    )  # fmt: skip


def _example(model: GraphEncoder, samples: int) -> Batch:
    """Random graphs as the model reads them."""
    generator = torch.Generator().manual_seed(samples)
    graphs = []
    for nodes in range(6, 6 + samples):
        ends = torch.randint(0, nodes, (2, 2 * nodes), generator=generator)
        atoms = model.config.encoder == "molecule"
        x: Tensor = torch.randint(0, 3, (nodes, 2), generator=generator) if atoms else torch.rand(nodes, model.config.in_dim, generator=generator)
        graphs.append(Data(x=x, edge_index=ends, **({"edge_attr": torch.randint(0, 3, (2 * nodes, 2), generator=generator)} if atoms else {})))
    return collate(graphs)
