"""A mixture of experts, computed group by group: tokens are sorted by expert, and each expert gets one product for all of its tokens."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.linear import Linear, linear


class SwiGLU(nn.Module):
    """Two layers with a gate, without bias; gate and first layer are one matrix."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner, self.outer = Linear(width, 2 * hidden, bias=False), Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.outer(gated(self.inner(x)))


class Experts(nn.Module):
    """E gated experts of which a router picks k for each token, weighted by their probability among all; and one that all tokens share."""

    def __init__(self, width: int, hidden: int, shared_hidden: int, experts: int, chosen: int) -> None:
        super().__init__()
        self.chosen = chosen
        self.router, self.shared_gate = Linear(width, experts, bias=False), Linear(width, 1, bias=False)
        self.shared = SwiGLU(width, shared_hidden)
        self.inner = nn.Parameter(torch.empty(experts * 2 * hidden, width))  # of each expert its gate, then its first layer
        self.outer = nn.Parameter(torch.empty(experts * width, hidden))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D) -> (N, D) and what the router said, (N, E) before the softmax."""
        logits = self.router(x)
        weights, picked = logits.float().softmax(dim=-1).topk(self.chosen, dim=-1)
        order = picked.flatten().argsort(stable=True)
        place = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=order.device))
        sizes = torch.bincount(picked.flatten(), minlength=logits.shape[1]).tolist()
        found = self.groups(_Grouped.apply(x, order, place, self.chosen), sizes)
        mixed = _Permuted.apply(found, place, order).unflatten(0, (-1, self.chosen)) * weights.to(x.dtype)[..., None]
        return mixed.sum(dim=1) + torch.sigmoid(self.shared_gate(x)) * self.shared(x), logits

    def groups(self, x: Tensor, sizes: list[int]) -> Tensor:
        """Tokens (N k, D) in the order of the experts, so many for each -> what the experts make of them."""
        inner, outer = self.inner.chunk(len(sizes)), self.outer.chunk(len(sizes))
        return torch.cat([linear(gated(linear(part, first)), second) for part, first, second in zip(x.split(sizes), inner, outer)])


def gated(x: Tensor) -> Tensor:
    """(..., 2 H), gate first -> (..., H)."""
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


class _Grouped(torch.autograd.Function):
    """Rows (N, D) -> (N k, D) in the order of the experts. The gradient is gathered instead of scattered, which is far quicker."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, place: Tensor, chosen: int) -> Tensor:
        ctx.save_for_backward(place)
        ctx.chosen = chosen
        return x.index_select(0, order // chosen)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (place,) = ctx.saved_tensors
        return gradient.index_select(0, place).unflatten(0, (-1, ctx.chosen)).sum(dim=1), None, None, None


class _Permuted(torch.autograd.Function):
    """Rows in another order; `back` is the inverse of `order`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient.index_select(0, ctx.saved_tensors[0]), None, None
