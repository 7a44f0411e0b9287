"""Series by the thousand: as many at once as memory bears."""

from collections.abc import Callable

import torch
from torch import Tensor


def by_parts(function: Callable[..., Tensor], rows: int, *tensors: Tensor) -> Tensor:
    """What a function makes of tensors whose first axis are series that do not know each other, `rows` at a time unless a gradient is asked for."""
    if torch.is_grad_enabled() or torch.compiler.is_exporting() or len(tensors[0]) <= rows:
        return function(*tensors)
    return torch.cat([function(*parts) for parts in zip(*(tensor.split(rows) for tensor in tensors))])
