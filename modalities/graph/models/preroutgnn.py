"""PreRoutGNN (Zhong et al., AAAI 2024, arXiv 2403.00012): arrival times, slews and delays of a placed circuit before its wires are routed.

Computes what Thinklab-SJTU/EDA-AI@fd9d3a3 `PreRoutGNN/model` computes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from modalities.common.linear import use_faster
from modalities.common.loading import Change, Rule
from modalities.common.model import Model
from modalities.graph.circuits import CORNERS, NET_FEATURES, TABLES, TIMES, kinds_of, primary_inputs, tables
from modalities.graph.models.circuit_autoencoder import CircuitAutoEncoder, CircuitAutoEncoderConfig, CircuitModel
from modalities.graph.models.blocks import anew, in_blocks, width_of
from modalities.graph.models.circuit_layers import SLOPE, NetConv, TableAttention, along, gated, mlp
from modalities.graph.models.layers import require_heads
from modalities.graph.models.messages import pool_nodes, scatter_sum
from trainer.errors import ConfigError

NET_CONVS = 4


@dataclass(frozen=True)
class PreRoutGNNConfig(CircuitAutoEncoderConfig):
    """The encoder of circuits, and the network that follows it."""

    least_latent: ClassVar[int] = 0
    latent_dim: int = 4
    """Numbers that describe a pin. 0: there is no encoder (its other sizes then mean nothing), and the timing network sees the features of the pins alone."""
    gcn_dim: int = 64
    """Width of a pin's features after the exchange along nets."""
    net_dim: int = 128
    """Hidden width of the networks that make them."""
    cell_dim: int = 128
    """Hidden width of the networks that carry times from level to level."""
    pool_dim: int = 32
    """Numbers that are summed, and of which the largest is taken, where several edges meet."""
    table_dim: int = 32
    """Width of the queries of lookup tables."""
    table_heads: int = 4
    """Heads of the attention on lookup tables."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("gcn_dim", "net_dim", "cell_dim", "pool_dim")
        if self.table_dim < 2:
            raise ConfigError(f"model.table_dim must be at least 2, found {self.table_dim}.")
        require_heads(self.table_dim, self.table_heads, "model.table_heads")


class Timing(NamedTuple):
    """What is said of a batch of circuits."""

    pins: Tensor
    """(N, 8): 4 arrival times and 4 log-slews."""
    net_delays: Tensor
    """(N, 4): log-delays of the wire that ends at a pin."""
    cell_delays: Tensor
    """(A, 4): delays of the arcs through cells."""


class Arcs(NamedTuple):
    """Wires or cell arcs that end at the same level, or all of them."""

    number: Tensor
    """Which of the batch's they are, (E,)."""
    ends: Tensor
    """(2, E)."""


class Propagation(nn.Module):
    """Times of pins from those of the pins before them, along wires and through cells."""

    def __init__(self, config: PreRoutGNNConfig, width: int) -> None:
        super().__init__()
        c, ends = config, TIMES + 2 * width
        self.table_dim = c.table_dim
        self.net_arc = mlp(ends, *[c.cell_dim] * 4, TIMES, dropout=c.dropout)
        self.query = mlp(ends, *[c.cell_dim] * 3, TABLES * c.table_dim, dropout=c.dropout)
        self.attention = TableAttention(c.table_dim, c.table_heads)
        self.cell_arc = mlp(ends + TABLES * c.table_dim, *[c.cell_dim] * 3, 1 + 2 * c.pool_dim + CORNERS, dropout=c.dropout)
        self.cell_end = mlp(width + 2 * c.pool_dim, *[c.cell_dim] * 3, TIMES, dropout=c.dropout)

    def forward(self, batch: Batch, x: Tensor, teacher: bool) -> tuple[Tensor, Tensor]:
        """(times (N, 8), cell delays (A, 4)) from the features x (N, width).

        Primary inputs have the times that the batch gives, and pins that nothing leads to have zeros. `teacher`: every other pin starts from the
        labels of those before it, all at once; else from what was found for them, level by level.
        """
        given, attr, kinds = batch["timing"], batch["cell_attr"], kinds_of(batch)
        times = torch.where(primary_inputs(batch)[:, None], given, given.new_zeros(()))
        delays = given.new_zeros(len(kinds), CORNERS)
        for wires, cells in [_all_arcs(batch)] if teacher else _by_level(batch):
            before = given if teacher else times
            if wires.number.numel():
                times = times.index_copy(0, *self._through_nets(before, x, wires))
            if cells.number.numel():
                pins, found, delay = self._through_cells(before, x, cells, attr, kinds.index_select(0, cells.number))
                times, delays = times.index_copy(0, pins, found), delays.index_copy(0, cells.number, delay)
        return times, delays

    def _through_nets(self, before: Tensor, x: Tensor, wires: Arcs) -> tuple[Tensor, Tensor]:
        """(pins (M,), their times (M, 8)) at the ends of wires: those of the driver and what the wire adds."""
        pins, place = wires.ends[1].unique(return_inverse=True)
        driver = before.index_select(0, wires.ends[0])
        added = in_blocks(lambda rows: self.net_arc(torch.cat([driver[rows], along(x, wires.ends[:, rows])], dim=1)), len(driver), width_of(self.net_arc))
        return pins, scatter_sum(added.to(driver.dtype) + driver, place, len(pins))

    def _through_cells(self, before: Tensor, x: Tensor, arcs: Arcs, attr: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(pins (M,), their times (M, 8), delays (E, 4) of the arcs) at the outputs of cells; `attr` (K, 512) are tables, `kinds` (E,) says which an arc has."""

        def through(rows: slice) -> Tensor:
            """(E, 2 * pool_dim + 4): what the outputs hear of some arcs, and the delays of these."""
            ends = arcs.ends[:, rows]
            known = torch.cat([before.index_select(0, ends[0]), along(x, ends)], dim=1)
            entries = tables(attr.index_select(0, kinds[rows]))
            read = self.attention(self.query(known).unflatten(1, (TABLES, self.table_dim)), *entries).flatten(1)
            heard, delay = self.cell_arc(torch.cat([known, read], dim=1)).tensor_split([-CORNERS], dim=1)
            return torch.cat([gated(heard), delay], dim=1)

        pins, place = arcs.ends[1].unique(return_inverse=True)
        heard, delay = in_blocks(through, len(place), width_of(self.query, self.cell_arc) + self.attention.width_inside).tensor_split([-CORNERS], dim=1)
        total, largest = heard.chunk(2, dim=1)
        ends = (x.index_select(0, pins), scatter_sum(total, place, len(pins)), pool_nodes(largest, place, len(pins), "max"))
        times = in_blocks(lambda rows: self.cell_end(torch.cat([part[rows] for part in ends], dim=1)), len(pins), width_of(self.cell_end))
        return pins, times.to(before.dtype), delay.to(before.dtype)


class TimingNetwork(nn.Module):
    """From the features of pins to all that is predicted."""

    def __init__(self, config: PreRoutGNNConfig) -> None:
        super().__init__()
        inner, width = config.pin_dim + 2 * config.latent_dim, config.gcn_dim
        self.up = nn.Sequential(nn.Linear(inner, width), nn.LeakyReLU(SLOPE))
        self.convs = nn.ModuleList(NetConv(width, config.net_dim, config.pool_dim, NET_FEATURES, config.dropout) for _ in range(NET_CONVS))
        self.net_delay = mlp(width, width, CORNERS, dropout=config.dropout)
        self.propagation = Propagation(config, inner + width)

    def nets(self, batch: Batch, features: Tensor) -> Tensor:
        """(N, pin_dim + 2 latents) -> (N, gcn_dim): pins after the exchange along nets."""
        drivers = (batch["x"][:, 1] > 0.5).nonzero()[:, 0]
        x = self.up(features)
        wires, attr = batch["net_index"], batch["net_attr"]
        for conv in self.convs:
            x = anew(lambda x, conv=conv: conv(x, wires, attr, drivers), x, len(attr), width_of(conv)) + x
        return x

    def forward(self, batch: Batch, features: Tensor, teacher: bool) -> Timing:
        """Features (N, pin_dim + 2 latents) -> times and delays."""
        x = self.nets(batch, features)
        times, cell_delays = self.propagation(batch, torch.cat([features, x], dim=1), teacher)
        return Timing(times, self.net_delay(x), cell_delays)


class PreRoutGNN(CircuitModel):
    """Input as that of `CircuitModel`. `timing_of` gives times and delays; `tokens` the features (N, gcn_dim) of pins after the exchange along nets."""

    system = "graph/preroutgnn"
    config_class = PreRoutGNNConfig
    parts = {"encoder.": "encoder", "timing.": "timing network"}

    def __init__(self, config: PreRoutGNNConfig) -> None:
        super().__init__(config)
        self.timing = TimingNetwork(config)
        use_faster(self)

    @classmethod
    def change_from(cls, source: type[Model], old: Any, new: Any, new_head: bool = False) -> Change:
        """Of an auto-encoder the encoder is taken; the timing network then starts fresh."""
        if not issubclass(source, CircuitAutoEncoder):
            return Change()
        return Change(new=(Rule(r"timing\..*", "an auto-encoder has none"),), unused=(Rule(r"decoder\..*", "only pre-training needs it"),))

    @property
    def width(self) -> int:
        """Width of a pin's embedding, as `tokens` gives it."""
        return self.config.gcn_dim

    def features(self, batch: Batch, latent: Tensor | None = None) -> Tensor:
        """What the timing network reads, (N, pin_dim + 2 latents): pins, their latents, the mean latent of their circuit."""
        pins = self.pins(batch)
        latent = self.latent(batch) if latent is None else latent
        mean = pool_nodes(latent, batch.batch, batch.num_graphs, "mean")
        return torch.cat([pins, latent, mean.index_select(0, batch.batch)], dim=1)

    def timing_of(self, batch: Batch, teacher: bool = False) -> Timing:
        """Times and delays of all pins; with `teacher` each pin starts from the labels of those before it, as in training."""
        return self.timing(batch, self.features(batch), teacher)

    def tokens(self, batch: Batch) -> Tensor:
        """Features of each pin, (N, gcn_dim)."""
        return self.timing.nets(batch, self.features(batch))

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        tokens, timing = self.tokens(batch), self.timing_of(batch)
        return {"features": pool_nodes(tokens, batch.batch, batch.num_graphs, "mean"), "tokens": tokens, **timing._asdict()}


def _all_arcs(batch: Batch) -> tuple[Arcs, Arcs]:
    """All wires, all cell arcs."""
    wires, cells = (batch[key] for key in ("net_index", "cell_index"))
    return tuple(Arcs(torch.arange(ends.shape[1], device=ends.device), ends) for ends in (wires, cells))


def _by_level(batch: Batch) -> Iterator[tuple[Arcs, Arcs]]:
    """(wires, cell arcs) that end at level 1, 2, ...; circuits of a batch go side by side."""
    level = batch["level"]
    count = int(level.max()) + 1 if len(level) else 0
    kinds = []
    for ends in (batch["net_index"], batch["cell_index"]):
        where = level.index_select(0, ends[1])
        order = where.argsort(stable=True)
        kinds.append([Arcs(number, ends[:, number]) for number in order.split(torch.bincount(where, minlength=count).tolist())])
    yield from zip(*kinds)
