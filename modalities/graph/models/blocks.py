"""Networks along very many edges without holding what they compute inside: block after block, once more on the way back."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

ROWS = 2**14
"""Rows of a block. What has no more of them is computed at once."""

Compute = Callable[[slice], Tensor]


def in_blocks(compute: Compute, rows: int) -> Tensor:
    """`compute(rows)` (R, D) of all rows, put together. Above `ROWS` only one block's inner results exist at a time: with gradients they are computed anew on the way back."""
    if rows <= ROWS:
        return compute(slice(0, rows))
    blocks = (slice(begin, min(begin + ROWS, rows)) for begin in range(0, rows, ROWS))
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(compute, block, use_reentrant=False) for block in blocks])
    return torch.cat([compute(block) for block in blocks])
