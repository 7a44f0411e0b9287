"""Hiding nodes of graphs, graph by graph, as Hu et al. (ICLR 2020) do it."""

import torch
from torch import Tensor
from torch_geometric.data import Batch

from modalities.graph.models.encoder import membership
from modalities.graph.models.molecule_network import MASKED_ATOM, MASKED_BOND
from modalities.graph.objectives.draws import node_draws


def ranks(values: Tensor, whose: Tensor) -> Tensor:
    """Place of each node among those of its graph when they are sorted by `values` (N,) in [0, 1), (N,) from 0."""
    order = (values.double() + whose).argsort()
    first = torch.searchsorted(whose, torch.arange(int(whose[-1]) + 1, device=whose.device))
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return place - first.index_select(0, whose)


def masked_nodes(batch: Batch, rate: float) -> Tensor:
    """int(rate * n + 1) random nodes of each graph of n nodes, so at least one and never more than there are, (M,) in rising order."""
    whose, graphs = membership(batch, len(batch["x"]))
    sizes = torch.bincount(whose, minlength=graphs)
    wanted = (rate * sizes.double() + 1).long().minimum(sizes)
    return (ranks(node_draws(batch, 1)[:, 0], whose) < wanted.index_select(0, whose)).nonzero()[:, 0]


def hide_atoms(atoms: Tensor, nodes: Tensor) -> Tensor:
    """Atoms (N, 2) in which those of `nodes` are hidden."""
    return atoms.index_copy(0, nodes, atoms.new_tensor([MASKED_ATOM, 0]).expand(len(nodes), -1))


def hide_bonds(edge_index: Tensor, bonds: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """(bonds (E, 2) in which all that touch one of `nodes` are hidden, which they are (K,), each bond once)."""
    touched = torch.isin(edge_index, nodes).any(dim=0)
    hidden = torch.where(touched[:, None], bonds.new_tensor([MASKED_BOND, 0]), bonds)
    return hidden, (touched & (edge_index[0] < edge_index[1])).nonzero()[:, 0]
