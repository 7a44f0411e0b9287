"""Retention: attention without softmax, whose weights fade with distance (Sun et al. 2023, arXiv 2307.08621), with xPos (Sun et al. 2022, arXiv 2212.10554).

The same sum in two forms: all pairs at once, or chunk by chunk with a state between the chunks, which takes memory in proportion to the length.
Written from the formulas, as TimelyGPT (Song et al. 2024, arXiv 2312.00817) uses them: positions turn and scale queries and keys before the heads are
split. Letters: B batch, N tokens, D width, K width of queries and keys, V width of values, H heads.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.linear import Linear
from trainer.errors import ModelError

SHORTEST, LONGEST = 1 / 32, 1 / 512
"""What the first and the last head forget per step, when the decays are evenly spread (in logarithms)."""


def decays(heads: int, first: float = SHORTEST, last: float = LONGEST) -> Tensor:
    """What of a token is left a step later, (H,): from the head that forgets `first` of it to the one that forgets `last`."""
    return 1 - torch.exp(torch.linspace(math.log(first), math.log(last), heads))


def retnet_decays(heads: int) -> Tensor:
    """The decays of RetNet, (H,): the first head forgets 1/32 per step, each further one half as much."""
    return 1 - torch.exp2(-5.0 - torch.arange(heads))


class XPos(nn.Module):
    """Turns pairs of neighbouring features by angles that grow with the position, and scales them so that far tokens weigh less."""

    base = 512
    """Positions over which a pair is scaled by its whole rate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        pairs = torch.arange(0, width, 2)
        self.register_buffer("scale", (pairs + 0.4 * width) / (1.4 * width))

    def forward(self, x: Tensor, inverse: bool = False) -> Tensor:
        """Queries (B, N, K), or keys with `inverse`, at positions 0..N-1."""
        position = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)[:, None]
        rate = 10000.0 ** (-torch.arange(len(self.scale), device=x.device) / len(self.scale))
        angle, size = position * rate, self.scale ** (position / self.base)
        size = 1 / size if inverse else size
        cos, sin = (angle.cos() * size).to(x.dtype), (angle.sin() * size).to(x.dtype)  # (N, K / 2)
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


class Retention(nn.Module):
    """Multi-scale retention with a gate: each head sees itself and earlier tokens, and forgets at its own rate."""

    def __init__(
        self, width: int, keys: int, values: int, decay: Tensor, bias: bool = False, gate_bias: bool = False, out_bias: bool = False, chunk: int | None = None
    ) -> None:
        """`decay`: (H,) what of a token is left a step later. `chunk`: sequences longer than it are taken in chunks of it, where times are not given."""
        super().__init__()
        if keys % (2 * len(decay)) or values % len(decay):
            raise ModelError(f"The width of queries and keys must be a multiple of twice the {len(decay)} heads and that of values one of the heads, found {keys} and {values}.")
        self.keys, self.heads, self.chunk = keys, len(decay), chunk
        self.qkv = Linear(width, 2 * keys + values, bias=bias)
        self.gated = Linear(width, values, bias=gate_bias)
        self.proj = Linear(values, width, bias=out_bias)
        self.xpos = XPos(keys)
        self.register_buffer("decay", decay)

    def forward(self, x: Tensor, times: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D). With `times` (B, N) tokens fade with the time that lies between them, without with their number."""
        queries, keys, values = self.qkv(x).split([self.keys, self.keys, self.gated.out_features], dim=2)
        queries, keys = self.xpos(queries), self.xpos(keys, inverse=True)
        queries, keys, values = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (queries, keys, values))  # (B, H, N, K / H)
        queries = queries / math.sqrt(queries.shape[3])
        whole = times is not None or self.chunk is None or x.shape[1] <= self.chunk
        mixed = self.at_once(queries, keys, values, times) if whole else self.in_chunks(queries, keys, values)
        normed = F.layer_norm(mixed, mixed.shape[3:]).transpose(1, 2).flatten(2)  # per token and head, without weights
        return self.proj(F.silu(self.gated(x)) * normed)

    def at_once(self, queries: Tensor, keys: Tensor, values: Tensor, times: Tensor | None = None) -> Tensor:
        """All pairs, (B, H, N, V / H)."""
        steps = torch.arange(queries.shape[2], device=queries.device) if times is None else times
        gap = (steps[..., :, None] - steps[..., None, :]).to(queries.dtype)  # (N, N) or (B, N, N)
        gap = gap if times is None else gap[:, None]
        left = (self.decay.log()[:, None, None] * gap.tril()).exp().tril()  # zero for later tokens
        return (queries @ keys.transpose(2, 3) * left) @ values

    def in_chunks(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The same sum; of earlier chunks a matrix per head is kept."""
        size, found = self.chunk, []
        past = queries.new_zeros(*queries.shape[:2], keys.shape[3], values.shape[3])
        powers = self.decay[:, None, None] ** torch.arange(size + 1, device=queries.device)[:, None]  # (H, chunk + 1, 1)
        for begin in range(0, queries.shape[2], size):
            q, k, v = (part[:, :, begin : begin + size] for part in (queries, keys, values))
            length = q.shape[2]
            found.append(self.at_once(q, k, v) + powers[:, 1 : length + 1] * (q @ past))
            past = powers[:, length, None] * past + (k * powers[:, :length].flip(1)).transpose(2, 3) @ v
        return torch.cat(found, dim=2)
