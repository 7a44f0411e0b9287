"""Graph networks in the layout of the official codes: GraphMAE, and the networks for molecules of pretrain-gnns."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from modalities.common import pretrained
from modalities.common.exporting import Export, Run
from modalities.graph.interop.graphmae import official_config
from modalities.graph.interop.pretrain_gnns import official_config as config_of_molecules
from modalities.graph.interop.pretrain_gnns import to_official
from modalities.graph.models.encoder import GraphEncoder
from modalities.graph.models.graphmae import GraphMAE
from modalities.graph.preprocess import collate
from trainer.files import read_json, write_json
from trainer.weights import read_safetensors, write_safetensors

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def official_export(model: GraphEncoder, objective: dict[str, Any]) -> Export:
    """The tensors under the official names, and the arguments of the official class. ModelError for an encoder that the official code has not."""
    ours = isinstance(model, GraphMAE)
    state, config = (dict(model.state_dict()), official_config(model)) if ours else (to_official(model), config_of_molecules(model))
    owner, network = ("THUDM/GraphMAE", "PreModel(**arguments)") if ours else ("snap-stanford/pretrain-gnns", "GNN(5, 300)")

    def write(folder: Path) -> None:
        write_safetensors(state, folder / WEIGHTS)
        write_json(folder / CONFIG, config)

    def load(folder: Path) -> Run:
        back = pretrained.from_tensors(read_safetensors(folder / WEIGHTS), read_json(folder / CONFIG), str(folder), "official")
        return back.outputs

    return Export(
        "pytorch", write, load,
        f'from safetensors.torch import load_file\n\nstate = load_file("PLACE/{WEIGHTS}")  # for load_state_dict of {network} of github.com/{owner}',
        notes=("what was written is checked by reading it back here, since the official code is no library that can be installed",),
        expected=model.outputs, example=lambda samples: _example(model, samples),
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
