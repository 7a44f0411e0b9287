"""Time-MoE: a decoder-only transformer with a mixture of experts that reads a series point by point (Shi et al. 2025, arXiv 2409.16040).

Computes what Time-MoE/Time-MoE@d3524fd `modeling_time_moe.py:TimeMoeForPrediction` computes; its weights convert exactly
(`modalities.time_series.interop.time_moe`). Each channel is a series of its own. The official network does not scale; `forecast` standardises the
context and undoes it, as the authors advise. Letters: R series (batch x channels), L points, D width, E experts, h horizon of a head.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.linear import Linear
from modalities.time_series.models.experts import Experts, SwiGLU
from modalities.time_series.models.forecaster import Forecast, Forecaster
from modalities.time_series.models.rows import by_parts
from modalities.time_series.models.rotary import rotated, rotation
from trainer.errors import ConfigError
from trainer.objective import Batch

Rotation = tuple[Tensor, Tensor]
ROWS = 16
"""Series that are forecast at once."""


@dataclass(frozen=True)
class TimeMoEConfig:
    """Time-MoE. The defaults are those of the released base model ("50M")."""

    context_length: int = 4096
    """Points of past and forecast together that are attended to (max_position_embeddings)."""
    horizons: tuple[int, ...] = (1, 8, 32, 64)
    """Steps that each head forecasts at once, rising."""
    embed_dim: int = 384
    """Width D."""
    mlp_dim: int = 1536
    """Hidden width of the shared expert; that of an expert is this, divided by `chosen`."""
    depth: int = 12
    """Layers."""
    num_heads: int = 12
    """Attention heads."""
    num_kv_heads: int | None = None
    """Heads of keys and values, each for several of the queries'. Null: as many."""
    experts: int = 8
    """Experts E of a layer."""
    chosen: int = 2
    """Experts that a token goes to."""
    dense: bool = False
    """One gated feed-forward layer in the place of the experts."""
    rope_theta: float = 10000.0
    """Base of the rotary positions."""
    norm_eps: float = 1e-6
    """Added to the mean square in every norm."""
    attention_dropout: float = 0.0
    """Share of the attention that is dropped in training."""
    init_std: float = 0.02
    """Deviation with which matrices start."""

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in ("context_length", "embed_dim", "mlp_dim", "depth", "num_heads", "kv_heads", "experts", "chosen")}
        small = [f"{name}={value}" for name, value in sizes.items() if value < 1]
        if small:
            raise ConfigError(f"TimeMoEConfig: sizes must be at least 1, found {', '.join(small)}.")
        if self.embed_dim % self.num_heads or self.head_dim % 2 or self.num_heads % self.kv_heads:
            raise ConfigError(
                f"TimeMoEConfig: embed_dim must be num_heads times an even number and num_heads a multiple of num_kv_heads; "
                f"found {self.embed_dim}, {self.num_heads} and {self.kv_heads}."
            )
        if self.chosen > self.experts or self.mlp_dim < self.chosen:
            raise ConfigError(f"TimeMoEConfig: chosen must be at most experts ({self.experts}) and mlp_dim ({self.mlp_dim}), found {self.chosen}.")
        if not self.horizons or list(self.horizons) != sorted(set(self.horizons)) or self.horizons[0] < 1 or self.horizons[-1] >= self.context_length:
            raise ConfigError(f"TimeMoEConfig: horizons must rise from at least 1 to less than context_length={self.context_length}, found {self.horizons}.")

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.embed_dim // self.num_heads


class Decoded(NamedTuple):
    """What the network makes of R sequences."""

    hidden: Tensor
    """After the last norm, (R, L, D)."""
    layers: list[Tensor]
    """After each layer, (R, L, D)."""
    routes: list[Tensor]
    """What the router of each layer said, (R L, E) before the softmax; none of a dense model."""


class TimeMoE(Forecaster):
    """Input `series` (B, C, T) in any unit with `observed`; out come points. Missing values before the first observed one are padding, later ones
    are taken as the last observed one. `tokens` are those of the points of all channels, one channel after the other (B, C * T, D); `embed` is
    the last point's, the mean over the channels (B, D)."""

    system = "time_series/time-moe"
    config_class = TimeMoEConfig
    parts = {"value": "embedding", "gate": "embedding", "heads.": "heads", "": "layers"}

    def __init__(self, config: TimeMoEConfig) -> None:
        super().__init__(config)
        self.value, self.gate = (Linear(1, config.embed_dim, bias=False) for _ in range(2))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.embed_dim, config.norm_eps)
        self.heads = nn.ModuleList(Linear(config.embed_dim, horizon, bias=False) for horizon in config.horizons)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1:
                nn.init.normal_(parameter, std=config.init_std)

    @property
    def context_length(self) -> int:
        """What is left of the positions for the past when the longest head is used."""
        return self.config.context_length - self.direct_horizon

    @property
    def direct_horizon(self) -> int:
        return self.config.horizons[-1]

    def decode(self, values: Tensor, real: Tensor | None = None, positions: Tensor | None = None) -> Decoded:
        """Sequences (R, L) on the network's own scale -> tokens. `real` (R, L) is False at padding, `positions` (R, L) are 0, 1, ... by default."""
        x = values.to(self.value.weight.dtype)[..., None]
        x = F.silu(self.gate(x)) * self.value(x)
        positions = torch.arange(values.shape[1], device=values.device)[None] if positions is None else positions
        cos, sin = (part[:, None].to(x.dtype) for part in rotation(positions, self.config.head_dim, self.config.rope_theta))
        hidden = None if real is None else masked_scores(real, x.dtype)
        layers, routes = [], []
        for layer in self.layers:
            x, said = layer(x, (cos, sin), hidden)
            layers.append(x)
            routes += [] if said is None else [said]
        return Decoded(self.norm(x), layers, routes)

    def head_for(self, steps: int) -> int:
        """Which head is asked when so many steps are left: the longest that is not too long, or the shortest one."""
        return max((i for i, horizon in enumerate(self.config.horizons) if horizon <= steps), default=0)

    def roll_out(self, values: Tensor, steps: int, real: Tensor | None = None, limit: int | None = None) -> Tensor:
        """Sequences (R, L) on the network's own scale -> the next steps (R, `steps`), each head's answer being the next one's past.

        `limit`: points of the past that are looked at; None: all, as in the official code, whatever the network was trained on.
        """
        known = values.shape[1]
        while values.shape[1] < known + steps:
            head = self.head_for(known + steps - values.shape[1])
            begin = 0 if limit is None else max(0, values.shape[1] - limit)
            past, seen = values[:, begin:], None if real is None else real[:, begin:]
            places = None if seen is None else (seen.long().cumsum(-1) - 1).masked_fill(~seen, 1)
            found = self.heads[head](self.decode(past, seen, places).hidden[:, -1]).to(values.dtype)
            values = torch.cat([values, found], dim=1)
            real = None if real is None else F.pad(real, (0, found.shape[1]), value=True)
        return values[:, known : known + steps]

    def direct(self, batch: Batch, horizon: int) -> Forecast:
        """Forecast of up to the longest head's steps, which may take several heads."""
        return self._standardised(batch, horizon)

    @torch.inference_mode()
    def forecast(self, batch: Batch, horizon: int) -> Forecast:
        """Forecast of any horizon. The context is standardised once; further steps are rolled out on that scale, as the official code does.

        A channel without any observed value is forecast as NaN.
        """
        batch = self._newest(self.checked(batch, horizon))
        said = self._standardised(batch, horizon)
        return Forecast(said.point.masked_fill(~batch["observed"].any(dim=2, keepdim=True), torch.nan))

    def standardised(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Values and what of them is no padding, both (B C, T), and the mean and deviation (B C, 1) that were taken out of them."""
        series, observed = batch["series"].flatten(0, 1).float(), batch["observed"].flatten(0, 1)
        count = observed.sum(dim=1, keepdim=True).clamp(min=1)
        mean = series.where(observed, 0.0).sum(dim=1, keepdim=True) / count
        deviation = ((series - mean).where(observed, 0.0).square().sum(dim=1, keepdim=True) / count).sqrt()
        deviation = torch.where(deviation == 0, 1.0, deviation)
        places = torch.arange(series.shape[1], device=series.device)
        last = torch.where(observed, places, -1).cummax(dim=1).values
        filled = ((series - mean) / deviation).gather(1, last.clamp(min=0)).where(last >= 0, 0.0)
        return filled, last >= 0, mean, deviation

    def tokens(self, batch: Batch) -> Tensor:
        return self._decoded(batch).unflatten(0, batch["series"].shape[:2]).flatten(1, 2)

    def embed(self, batch: Batch) -> Tensor:
        return self._decoded(batch)[:, -1].unflatten(0, batch["series"].shape[:2]).mean(dim=1)

    def _decoded(self, batch: Batch) -> Tensor:
        values, real, _, _ = self.standardised(batch)
        return self.decode(values, None if real.all() else real).hidden

    def _standardised(self, batch: Batch, horizon: int) -> Forecast:
        values, real, mean, deviation = self.standardised(batch)
        told = () if real.all() else (real,)
        found = by_parts(lambda known, *seen: self.roll_out(known, horizon, *(seen or (None,)), limit=self.context_length), ROWS, values, *told)
        return Forecast((found.float() * deviation + mean).unflatten(0, batch["series"].shape[:2]))


class Layer(nn.Module):
    """Causal attention and experts, each on the normed input and added to it."""

    def __init__(self, config: TimeMoEConfig) -> None:
        super().__init__()
        width = config.embed_dim
        self.norm1, self.norm2 = (nn.RMSNorm(width, config.norm_eps) for _ in range(2))
        self.attention = CausalAttention(config)
        hidden = config.mlp_dim
        self.mlp = SwiGLU(width, hidden) if config.dense else Experts(width, hidden // config.chosen, hidden, config.experts, config.chosen)

    def forward(self, x: Tensor, turn: Rotation, hidden: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(R, L, D) -> (R, L, D) and what the router said, (R L, E)."""
        x = x + self.attention(self.norm1(x), turn, hidden)
        if isinstance(self.mlp, SwiGLU):
            return x + self.mlp(self.norm2(x)), None
        mixed, said = self.mlp(self.norm2(x).flatten(0, 1))
        return x + mixed.unflatten(0, x.shape[:2]), said


class CausalAttention(nn.Module):
    """Attention to this and earlier points with rotary positions."""

    def __init__(self, config: TimeMoEConfig) -> None:
        super().__init__()
        width, kv = config.embed_dim, config.kv_heads * config.head_dim
        self.drop, self.head_dim, self.shared = config.attention_dropout, config.head_dim, config.kv_heads < config.num_heads
        self.query, self.key, self.value = Linear(width, width), Linear(width, kv), Linear(width, kv)
        self.out = Linear(width, width, bias=False)

    def forward(self, x: Tensor, turn: Rotation, hidden: Tensor | None) -> Tensor:
        """(R, L, D) -> (R, L, D). `hidden` is added to the scores, (R, 1, L, L); None: nothing but the future is hidden."""
        q, k, v = (layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        q, k = rotated(q, *turn), rotated(k, *turn)
        drop = self.drop if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=hidden, dropout_p=drop, is_causal=hidden is None, enable_gqa=self.shared)
        return self.out(mixed.transpose(1, 2).flatten(2))


def masked_scores(real: Tensor, dtype: torch.dtype) -> Tensor:
    """What hides the future and padding when it is added to scores: (R, L) -> (R, 1, L, L). A padding point sees all that went before, evenly."""
    length = real.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool, device=real.device).tril() & real[:, None]
    return torch.where(seen, 0.0, torch.finfo(dtype).min).to(dtype)[:, None]
