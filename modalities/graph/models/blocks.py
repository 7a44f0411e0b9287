"""Networks along very many edges without holding what they compute inside: block after block, once more on the way back."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

NUMBERS = 2**23
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
        return torch.cat([checkpoint(compute, block, use_reentrant=False) for block in blocks])
    return torch.cat([compute(block) for block in blocks])


def anew(layer: Callable[..., Tensor], x: Tensor, rows: int, width: int) -> Tensor:
    """`layer(x)`. Where it computes more than `NUMBERS` (`width` for each of its `rows`), with gradients only `x` is held, and all of the layer is computed anew on the way back."""
    return checkpoint(layer, x, use_reentrant=False) if torch.is_grad_enabled() and rows * width > NUMBERS else layer(x)


def width_of(*networks: nn.Module) -> int:
    """Numbers that go into and come out of the linear layers of networks, for one row."""
    return sum(layer.in_features + layer.out_features for network in networks for layer in network.modules() if isinstance(layer, nn.Linear))
