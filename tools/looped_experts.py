"""Time-MoE the official way, for comparison: one expert after the other over all tokens, attention by plain products.

Written from the published description and the names of the release, so that `interop.time_moe.to_official` fills it. What counts here is that it does
the steps that the official code does; `tools.bench_time_moe` measures them.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.time_series.models.time_moe import TimeMoEConfig


class Norm(nn.Module):
    """Division by the root mean square, in single precision."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        single = x.float()
        return self.weight * (single * torch.rsqrt(single.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class Gated(nn.Module):
    """SwiGLU with separate matrices."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class LoopedExperts(nn.Module):
    """Each expert looks for its tokens, and what it makes of them is added in their places."""

    def __init__(self, c: TimeMoEConfig) -> None:
        super().__init__()
        self.chosen = c.chosen
        self.gate, self.shared_expert_gate = nn.Linear(c.embed_dim, c.experts, bias=False), nn.Linear(c.embed_dim, 1, bias=False)
        self.experts = nn.ModuleList(Gated(c.embed_dim, c.mlp_dim // c.chosen) for _ in range(c.experts))
        self.shared_expert = Gated(c.embed_dim, c.mlp_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D) -> (N, D) and the router's scores (N, E)."""
        scores = self.gate(x)
        weights, picked = torch.topk(F.softmax(scores, dim=1, dtype=torch.float), self.chosen, dim=-1)
        mine = F.one_hot(picked, len(self.experts)).permute(2, 1, 0)
        found = torch.zeros_like(x)
        for n, expert in enumerate(self.experts):
            slot, token = torch.where(mine[n])
            found.index_add_(0, token, expert(x[token]) * weights[token, slot, None].to(x.dtype))
        return found + torch.sigmoid(self.shared_expert_gate(x)) * self.shared_expert(x), scores


class Attention(nn.Module):
    """Causal attention with a mask that is added."""

    def __init__(self, c: TimeMoEConfig) -> None:
        super().__init__()
        self.width = c.head_dim
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(c.embed_dim, heads * c.head_dim) for heads in (c.num_heads, c.kv_heads, c.kv_heads))
        self.o_proj = nn.Linear(c.embed_dim, c.embed_dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """(R, L, D) -> (R, L, D)."""
        q, k, v = (layer(x).unflatten(-1, (-1, self.width)).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj))
        q, k = q * cos + _half_turned(q) * sin, k * cos + _half_turned(k) * sin
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
        shares = F.softmax(q @ k.transpose(2, 3) / math.sqrt(self.width) + mask, dim=-1, dtype=torch.float32).to(q.dtype)
        return self.o_proj((shares @ v).transpose(1, 2).contiguous().flatten(2))


class Layer(nn.Module):
    """Attention and experts, pre-norm."""

    def __init__(self, c: TimeMoEConfig) -> None:
        super().__init__()
        self.self_attn, self.ffn_layer = Attention(c), LoopedExperts(c)
        self.input_layernorm, self.post_attention_layernorm = (Norm(c.embed_dim, c.norm_eps) for _ in range(2))


class LoopedTimeMoE(nn.Module):
    """The whole network, with the tensor names of the release."""

    def __init__(self, c: TimeMoEConfig) -> None:
        super().__init__()
        self.config = c
        self.model = nn.Module()
        self.model.embed_layer = nn.ModuleDict({name: nn.Linear(1, c.embed_dim, bias=False) for name in ("emb_layer", "gate_layer")})
        self.model.layers, self.model.norm = nn.ModuleList(Layer(c) for _ in range(c.depth)), Norm(c.embed_dim, c.norm_eps)
        self.lm_heads = nn.ModuleList(nn.ModuleDict({"out_layer": nn.Linear(c.embed_dim, horizon, bias=False)}) for horizon in c.horizons)

    def forward(self, values: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """(R, L) -> what every head says, (R, L, h), and the routers' scores."""
        c, embed, x = self.config, self.model.embed_layer, values[..., None]
        x = F.silu(embed["gate_layer"](x)) * embed["emb_layer"](x)
        frequencies = 1.0 / c.rope_theta ** (torch.arange(0, c.head_dim, 2) / c.head_dim)
        angles = torch.outer(torch.arange(values.shape[1]), frequencies).repeat(1, 2)
        mask = torch.full((values.shape[1],) * 2, torch.finfo(x.dtype).min).triu(1)
        scores = []
        for layer in self.model.layers:
            x = x + layer.self_attn(layer.input_layernorm(x), angles.cos(), angles.sin(), mask)
            mixed, said = layer.ffn_layer(layer.post_attention_layernorm(x).flatten(0, 1))
            x = x + mixed.view_as(x)
            scores.append(said)
        x = self.model.norm(x)
        return [head["out_layer"](x) for head in self.lm_heads], scores


def _half_turned(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)
