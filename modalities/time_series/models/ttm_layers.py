"""The mixers of TTM: over patches, features and channels, gated, in blocks with adaptive patching.

Tokens are (B, C, P, D). Parts bear the names of the official class, so that its weights fit without a table.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.linear import Linear, linear
from modalities.time_series.models.ttm_config import TTMConfig, patch_factor

Weights = tuple[Tensor, Tensor]
"""Weight and bias of a layer."""
PLAIN = (nn.LayerNorm, Linear, Linear, Linear)
"""What the norm, the two layers and the gate of a mixer are when they are evaluated without calling them."""


@dataclass(frozen=True)
class Sizes:
    """What the layers of one stack have in common."""

    config: TTMConfig
    """Kinds of gate, norm and attention."""
    tokens: int
    """Tokens of a channel."""
    width: int
    """Their width."""
    layers: int
    """Layers, at each level."""
    dropout: float
    """Dropout in the MLPs."""
    gated: bool
    """Whether mixers are gated."""
    channels: int | None = None
    """How many channels are mixed; None: they are not."""
    levels: int = 0
    """Levels of adaptive patching."""


class Gate(nn.Module):
    """x times a weight for each of its last axis, computed from x."""

    def __init__(self, config: TTMConfig, size: int) -> None:
        super().__init__()
        self.mode = config.gate_mode
        self.groups = next(n for n in range(max(min(config.gate_groups, size), 1), 0, -1) if size % n == 0)
        self.attn_layer = nn.Linear(size, 2 * size if self.mode == "glu" else size)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x, None)

    def after(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """The gated x, added to `residual` where there is one."""
        weights = self.attn_layer(x)
        if self.mode == "softmax":
            weights = weights.softmax(-1)
        elif self.mode == "group_sigmoid":
            weights = weights.unflatten(-1, (self.groups, -1)).mean(-1, keepdim=True).sigmoid().expand(*x.shape[:-1], -1, x.shape[-1] // self.groups).flatten(-2)
        elif self.mode == "sigmoid":
            weights = weights.sigmoid()
        else:
            x, weights = weights.chunk(2, -1)
            weights = weights.sigmoid()
        return x * weights if residual is None else torch.addcmul(residual, x, weights)


class MLP(nn.Module):
    """Linear, GELU, linear over the last axis."""

    def __init__(self, size: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(size, size * expansion)
        self.fc2 = nn.Linear(size * expansion, size)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.fc1(x))
        if self.training and self.dropout:
            return F.dropout(self.fc2(F.dropout(x, self.dropout)), self.dropout)
        return self.fc2(x)


class Norm(nn.Module):
    """Holds `norm`: LayerNorm over features, or batch norm of each feature over samples and tokens."""

    def __init__(self, config: TTMConfig, width: int) -> None:
        super().__init__()
        self.norm = BatchNorm(width, config.norm_eps) if config.norm_mlp == "BatchNorm" else nn.LayerNorm(width, eps=config.norm_eps)


class BatchNorm(nn.Module):
    """Batch norm of (B, C, P, D) over all but the features."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.batchnorm = nn.BatchNorm1d(width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.batchnorm(x.flatten(0, 1).transpose(1, 2)).transpose(1, 2).reshape(x.shape)


class Attention(nn.Module):
    """Multi-head self-attention over the tokens of each channel."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))
        self.heads, self.dropout = heads, dropout

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)
        q, k, v = (project(rows).unflatten(2, (self.heads, -1)).transpose(1, 2) for project in (self.q_proj, self.k_proj, self.v_proj))
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.out_proj(mixed.transpose(1, 2).flatten(2)).view(x.shape)


class PatchMixer(nn.Module):
    """Mixes the tokens of a channel, each feature by itself."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        config = sizes.config
        self.norm = Norm(config, sizes.width)
        self.mlp = MLP(sizes.tokens, config.expansion_factor, sizes.dropout)
        if sizes.gated:
            self.gating_block = Gate(config, sizes.tokens)
        if config.self_attn:
            self.self_attn_layer = Attention(sizes.width, config.self_attn_heads, sizes.dropout)
            self.norm_attn = Norm(config, sizes.width)
        self.gated, self.attends = sizes.gated, config.self_attn
        self.plain, self.mode, self.eps = is_plain(sizes) and not config.self_attn, config.gate_mode, config.norm_eps

    def forward(self, x: Tensor) -> Tensor:
        weights = plain_weights(self)
        if weights is not None:
            return self._from_the_left(x, *weights)
        normed = self.norm.norm(x)
        mixed = self.mlp(normed.transpose(2, 3))
        if self.attends:
            mixed = self.gating_block(mixed) if self.gated else mixed
            return x + self.norm_attn.norm(mixed.transpose(2, 3) + self.self_attn_layer(normed))
        if self.gated:
            return self.gating_block.after(mixed, x.transpose(2, 3)).transpose(2, 3)
        return x + mixed.transpose(2, 3)

    def _from_the_left(self, x: Tensor, norm: Weights, fc1: Weights, fc2: Weights, gate: Weights) -> Tensor:
        """The same in evaluation, without gradients, as products with the weights on the left: nothing is transposed, which saves most of the time of short contexts.

        With gradients it would cost more, since those of the weights would be summed over all samples afterwards.
        """
        normed = F.layer_norm(x, x.shape[3:], *norm, self.eps)
        alone = x.shape[0] == x.shape[1] == 1
        rows = normed.view(x.shape[2:]) if alone else normed.flatten(0, 1)
        left = _left_alone if alone else _left
        mixed = left(fc2, F.gelu(left(fc1, rows)))
        weights = left(gate, mixed)
        weights = weights.softmax(-2) if self.mode == "softmax" else weights.sigmoid()
        return torch.addcmul(x, mixed.view(x.shape), weights.view(x.shape))


def is_plain(sizes: Sizes) -> bool:
    """Whether a mixer of such a stack is a LayerNorm, two layers and a gate that computes a weight for each value."""
    return sizes.gated and sizes.config.norm_mlp != "BatchNorm" and sizes.config.gate_mode in ("softmax", "sigmoid")


def plain_weights(mixer: "PatchMixer | FeatureMixer") -> list[Weights] | None:
    """Weight and bias of norm, first layer, second layer and gate of a plain mixer in evaluation, without gradients.

    None otherwise, and where another layer, such as an adapter, is in the place of one. They are read from the tables of the modules: of a
    single series, looking up attributes and calling modules would take as long as the arithmetic.
    """
    if not mixer.plain or mixer.training or torch.is_grad_enabled():
        return None
    parts = mixer._modules
    mlp = parts["mlp"]._modules
    layers = (parts["norm"]._modules["norm"], mlp["fc1"], mlp["fc2"], parts["gating_block"]._modules["attn_layer"])
    for layer, kind in zip(layers, PLAIN):
        if type(layer) is not kind or layer._forward_hooks or layer._forward_pre_hooks:
            return None
    return [(layer._parameters["weight"], layer._parameters["bias"]) for layer in layers]


def _left(layer: Weights, rows: Tensor) -> Tensor:
    """A linear layer over the second axis of (N, P, D)."""
    weight, bias = layer
    return torch.baddbmm(bias.unsqueeze(1), weight.expand(rows.shape[0], -1, -1), rows)


def _left_alone(layer: Weights, rows: Tensor) -> Tensor:
    """A linear layer over the first axis of (P, D)."""
    weight, bias = layer
    return torch.addmm(bias.unsqueeze(1), weight, rows)


class FeatureMixer(nn.Module):
    """Mixes the features of a token."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.norm = Norm(sizes.config, sizes.width)
        self.mlp = MLP(sizes.width, sizes.config.expansion_factor, sizes.dropout)
        if sizes.gated:
            self.gating_block = Gate(sizes.config, sizes.width)
        self.gated, self.plain, self.mode, self.eps = sizes.gated, is_plain(sizes), sizes.config.gate_mode, sizes.config.norm_eps

    def forward(self, x: Tensor) -> Tensor:
        weights = plain_weights(self)
        if weights is not None:
            return self._at_once(x, *weights)
        mixed = self.mlp(self.norm.norm(x))
        return self.gating_block.after(mixed, x) if self.gated else x + mixed

    def _at_once(self, x: Tensor, norm: Weights, fc1: Weights, fc2: Weights, gate: Weights) -> Tensor:
        """The same in evaluation, without calling modules."""
        mixed = linear(F.gelu(linear(F.layer_norm(x, x.shape[3:], *norm, self.eps), *fc1)), *fc2)
        weights = linear(mixed, *gate)
        return torch.addcmul(x, mixed, weights.softmax(-1) if self.mode == "softmax" else weights.sigmoid())


class ChannelMixer(nn.Module):
    """Mixes the channels. Other than in the two others the gate goes before the MLP."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.norm = Norm(sizes.config, sizes.width)
        self.mlp = MLP(sizes.channels, sizes.config.expansion_factor, sizes.dropout)
        if sizes.gated:
            self.gating_block = Gate(sizes.config, sizes.channels)
        self.gated = sizes.gated

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.norm.norm(x).permute(0, 3, 2, 1)
        mixed = self.mlp(self.gating_block(mixed) if self.gated else mixed)
        return x + mixed.permute(0, 3, 2, 1)


class MixerLayer(nn.Module):
    """Channels, then tokens, then features."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.mixes_patches, self.mixes_channels = sizes.tokens > 1, sizes.channels is not None
        if self.mixes_patches:
            self.patch_mixer = PatchMixer(sizes)
        self.feature_mixer = FeatureMixer(sizes)
        if self.mixes_channels:
            self.channel_feature_mixer = ChannelMixer(sizes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.channel_feature_mixer(x) if self.mixes_channels else x
        x = self.patch_mixer(x) if self.mixes_patches else x
        return self.feature_mixer(x)


class AdaptivePatching(nn.Module):
    """Mixer layers on tokens that are cut in 2^level consecutive slices, and joined again afterwards."""

    def __init__(self, sizes: Sizes, level: int) -> None:
        super().__init__()
        factor = patch_factor(sizes.width, level)
        self.shape = (sizes.tokens * factor, sizes.width // factor)
        cut = Sizes(sizes.config, *self.shape, sizes.layers, sizes.dropout, sizes.gated, sizes.channels)
        self.mixer_layers = nn.ModuleList(MixerLayer(cut) for _ in range(sizes.layers))

    def forward(self, x: Tensor) -> Tensor:
        cut = x.reshape(*x.shape[:2], *self.shape)
        for layer in self.mixer_layers:
            cut = layer(cut)
        return cut.reshape(x.shape)


class Mixers(nn.Module):
    """A stack of mixer layers; with adaptive patching, one block for each level, the finest first."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        if sizes.levels:
            self.mixers = nn.ModuleList(AdaptivePatching(sizes, level) for level in reversed(range(sizes.levels)))
        else:
            self.mixers = nn.ModuleList(MixerLayer(sizes) for _ in range(sizes.layers))

    def forward(self, x: Tensor) -> Tensor:
        for mixer in self.mixers:
            x = mixer(x)
        return x
