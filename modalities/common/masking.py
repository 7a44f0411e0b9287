"""Random masking of patches: which are kept, and how to put everything back in order.

He et al. 2021 (MAE), section 3.1: noise per patch, sort, keep the first. Tubes: Tong et al. 2022 (VideoMAE), section 3.3.
Letters: B batch, L patches, K kept, M = L - K removed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.errors import ModelError
from trainer.randomness import draws_on_device


@dataclass(frozen=True)
class Masking:
    """Which patches of each sample are visible."""

    ids_keep: Tensor
    """(B, K) indices of the kept patches, in the order in which the encoder sees them."""
    ids_restore: Tensor
    """(B, L) where each patch stands in the sequence [kept, removed]: gathering by it restores the order."""
    mask: Tensor
    """(B, L) float32, 1 = removed, 0 = kept."""

    @property
    def ids_hidden(self) -> Tensor:
        """(B, M) indices of the removed patches, in the order that `ids_restore` gives them."""
        return torch.argsort(self.ids_restore, dim=1)[:, self.ids_keep.shape[1] :]


def keep_count(length: int, mask_ratio: float) -> int:
    """How many of `length` patches stay visible: int(length * (1 - mask_ratio)), rounded down as in the paper's code."""
    if not 0 <= mask_ratio < 1:
        raise ModelError(f"mask_ratio is the share of hidden patches and must be at least 0 and below 1, found {mask_ratio}.")
    keep = int(length * (1 - mask_ratio))
    if keep < 1:
        raise ModelError(
            f"mask_ratio={mask_ratio} leaves none of the {length} patches visible. Lower it to at most {1 - 1 / length:.4g}, or use smaller patches."
        )
    return keep


def mask_from_noise(noise: Tensor, keep: int) -> Masking:
    """Keep the `keep` patches with the smallest noise, (B, L), in each sample."""
    # stable: equal noise values must not depend on the device
    ids_shuffle = torch.argsort(noise, dim=1, stable=True)  # (B, L)
    ids_restore = torch.argsort(ids_shuffle, dim=1)  # (B, L) the rank of each patch
    return Masking(ids_shuffle[:, :keep], ids_restore, (ids_restore >= keep).float())


def tube_counts(places: int, mask_ratio: float) -> tuple[int, int]:
    """(visible, hidden) places of a tube mask: int(places * mask_ratio) are hidden, rounded down as in VideoMAE's code."""
    if not 0 <= mask_ratio < 1:
        raise ModelError(f"mask_ratio is the share of hidden patches and must be at least 0 and below 1, found {mask_ratio}.")
    hidden = int(places * mask_ratio)
    return places - hidden, hidden


def tube_mask(noise: Tensor, slots: int, mask_ratio: float) -> Masking:
    """Hide the same places in each of `slots` slots of time: those with the largest noise, (B, places).

    Tokens are ordered slot by slot, L = slots * places; kept and removed ones are in raster order.
    """
    visible, _ = tube_counts(noise.shape[1], mask_ratio)
    return _in_raster_order(mask_from_noise(noise, visible).mask.repeat(1, slots), visible * slots)


def mask_from_flags(hidden: Tensor) -> Masking:
    """A masking by flags (B, L), true = removed, in raster order. ModelError unless all samples have as many, and some are visible."""
    counts = hidden.sum(dim=1)
    if counts.min() != counts.max() or counts.max() == hidden.shape[1]:
        raise ModelError(f"All samples of a batch must hide equally many of the {hidden.shape[1]} patches and leave some, found {counts.unique().tolist()[:8]} hidden.")
    return _in_raster_order(hidden.float(), hidden.shape[1] - int(counts[0]))


def _in_raster_order(mask: Tensor, keep: int) -> Masking:
    """A masking by its mask (B, L), of which `keep` patches are 0 in every sample."""
    order = torch.argsort(mask, dim=1, stable=True)  # (B, L) kept, then removed
    return Masking(order[:, :keep], torch.argsort(order, dim=1), mask)


def gather_tokens(x: Tensor, ids: Tensor) -> Tensor:
    """Pick tokens by index, per sample: (B, N, D) and (B, M) -> (B, M, D)."""
    return torch.gather(x, 1, ids[:, :, None].expand(-1, -1, x.shape[2]))


BLOCKS = 24
"""Rectangles that are tried for a mask."""
LEAST = 4
"""Patches of a rectangle, at least."""
ASPECT = math.log(1 / 0.3)
"""Logarithm of the largest height / width of a rectangle; the smallest is its reciprocal."""


def block_masks(count: Tensor, keys: Tensor, grid: Sequence[int]) -> Tensor:
    """Masks made of rectangles, (N, rows * columns) bool, with at most `count` (N,) patches hidden in each, mostly just so many.

    Blockwise masking of BEiT (Bao et al. 2021, arXiv 2106.08254, algorithm 1), all samples at once: a rectangle of random area and
    shape is added wherever it does not hide too much. `keys` (N,) int64 decide everything, whatever the device and the batch.
    """
    rows, columns = grid
    numbers = draws_on_device(keys, 4 * BLOCKS).view(len(keys), BLOCKS, 4).unbind(1)
    mask = torch.zeros(len(keys), rows, columns, dtype=torch.bool, device=keys.device)
    y, x = torch.arange(rows, device=keys.device)[:, None], torch.arange(columns, device=keys.device)
    for draw in numbers:
        left = (count - mask.sum(dim=(1, 2))).float()
        least = left.clamp(max=LEAST)
        area, aspect = least + draw[:, 0] * (left - least), torch.exp((2 * draw[:, 1] - 1) * ASPECT)
        height = (area * aspect).sqrt().round().clamp(1, rows)
        width = (area / aspect).sqrt().round().clamp(1, columns)
        top, side = ((draw[:, i] * (room - extent + 1)).floor() for i, room, extent in ((2, rows, height), (3, columns, width)))
        top, side, height, width = (value.long()[:, None, None] for value in (top, side, height, width))
        inside = (y >= top) & (y < top + height) & (x >= side) & (x < side + width)
        wider = mask | inside
        fits = wider.sum(dim=(1, 2)) <= count
        mask = torch.where(fits[:, None, None], wider, mask)
    return mask.flatten(1)
