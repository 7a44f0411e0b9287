"""Several layers of one kind: what GraphMAE's encoders and decoders consist of."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from modalities.graph.models.layers import DotGATLayer, GATLayer, GCNLayer, GINLayer


@dataclass(frozen=True)
class StackConfig:
    """Sizes of a stack; of the attention kinds `hidden` and `outer` are widths of one head."""

    inner: int
    """Width of the input."""
    hidden: int
    """Width between layers."""
    outer: int
    """Width of the output."""
    depth: int
    """Layers."""
    heads: int = 1
    """Heads of all layers but the last."""
    heads_out: int = 1
    """Heads of the last layer."""
    norm: str = "none"
    """After each layer."""
    activation: str = "prelu"
    """After each layer."""
    residual: bool = False
    """Add the input of each layer to its output."""
    dropout: float = 0.0
    """Share of the inputs of each layer that are set to zero in training."""
    attn_dropout: float = 0.0
    """Share of the attention weights that are set to zero in training."""
    negative_slope: float = 0.2
    """Of the scores of gat."""
    encoding: bool = True
    """An encoder; a decoder's last layer has neither norm nor activation nor shortcut."""


class Stack(nn.Module):
    """Layers one after another; dropout before each is theirs or, with `dropout`, the stack's. Their tensors are named `{name}.{i}.*`."""

    def __init__(self, name: str, layers: list[nn.Module], dropout: float = 0.0) -> None:
        super().__init__()
        self.name, self.dropout = name, dropout
        setattr(self, name, nn.ModuleList(layers))

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None, batch: object = None) -> list[Tensor]:
        """(N, inner), (2, E) -> what each layer gives, the last one last. Features of edges are not read."""
        states = []
        for layer in getattr(self, self.name):
            x = layer(F.dropout(x, self.dropout, self.training), edge_index)
            states.append(x)
        return states


def _plan(config: StackConfig) -> list[tuple[int, int, int, bool, str, str]]:
    """(inner, outer, heads, residual, norm, activation) of each layer."""
    c, found, inner = config, [], config.inner
    for i in range(c.depth):
        last = i == c.depth - 1
        ending = not last or c.encoding
        outer, heads = (c.outer, c.heads_out) if last else (c.hidden, c.heads)
        found.append((inner, outer, heads, c.residual and ending, c.norm if ending else "none", c.activation if ending else "none"))
        inner = outer * heads
    return found


def _gat(config: StackConfig, dot: bool = False) -> Stack:
    """Attention. As in the official code a stack of a single layer has no activation."""
    layers: list[nn.Module] = []
    for inner, outer, heads, residual, norm, activation in _plan(config):
        options = dict(dropout=config.dropout, attn_dropout=config.attn_dropout, residual=residual, norm=norm, activation=activation if config.depth > 1 else "none")
        layers.append(DotGATLayer(inner, outer, heads, **options) if dot else GATLayer(inner, outer, heads, config.negative_slope, **options))
    return Stack("gat_layers", layers)


def _gin(config: StackConfig) -> Stack:
    """GIN. As in the official code the norm and activation after the last layer are there only where a norm is set; a decoder's MLP keeps its inner norm."""
    layers: list[nn.Module] = []
    for i, (inner, outer, _, residual, norm, _) in enumerate(_plan(config)):
        plain = i == config.depth - 1 and norm == "none"
        layers.append(GINLayer(inner, config.hidden, outer, residual, config.norm, config.activation, plain))
    return Stack("layers", layers, config.dropout)


def _gcn(config: StackConfig) -> Stack:
    layers: list[nn.Module] = [GCNLayer(inner, outer, residual, norm, activation) for inner, outer, _, residual, norm, activation in _plan(config)]
    return Stack("gcn_layers", layers, config.dropout)


STACKS: dict[str, Callable[[StackConfig], Stack]] = {"gat": _gat, "dotgat": lambda config: _gat(config, dot=True), "gin": _gin, "gcn": _gcn}
"""Kind of layer -> a stack of such layers."""
