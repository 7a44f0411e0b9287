"""The layers of GraphMAE (Hou et al., KDD 2022, arXiv 2205.10803), whose attention and convolution are those of DGL.

Each computes what THUDM/GraphMAE@b14f080 `graphmae/models/{gat,dot_gat,gin,gcn}.py` computes and names its tensors alike.
`forward(x, edge_index)`: (N, I), (2, E) -> (N, O).
"""

import math

import torch
from torch import Tensor, nn

from modalities.graph.models.messages import degrees, edge_softmax, neighbour_sum, scatter_sum
from trainer.errors import ConfigError

ACTIVATIONS = {"prelu": nn.PReLU, "relu": nn.ReLU, "elu": nn.ELU, "gelu": nn.GELU, "none": nn.Identity}
NORMS = {"batchnorm": nn.BatchNorm1d, "layernorm": nn.LayerNorm, "none": nn.Identity}


def new_norm(name: str, width: int) -> nn.Module:
    """A norm over `width` features by name."""
    return nn.Identity() if name == "none" else NORMS[name](width)


def shortcut(residual: bool, inner: int, outer: int) -> nn.Module | None:
    """What is added to a layer's output: its input, through a linear layer where the widths differ."""
    if not residual:
        return None
    return nn.Identity() if inner == outer else nn.Linear(inner, outer, bias=False)


class AttentionLayer(nn.Module):
    """What the two kinds of attention share: `heads` heads of `width` features each, put side by side."""

    def __init__(
        self, inner: int, width: int, heads: int, dropout: float = 0.0, attn_dropout: float = 0.0, residual: bool = False, norm: str = "none", activation: str = "none",
    ) -> None:  # fmt: skip
        super().__init__()
        self.heads, self.width = heads, width
        self.fc = nn.Linear(inner, heads * width, bias=False)
        self.res_fc = shortcut(residual, inner, heads * width)
        self.norm = new_norm(norm, heads * width)
        self.activation = ACTIVATIONS[activation]()
        self.feat_drop, self.attn_drop = nn.Dropout(dropout), nn.Dropout(attn_dropout)

    def attention(self, values: Tensor, edge_index: Tensor) -> Tensor:
        """Scores (E, H) of edges from the heads' features (N, H, F)."""
        raise NotImplementedError(f"{type(self).__name__} must define attention(values, edge_index)")

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.feat_drop(x)
        values = self.fc(x).unflatten(1, (self.heads, self.width))
        source, target = edge_index
        shares = self.attn_drop(edge_softmax(self.attention(values, edge_index), target, len(x)))
        out = scatter_sum(values.index_select(0, source) * shares[:, :, None], target, len(x)).flatten(1)
        return self.finish(out, x)

    def finish(self, out: Tensor, x: Tensor) -> Tensor:
        """Shortcut, norm and activation of what the heads gave."""
        out = out if self.res_fc is None else out + self.res_fc(x)
        return self.activation(self.norm(out))


class GATLayer(AttentionLayer):
    """Attention by a vector for either end of an edge (Velickovic et al. 2018), with a bias."""

    def __init__(self, inner: int, width: int, heads: int, negative_slope: float = 0.2, **options: float | bool | str) -> None:
        super().__init__(inner, width, heads, **options)
        self.attn_l, self.attn_r = nn.Parameter(torch.empty(1, heads, width)), nn.Parameter(torch.empty(1, heads, width))
        self.bias = nn.Parameter(torch.zeros(heads * width))
        self.leaky_relu = nn.LeakyReLU(negative_slope)
        gain = math.sqrt(2)
        for weight in (self.fc.weight, self.attn_l, self.attn_r, *(self.res_fc.parameters() if self.res_fc is not None else ())):
            nn.init.xavier_normal_(weight, gain=gain)

    def attention(self, values: Tensor, edge_index: Tensor) -> Tensor:
        left, right = (values * self.attn_l).sum(dim=-1), (values * self.attn_r).sum(dim=-1)
        return self.leaky_relu(left.index_select(0, edge_index[0]) + right.index_select(0, edge_index[1]))

    def finish(self, out: Tensor, x: Tensor) -> Tensor:
        return super().finish(out + self.bias, x)


class DotGATLayer(AttentionLayer):
    """Attention by the scaled product of the features of both ends."""

    def attention(self, values: Tensor, edge_index: Tensor) -> Tensor:
        ends = values.index_select(0, edge_index[0]) * values.index_select(0, edge_index[1])
        return ends.sum(dim=-1) / self.width**0.5


class MLP(nn.Module):
    """Linear, norm, activation, linear."""

    def __init__(self, inner: int, hidden: int, outer: int, norm: str, activation: str) -> None:
        super().__init__()
        self.linears = nn.ModuleList([nn.Linear(inner, hidden), nn.Linear(hidden, outer)])
        self.norms = nn.ModuleList([new_norm(norm, hidden)])
        self.activations = nn.ModuleList([ACTIVATIONS[activation]()])

    def forward(self, x: Tensor) -> Tensor:
        return self.linears[1](self.activations[0](self.norms[0](self.linears[0](x))))


class NormedMLP(nn.Module):
    """An MLP, then norm and activation."""

    def __init__(self, inner: int, hidden: int, outer: int, norm: str, activation: str) -> None:
        super().__init__()
        self.mlp = MLP(inner, hidden, outer, norm, activation)
        self.norm, self.act = new_norm(norm, outer), ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.mlp(x)))


class GINLayer(nn.Module):
    """An MLP of (1 + eps) x + the sum over neighbours (Xu et al. 2019); eps is fixed at 0.

    `plain`: without norm and activation after the MLP.
    """

    def __init__(self, inner: int, hidden: int, outer: int, residual: bool = False, norm: str = "none", activation: str = "prelu", plain: bool = False) -> None:
        super().__init__()
        self.apply_func = (MLP if plain else NormedMLP)(inner, hidden, outer, norm, activation)
        self.res_fc = shortcut(residual, inner, outer)
        self.register_buffer("eps", torch.zeros(1))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        own = (1 + self.eps) * x
        out = self.apply_func(own.index_add_(0, edge_index[1], x.index_select(0, edge_index[0])))  # in place: the sum needs no memory of its own
        return out if self.res_fc is None else out + self.res_fc(x)


class GCNLayer(nn.Module):
    """A sum over neighbours weighted by the degrees of both ends (Kipf and Welling 2017), then a linear layer.

    As in DGL the root of the degrees of the sources is that of the edges that leave them.
    """

    def __init__(self, inner: int, outer: int, residual: bool = False, norm: str = "none", activation: str = "none") -> None:
        super().__init__()
        self.fc = nn.Linear(inner, outer)
        self.res_fc = shortcut(residual, inner, outer)
        self.norm, self._activation = new_norm(norm, outer), ACTIVATIONS[activation]()

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        leaving, entering = (degrees(ends, len(x)).clamp(min=1).rsqrt()[:, None].to(x.dtype) for ends in edge_index)
        out = self.fc(neighbour_sum(x * leaving, edge_index)) * entering
        out = out if self.res_fc is None else out + self.res_fc(x)
        return self._activation(self.norm(out))


def require_heads(width: int, heads: int, what: str) -> None:
    """ConfigError unless `heads` divide `width`."""
    if heads < 1 or width % heads:
        raise ConfigError(f"{what}={heads} must be at least 1 and divide embed_dim={width}.")
