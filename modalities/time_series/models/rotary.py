"""Rotary positions (Su et al. 2021, arXiv 2104.09864) in the layout that turns the two halves of a head against each other."""

import torch
from torch import Tensor


def rotation(positions: Tensor, width: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine (..., N, width) of positions (..., N), in single precision."""
    frequencies = base ** -(torch.arange(0, width, 2, dtype=torch.float32, device=positions.device) / width)
    angles = positions.float()[..., None] * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Heads (R, h, N, d), turned."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
