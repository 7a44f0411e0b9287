"""A mixture of experts, computed group by group: tokens are sorted by expert, and each expert gets one product for all of its tokens."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.linear import Linear


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
        self.experts = nn.ModuleList(SwiGLU(width, hidden) for _ in range(experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D) -> (N, D) and what the router said, (N, E) before the softmax."""
        logits = self.router(x)
        weights, picked = logits.float().softmax(dim=-1).topk(self.chosen, dim=-1)
        order = picked.flatten().argsort(stable=True)
        place = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=order.device))
        sizes = torch.bincount(picked.flatten(), minlength=logits.shape[1]).tolist()
        groups = _Grouped.apply(x, order, place, self.chosen).split(sizes)
        found = torch.cat([expert(group) for expert, group in zip(self.experts, groups)])
        mixed = _Permuted.apply(found, place, order).unflatten(0, (-1, self.chosen)) * weights.to(x.dtype)[..., None]
        return mixed.sum(dim=1) + torch.sigmoid(self.shared_gate(x)) * self.shared(x), logits


def gated(x: Tensor) -> Tensor:
    """(..., 2 H), gate first -> (..., H)."""
    return _Gated.apply(x)


class _Gated(torch.autograd.Function):
    """The product with SiLU of the gate; nothing but the input is kept for the gradient, which is written into one tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        gate, value = x.chunk(2, dim=-1)
        return F.silu(gate).mul_(value)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        of_x = torch.empty_like(x)
        (gate, value), (of_gate, of_value) = x.chunk(2, dim=-1), of_x.chunk(2, dim=-1)
        torch.mul(gradient, F.silu(gate), out=of_value)
        torch.ops.aten.silu_backward.grad_input(gradient * value, gate, grad_input=of_gate)
        return of_x


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
