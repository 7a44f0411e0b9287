"""Fixed sine-cosine position tables in the layouts that the papers use, and the one way to resize a table.

The layouts differ only in the order of the same numbers, so a wrong one trains without complaint and then
fits no published checkpoint. That is why they are named. Letters: P prefix rows (class token), L positions.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.errors import ModelError

Layout = Literal["column-first", "row-first", "interleaved"]

_MODES = {1: "linear", 2: "bicubic", 3: "trilinear"}


def sincos_1d(dim: int, positions: Tensor) -> Tensor:
    """Codes of some coordinates, (N,) -> (N, dim) in float64: all sines, then all cosines.

    Frequency i of dim/2 is 10000 ** (-i / (dim/2)) (Vaswani et al. 2017, in blocks and not interleaved).
    """
    if dim < 2 or dim % 2:
        raise ModelError(f"A sine-cosine code has one sine and one cosine per frequency, so its width must be even, found {dim}.")
    omega = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angles = positions.to(torch.float64)[:, None] * omega  # (N, dim/2)
    return torch.cat([angles.sin(), angles.cos()], dim=1)  # (N, dim)


def sincos_table(dim: int, grid: Sequence[int], layout: Layout, prefix: int = 1) -> Tensor:
    """The table of a grid, (1, P+L, dim) float32, computed in float64; the P prefix rows are zero.

    - "column-first" (MAE, ConvMAE, BM-MAE): the axes share the width equally, the LAST axis first. In 2-D:
      [sin column | cos column | sin row | cos row].
    - "row-first" (MultiMAE): the same with the first axis first. For square grids that is the official table; for others the official code
      mixes up rows and columns, and this one does not.
    - "interleaved" (VideoMAE): one coordinate, the flattened index; even channels sine, odd channels cosine.
    """
    n = len(grid)
    if torch.get_default_device().type == "meta":
        return torch.empty(1, prefix + math.prod(grid), dim)  # a skeleton: the values come from a file
    if layout == "interleaved":
        sine, cosine = sincos_1d(dim, torch.arange(math.prod(grid))).chunk(2, dim=1)
        table = torch.stack([sine, cosine], dim=2).flatten(1)  # (L, dim)
    elif layout in ("column-first", "row-first"):
        if dim % (2 * n):
            raise ModelError(
                f"A {layout} table over {n} axes needs a width divisible by {2 * n}, found {dim}. "
                f"Use {dim // (2 * n) * 2 * n or 2 * n} or {(dim // (2 * n) + 1) * 2 * n}."
            )
        axes = torch.meshgrid(*(torch.arange(side) for side in grid), indexing="ij")
        ordered = axes if layout == "row-first" else axes[::-1]
        table = torch.cat([sincos_1d(dim // n, axis.flatten()) for axis in ordered], dim=1)  # (L, dim)
    else:
        raise ModelError(f"Unknown position layout {layout!r}. Layouts: column-first, row-first, interleaved.")
    return torch.cat([torch.zeros(prefix, dim, dtype=torch.float64), table])[None].float()


def resize_positions(
    table: Tensor, old_grid: Sequence[int], new_grid: Sequence[int], prefix: int = 1, mode: str | None = None
) -> Tensor:
    """Interpolate a table (1, P+L, D) from one grid to another; the prefix rows stay as they are.

    `mode` is linear, bicubic or trilinear by the number of axes (align_corners False), as MAE's fine-tuning does it.
    """
    old_grid, new_grid = tuple(old_grid), tuple(new_grid)
    if table.ndim != 3 or table.shape[0] != 1 or table.shape[1] != prefix + math.prod(old_grid):
        raise ModelError(
            f"A position table for the grid {old_grid} with {prefix} prefix rows has the shape (1, {prefix + math.prod(old_grid)}, D), "
            f"found {tuple(table.shape)}."
        )
    if len(new_grid) != len(old_grid) or len(new_grid) not in _MODES:
        raise ModelError(f"Cannot resize positions from the grid {old_grid} to {new_grid}: both need the same 1, 2 or 3 axes.")
    if new_grid == old_grid:
        return table
    rows = table[:, prefix:].transpose(1, 2).unflatten(2, old_grid)  # (1, D, *old_grid)
    rows = F.interpolate(rows.float(), size=new_grid, mode=mode or _MODES[len(new_grid)], align_corners=False)  # (1, D, *new_grid)
    return torch.cat([table[:, :prefix], rows.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)  # (1, P+L', D)
