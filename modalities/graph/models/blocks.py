"""Networks along very many edges without holding what they compute inside: block after block, once more on the way back."""

import ctypes
import sys
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

NUMBERS = 2**22
"""Most numbers that are computed inside a block; what stays below is computed at once."""

Compute = Callable[[slice], Tensor]


def in_blocks(compute: Compute, rows: int, width: int) -> Tensor:
    """`compute(rows)` (R, D) of all rows, put together. `width` says how many numbers are computed for a row on the way.

    Where all rows would need more than `NUMBERS`, only one block of them exists at a time: with gradients it is computed anew on the way back.
    """
    if rows * width <= NUMBERS:
        return compute(slice(0, rows))
    size = max(NUMBERS // width, 1)
    blocks = (slice(begin, min(begin + size, rows)) for begin in range(0, rows, size))
    if torch.is_grad_enabled():
        made = [checkpoint(compute, block, use_reentrant=False) for block in blocks]
    else:
        made = [compute(block) for block in blocks]
    _give_back()
    return torch.cat(made)


def anew(layer: Callable[..., Tensor], x: Tensor, rows: int, width: int) -> Tensor:
    """`layer(x)`. Where it computes more than `NUMBERS` (`width` for each of its `rows`), with gradients only `x` is held, and all of the layer is computed anew on the way back."""
    return checkpoint(layer, x, use_reentrant=False) if torch.is_grad_enabled() and rows * width > NUMBERS else layer(x)


@cache
def _trim() -> Callable[[int], int] | None:
    """The C library's function that gives free memory back to the system, where it has one (glibc)."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def _give_back() -> None:
    """Free memory goes back to the system. Blocks leave holes between what stays, which the C library would keep, more with every step."""
    trim = _trim()
    if trim is not None:
        trim(0)


def width_of(*networks: nn.Module) -> int:
    """Numbers that go into and come out of the linear layers of networks, for one row."""
    return sum(layer.in_features + layer.out_features for network in networks for layer in network.modules() if isinstance(layer, nn.Linear))
