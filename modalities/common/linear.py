"""Linear layers that take the faster library on a CPU.

torch multiplies matrices in single precision with MKL, which uses half of the width of the vector units of other makers' processors;
oneDNN, which comes with torch as well, uses all of it: about twice as fast there, at the same precision. Which one is taken
depends on the processor alone, never on a measurement, so that a run that is resumed computes the same bits.

oneDNN's product is called through an operation of our own, `modality_zoo::product`: torch.compile takes torch's name for it as a promise that the weight
is a constant, and has no way to compile it in training. An operation that it does not know it calls as it is, with inputs laid out as they are without it.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula


def _onednn_is_faster() -> bool:
    """Whether this is a processor with 512-bit vectors that MKL does not use."""
    if not torch.backends.mkldnn.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:  # no Linux
        return False


ONEDNN_IS_FASTER = _onednn_is_faster()


SMALLEST = 2**23
"""Multiplications below which torch's own product is taken: oneDNN prepares a program for each shape, and calling it costs more."""


_LIBRARY = torch.library.Library("modality_zoo", "DEF")  # kept: its operations go when it does
_LIBRARY.define("product(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
PRODUCT = torch.ops.modality_zoo.product.default
"""(..., I), (O, I) and (O,) or None -> (..., O), by oneDNN. It has no gradients of its own."""


@torch.library.impl("modality_zoo::product", "CPU", lib=_LIBRARY)
def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")


@torch.library.register_fake("modality_zoo::product", lib=_LIBRARY)
def _fake_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@register_flop_formula(torch.ops.modality_zoo.product)
def _operations(x: torch.Size, weight: torch.Size, *_: Any, **__: Any) -> int:
    """Multiplications and additions of one product, for counters of operations."""
    return 2 * x.numel() * weight[0]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What `torch.nn.functional.linear` computes: (..., I) and (O, I) -> (..., O)."""
    if ONEDNN_IS_FASTER and not _exporting() and _fits(x, weight):
        return _OneDNN.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def _fits(x: Tensor, weight: Tensor) -> bool:
    """Whether this is a product in single precision on the CPU, and large enough."""
    if x.numel() * weight.shape[0] < SMALLEST:  # asked first: most calls of small networks end here
        return False
    return x.ndim > 1 and x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")


@torch.compiler.assume_constant_result
def _exporting() -> bool:
    """Whether a graph is being written, which must hold torch's own operations. Asked as a constant: the compiler takes `is_exporting` itself for true."""
    return torch.compiler.is_exporting()


class Linear(nn.Linear):
    """torch's linear layer, computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        return linear(x, self.weight, self.bias)


def use_faster(module: nn.Module) -> nn.Module:
    """Make every plain linear layer inside a `Linear`: its parameters and names stay."""
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = Linear
    return module


class _OneDNN(torch.autograd.Function):
    """The layer and its gradients, all as products with a transposed matrix; none is copied to be transposed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return PRODUCT(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)  # (N, O)
        return (
            PRODUCT(gradient, weight.t(), None) if of_x else None,
            PRODUCT(rows.t(), x.flatten(0, -2).t(), None) if of_weight else None,
            rows.sum(dim=0) if of_bias else None,
        )
