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

MMAP_THRESHOLD, LARGER = -3, 2**17
"""The number of the setting (glibc's malloc.h), and from how many bytes a piece is larger."""

Compute = Callable[[slice], Tensor]


def in_blocks(compute: Compute, rows: int, width: int) -> Tensor:
    """`compute(rows)` (R, D) of all rows, put together. `width` says how many numbers are computed for a row on the way.

    Where all rows would need more than `NUMBERS`, only one block of them exists at a time: with gradients it is computed anew on the way back.
    """
    if rows * width <= NUMBERS:
        return compute(slice(0, rows))
    _give_back_at_once()
    size = max(NUMBERS // width, 1)
    blocks = (slice(begin, min(begin + size, rows)) for begin in range(0, rows, size))
    if torch.is_grad_enabled():
        made = [checkpoint(compute, block, use_reentrant=False) for block in blocks]
    else:
        made = [compute(block) for block in blocks]
    return torch.cat(made)


def anew(layer: Callable[..., Tensor], x: Tensor, rows: int, width: int) -> Tensor:
    """`layer(x)`. Where it computes more than `NUMBERS` (`width` for each of its `rows`), with gradients only `x` is held, and all of the layer is computed anew on the way back."""
    return checkpoint(layer, x, use_reentrant=False) if torch.is_grad_enabled() and rows * width > NUMBERS else layer(x)


@cache
def _give_back_at_once() -> None:
    """From now on every larger piece of memory of this process goes back to the system when it is free.

    The C library (glibc) else keeps pieces of up to 32 MB for later, in holes between what stays, and needs more with every step.
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, LARGER)


def width_of(*networks: nn.Module) -> int:
    """Numbers that go into and come out of the linear layers of networks, for one row."""
    return sum(layer.in_features + layer.out_features for network in networks for layer in network.modules() if isinstance(layer, nn.Linear))
