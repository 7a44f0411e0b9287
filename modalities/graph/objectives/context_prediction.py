"""Context prediction (Hu et al., ICLR 2020): does this ring of a graph surround this neighbourhood?"""

import copy
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Batch
from torch_geometric.utils import subgraph

from modalities.graph.models.encoder import GraphEncoder, GraphEncoderConfig, membership
from modalities.graph.models.messages import pool_nodes
from modalities.graph.objectives.draws import node_draws
from modalities.graph.objectives.edge_prediction import mean_or_zero
from modalities.graph.objectives.masks import ranks
from trainer.errors import ConfigError, DataError
from trainer.objective import Losses, Objective


@dataclass(frozen=True)
class ContextPredictionConfig:
    """Where the neighbourhood ends and the ring lies."""

    inner: int | None = None
    """The ring begins beyond so many steps from the centre. Null: one less than the encoder has layers."""
    context_size: int = 3
    """Steps from the inner to the outer end of the ring, and layers of the network that reads it."""
    mode: Literal["cbow", "skipgram"] = "cbow"
    """cbow: the mean of the nodes where ring and neighbourhood overlap is one context. skipgram: each of them is one."""
    neg_samples: int = 1
    """Contexts of other graphs of the batch that each neighbourhood is told apart from."""

    def __post_init__(self) -> None:
        if self.context_size < 1 or self.neg_samples < 1 or (self.inner is not None and self.inner < 0):
            raise ConfigError(
                f"objective.context_size and .neg_samples must be at least 1 and .inner at least 0, found {self.context_size}, {self.neg_samples} and {self.inner}."
            )

    def build(self, model: GraphEncoder) -> "ContextPrediction":
        """The objective around a model."""
        return ContextPrediction(model, self)


class Part(NamedTuple):
    """The graphs of a batch cut down to some of their nodes."""

    batch: Batch
    """They, without the others' edges."""
    places: Tensor
    """Place of each node of the whole batch in the part, (N,); -1 for nodes that are left out."""


class ContextPrediction(Objective):
    """Loss = binary cross-entropy of the embedding of a random node of each graph with the context of its own graph, and, times `neg_samples`, with those of other graphs.

    The embedding is made from the nodes within as many steps as the encoder has layers, the context by a second network, of
    `context_size` layers, from the ring. Graphs without such a ring are left out (`Losses.count`).
    """

    def __init__(self, model: GraphEncoder, config: ContextPredictionConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.reach = model.config.depth
        self.inner = self.reach - 1 if config.inner is None else config.inner
        if self.inner >= self.reach:
            raise ConfigError(f"objective.inner={self.inner} must be below the number of layers, {self.reach}: else ring and neighbourhood do not overlap.")
        fields = {name: getattr(model.config, name) for name in GraphEncoderConfig.__dataclass_fields__}
        self.context = GraphEncoder(GraphEncoderConfig(**{**fields, "depth": config.context_size}))

    def forward(self, batch: Batch) -> Losses:
        whose, graphs = membership(batch, len(batch["x"]))
        centres = (ranks(node_draws(batch, 1)[:, 0], whose) == 0).nonzero()[:, 0]
        distance = steps_from(batch["edge_index"], centres, len(whose), self.inner + self.config.context_size)
        near = (distance >= 0) & (distance <= self.reach)
        ring = distance > self.inner
        overlap = near & ring
        usable = torch.bincount(whose[overlap], minlength=graphs) > 0
        count = int(usable.sum())
        if count <= self.config.neg_samples:
            if graphs <= self.config.neg_samples:
                raise DataError(f"Context prediction compares {self.config.neg_samples + 1} graphs of a batch or more, found {graphs}. Use a larger batch.")
            return Losses(0.0 * sum(p.sum() for p in self.parameters()), count=0)
        ball, outer = cut(batch, near), cut(batch, ring)
        own = self.model.tokens(ball.batch).index_select(0, ball.places[centres])[usable]
        around = self.context.tokens(outer.batch).index_select(0, outer.places[overlap])
        loss, right = self.error(own, around, (usable.cumsum(0) - 1).index_select(0, whose[overlap]))
        return Losses(loss, {"accuracy": right}, count=count)

    def error(self, own: Tensor, around: Tensor, whose: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of neighbourhoods (G, D) and overlap nodes (O, D) of the graphs `whose` (O,); and the share that is told right."""
        graphs = len(own)
        if self.config.mode == "cbow":
            around, whose = pool_nodes(around, whose, graphs, "mean"), torch.arange(graphs, device=own.device)
        yes = (own.index_select(0, whose) * around).sum(dim=1).float()
        no = torch.cat([(own.roll(-shift, 0).index_select(0, whose) * around).sum(dim=1) for shift in range(1, self.config.neg_samples + 1)]).float()
        right = torch.cat([yes.detach() > 0, no.detach() < 0]).float()
        return F.softplus(-yes).mean() + self.config.neg_samples * F.softplus(no).mean(), mean_or_zero(right)

    def export(self) -> GraphEncoder:
        return self.model


def steps_from(edge_index: Tensor, centres: Tensor, nodes: int, most: int) -> Tensor:
    """Steps of each node from the nearest of the `centres`, (nodes,) int64; -1 for those further than `most` or not joined to any."""
    distance = torch.full((nodes,), -1, device=edge_index.device)
    distance[centres] = 0
    for step in range(1, most + 1):
        reached = edge_index[1, distance.index_select(0, edge_index[0]) == step - 1]
        reached = reached[distance[reached] < 0]
        if not len(reached):
            break
        distance[reached] = step
    return distance


def cut(batch: Batch, kept: Tensor) -> Part:
    """The batch with the nodes of a mask (N,) only."""
    edges, attributes = subgraph(kept, batch["edge_index"], batch["edge_attr"] if "edge_attr" in batch else None, relabel_nodes=True, num_nodes=len(kept))
    part = copy.copy(batch)
    part.x, part.edge_index = batch["x"][kept], edges
    if attributes is not None:
        part.edge_attr = attributes
    if "pe" in batch:
        part.pe = batch["pe"][kept]
    part.batch = membership(batch, len(kept))[0][kept]
    return Part(part, torch.where(kept, kept.cumsum(0) - 1, -1))
