"""The encoder of TTM: scaling, the tokens that a series becomes, and the backbone."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.time_series.models.scaling import statistics
from modalities.time_series.models.ttm_config import TTMConfig
from modalities.time_series.models.ttm_layers import Mixers, Sizes


class Scaler(nn.Module):
    """Location and scale of each channel of a context, from its observed values."""

    def __init__(self, config: TTMConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, past: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T) and its mask -> (B, C, 1) each."""
        kind, least = self.config.scaling, self.config.minimum_scale
        if kind == "none":
            return torch.zeros_like(past[..., :1]), torch.ones_like(past[..., :1])
        if kind == "std":
            return statistics(past, observed, 1e-5 if least is None else least)
        count = observed.sum(2, keepdim=True)
        total = (past * observed).abs().sum(2, keepdim=True)
        if self.config.default_scale is None:  # that of the channel over the batch
            default = total.sum(0) / count.sum(0).clamp(min=1)
        else:
            default = torch.full_like(total[0], self.config.default_scale)
        scale = torch.where(count > 0, total / count.clamp(min=1), default)
        return torch.zeros_like(scale), scale.clamp(min=1e-10 if least is None else least)


class MultiScale(nn.Module):
    """Patches of the series and of its means over 2, 4, 8, ... points, each with its own projection, the coarsest first."""

    def __init__(self, config: TTMConfig) -> None:
        super().__init__()
        self.projectors = nn.ModuleList(nn.Linear(config.patch_length, config.d_model) for _ in range(config.scales))

    def forward(self, patches: Tensor) -> Tensor:
        length, series, found = patches.shape[3], patches.flatten(2), []
        for i, project in enumerate(self.projectors):
            coarse = F.avg_pool1d(series, 2**i, 2**i)
            count = coarse.shape[2] // length
            found.append(project(coarse[..., coarse.shape[2] - count * length :].unflatten(2, (count, length))))
        return torch.cat(found[::-1], 2)


class Registers(nn.Module):
    """Learned tokens."""

    def __init__(self, config: TTMConfig) -> None:
        super().__init__()
        self.patch_tokens = nn.Parameter(torch.randn(config.register_tokens, config.d_model))


class FrequencyTokens(nn.Module):
    """Tokens that tell which frequencies of the context are the strongest, the strongest first."""

    def __init__(self, config: TTMConfig) -> None:
        super().__init__()
        self.config, self.count = config, min(config.fft_length, config.frequencies)
        width = config.d_model
        if config.get_one_freq_emb:
            width = max(config.fft_d_freq_min, min(config.fft_d_freq_max, max(1, config.d_model // self.count)))
            self.freq_concat_proj = nn.Linear(self.count * width, config.d_model)
        if config.use_fft_embedding:
            self.freq_embedding = nn.Embedding(config.frequencies, width)
        else:
            self.freq_index_mlp = nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, scaled: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, tokens, D)."""
        strength = torch.fft.rfft(scaled[..., : self.config.context_length]).abs()
        if self.config.fft_ignore_dc:
            strength[..., 0] = 0
        found = strength.topk(self.count).indices
        if self.config.use_fft_embedding:
            said = self.freq_embedding(found)
        else:
            said = self.freq_index_mlp((found.to(scaled) / self.config.frequencies)[..., None])
        return self.freq_concat_proj(said.flatten(2))[:, :, None] if self.config.get_one_freq_emb else said


class Positions(nn.Module):
    """A table of positions, learned or fixed."""

    def __init__(self, config: TTMConfig) -> None:
        super().__init__()
        random = config.positional_encoding_type == "random"
        self.position_enc = nn.Parameter(torch.randn(config.tokens, config.d_model) if random else sincos(config.tokens, config.d_model), requires_grad=random)


def sincos(tokens: int, width: int) -> Tensor:
    """(tokens, width): sines and cosines in turn, base 10000, shifted to mean 0 and scaled to a deviation of 0.1."""
    angles = torch.arange(tokens)[:, None] * torch.exp(torch.arange(0, width, 2) * -(math.log(10000.0) / width))
    table = torch.stack([angles.sin(), angles.cos()], 2).flatten(1)
    table = table - table.mean()
    return table / (table.std() * 10)


class Encoder(nn.Module):
    """Patches -> tokens: projection, tokens put before them, positions, mixers."""

    def __init__(self, config: TTMConfig) -> None:
        super().__init__()
        self.config = config
        self.patcher = MultiScale(config) if config.multi_scale else nn.Linear(config.patch_length, config.d_model)
        self.positional_encoder = Positions(config) if config.use_positional_encoding else None
        channels = config.num_input_channels if config.mode == "mix_channel" else None
        self.mlp_mixer_encoder = Mixers(Sizes(config, config.tokens, config.d_model, config.num_layers, config.dropout, config.gated_attn, channels, config.adaptive_patching_levels))
        if config.resolution_prefix_tuning:
            middle = (config.patch_length + config.d_model) // 2
            self.freq_mod = nn.Sequential(
                nn.Embedding(config.frequency_token_vocab_size, config.patch_length), nn.Linear(config.patch_length, middle), nn.GELU(), nn.Linear(middle, config.d_model)
            )
        self.add_tokens = Registers(config) if config.register_tokens else None
        self.add_fft_tokens = FrequencyTokens(config) if config.fft_length else None
        self.base_norm = nn.LayerNorm(config.tokens * config.d_model, eps=config.norm_eps) if config.multi_scale or config.enable_base_norm_always else None

    def forward(self, patches: Tensor, scaled: Tensor, frequency: Tensor | None) -> Tensor:
        """(B, C, P, patch) and (B, C, T), both scaled, and tokens of the interval (B,) -> (B, C, tokens, D)."""
        x, before = self.patcher(patches), []
        if self.config.resolution_prefix_tuning:
            before.append(self.freq_mod(frequency)[:, None, None].expand(-1, x.shape[1], -1, -1))
        if self.add_tokens is not None:
            before.append(self.add_tokens.patch_tokens.expand(*x.shape[:2], -1, -1))
        if self.add_fft_tokens is not None:
            before.append(self.add_fft_tokens(scaled))
        x = torch.cat([*before[::-1], x], 2) if before else x
        if self.positional_encoder is not None:
            x = x + self.positional_encoder.position_enc
        if self.base_norm is not None:
            x = self.base_norm(x.flatten(2)).view(x.shape)
        return self.mlp_mixer_encoder(x)


class Backbone(nn.Module):
    """Scaled series -> tokens."""

    def __init__(self, config: TTMConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.scaler = Scaler(config)
