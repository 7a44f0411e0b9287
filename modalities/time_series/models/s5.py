"""A diagonal state-space layer (S5, Smith et al. 2022, arXiv 2208.04933) as FlowState has it, and how it is computed along time.

The recurrence x_k = a x_{k-1} + v_k is the same for all series, one complex number a per state. So time is cut into pieces: inside a piece it is one
product with the matrix of the powers of a, and what is carried from piece to piece is the same recurrence over the ends of the pieces.
Letters: R series, L steps, D width, P states.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.linear import Linear

PIECE = 32
"""Steps of a piece."""


def scan(inputs: Tensor, rate: Tensor) -> Tensor:
    """x_k = exp(rate) x_{k-1} + v_k from x_{-1} = 0, for each state: (P, R, L) complex and its rate (P,) -> (P, R, L)."""
    length = inputs.shape[-1]
    if length <= PIECE:
        return inputs @ _powers(rate, length)
    pieces = F.pad(inputs, (0, -length % PIECE)).unflatten(-1, (-1, PIECE))  # (P, R, n, piece)
    inside = (pieces.flatten(1, 2) @ _powers(rate, PIECE)).unflatten(1, pieces.shape[1:3])
    ends = scan(inside[..., -1], rate * PIECE)
    before = F.pad(ends[..., :-1], (1, 0))
    fading = (rate[:, None] * torch.arange(1, PIECE + 1, device=rate.device)).exp()
    return (inside + before[..., None] * fading[:, None, None]).flatten(2)[..., :length]


def _powers(rate: Tensor, length: int) -> Tensor:
    """(P, L, L): what step j adds to step k is exp(rate (k - j)); nothing from later steps."""
    places = torch.arange(length, device=rate.device)
    gaps = places[None] - places[:, None]
    return torch.where(gaps >= 0, (rate[:, None, None] * gaps.clamp(min=0)).exp(), 0.0)


class S5(nn.Module):
    """Time-invariant linear filter with P complex states; `gated`: what comes out passes a gate before the direct path is added."""

    def __init__(self, width: int, states: int, blocks: int, gated: bool) -> None:
        super().__init__()
        self.blocks = blocks
        self.log_decay, self.frequency, self.log_step = (nn.Parameter(torch.empty(states)) for _ in range(3))
        self.in_real, self.in_imag = (nn.Parameter(torch.empty(states, width)) for _ in range(2))
        self.out_real, self.out_imag = (nn.Parameter(torch.empty(width, states)) for _ in range(2))
        self.direct = nn.Parameter(torch.empty(width))
        self.gate = Linear(width, width) if gated else None
        if not self.direct.is_meta:
            self._initialise()

    def forward(self, u: Tensor, speed: float, first: int = 0) -> Tensor:
        """(R, L, D) -> (R, L - first, D), the steps from `first` on. `speed`: how much longer a step is than in training."""
        eigenvalues = torch.complex(-self.log_decay.float().exp(), self.frequency.float())
        rate = speed * eigenvalues * self.log_step.float().exp()  # per step
        into = ((rate.exp() - 1) / eigenvalues)[:, None] * torch.complex(self.in_real.float(), self.in_imag.float())
        flat = u.float().flatten(0, 1).t()
        driven = torch.complex(into.real @ flat, into.imag @ flat).unflatten(1, u.shape[:2])  # (P, R, L)
        if first == u.shape[1] - 1:  # a single state is a weighted sum
            gaps = torch.arange(first, -1, -1, device=u.device)
            states = (driven * (rate[:, None] * gaps).exp()[:, None]).sum(dim=-1, keepdim=True)
        else:
            states = scan(driven, rate)[..., first:]
        out = torch.cat([self.out_real, -self.out_imag], dim=1)
        y = (out @ torch.cat([states.real, states.imag]).flatten(1).to(out.dtype)).unflatten(1, states.shape[1:]).permute(1, 2, 0)
        if self.gate is not None:
            y = torch.sigmoid(self.gate(y)) * y
        return y + self.direct * u[:, first:]

    @torch.no_grad()
    def _initialise(self) -> None:
        """Blocks of the HiPPO-N matrix, diagonalised; random inputs and outputs in the same coordinates; steps from 0.001 to 0.1."""
        width, states = self.direct.shape[0], self.log_decay.shape[0]
        size = states // self.blocks
        n = torch.sqrt(2 * torch.arange(size, dtype=torch.float32) + 3)
        outer = torch.outer(n, n) / 2
        block = -0.5 * torch.eye(size) - torch.triu(outer) + torch.tril(outer)
        eigenvalues, vectors = torch.linalg.eig(torch.block_diag(*[block] * self.blocks))
        into = 0.5 / math.sqrt(width) * torch.complex(torch.randn(states, width), torch.randn(states, width))
        out = 0.5 / math.sqrt(states) * torch.complex(torch.randn(width, states), torch.randn(width, states))
        into, out = torch.linalg.solve(vectors, into), out @ vectors
        self.log_decay.copy_((-eigenvalues.real).log())
        self.frequency.copy_(eigenvalues.imag)
        for parameter, values in ((self.in_real, into.real), (self.in_imag, into.imag), (self.out_real, out.real), (self.out_imag, out.imag)):
            parameter.copy_(values)
        self.log_step.uniform_(math.log(0.001), math.log(0.1))
        self.direct.normal_()


class GatedMLP(nn.Module):
    """Gated feed-forward layer on the normed input, added to it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.gate, self.inner, self.outer = Linear(width, 2 * width), Linear(width, 2 * width), Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        normed = self.norm(x)
        return self.outer(F.silu(self.gate(normed)) * self.inner(normed)) + x


class S5Layer(nn.Module):
    """A filter, a non-linearity of each step, a norm; added to what came in."""

    def __init__(self, width: int, states: int, blocks: int, gated: bool, mlp: Literal["gated", "transformer"]) -> None:
        super().__init__()
        self.ssm, self.norm = S5(width, states, blocks, gated), nn.LayerNorm(width)
        self.out = Linear(width, width) if mlp == "gated" else None
        self.mlp = GatedMLP(width) if mlp == "transformer" else None

    def forward(self, x: Tensor, speed: float, first: int = 0) -> Tensor:
        """(R, L, D) -> (R, L - first, D)."""
        v = self.ssm(x, speed, first)
        if self.mlp is not None:
            v = self.mlp(v)
        else:
            v = F.selu(v)
            v = v * torch.sigmoid(self.out(v))
        return x[:, first:] + self.norm(v)
