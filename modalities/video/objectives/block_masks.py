"""Multi-block masks of V-JEPA (Bardes et al. 2024, arXiv 2404.08471, section 3.2): a few large blocks, the same in all frames, are hidden.

Ours: the aspect of the blocks is drawn for each sample, from its own key, so that masks do not depend on processes or restarts (InternVideo-Next
draws one for each step). Letters: B batch, K context patches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.errors import ConfigError
from trainer.randomness import draws_on_device

TRIES = 8
"""Draws of a sample's blocks before they are laid upon one another, so that something stays visible."""


@dataclass(frozen=True)
class BlockMaskConfig:
    """One mask: how many blocks, how large."""

    blocks: int = 8
    """Blocks that are hidden; they may overlap."""
    area: float = 0.15
    """Share of a frame that one block covers."""
    aspect: tuple[float, float] = (0.75, 1.5)
    """Smallest and largest height / width of a block."""

    def __post_init__(self) -> None:
        if self.blocks < 1 or not 0 < self.area < 1 or not 0 < self.aspect[0] <= self.aspect[1]:
            raise ConfigError(f"A block mask needs at least 1 block, an area in 0..1 and aspects (smallest, largest) above 0; found {self}.")

    def hidden(self, keys: Tensor, rows: int, columns: int, salt: int) -> Tensor:
        """Which places of a frame are hidden, (B, rows * columns) bool, for sample keys (B,); `salt` sets several masks of a sample apart.

        ConfigError when a block covers the whole frame.
        """
        draws = draws_on_device(keys + salt, TRIES * (1 + 2 * self.blocks)).view(len(keys), TRIES, -1)
        low, high = self.aspect
        aspect = low + draws[..., 0] * (high - low)  # (B, tries)
        area = int(rows * columns * self.area)
        heights = (area * aspect).sqrt().round().clamp(1, rows)
        widths = (area / aspect).sqrt().round().clamp(1, columns)
        largest = min(round(math.sqrt(area * high)), rows) * min(round(math.sqrt(area / low)), columns)
        if largest >= rows * columns:
            raise ConfigError(f"Blocks of {self.area:g} of a frame can cover all of its {rows} x {columns} patches. Lower the area, or use smaller patches.")
        tops = (draws[..., 1 : 1 + self.blocks] * (rows - heights + 1)[..., None]).floor()  # (B, tries, blocks)
        lefts = (draws[..., 1 + self.blocks :] * (columns - widths + 1)[..., None]).floor()
        inside = [_within(side, starts, lengths) for side, starts, lengths in ((rows, tops, heights), (columns, lefts, widths))]
        hidden = (inside[0][..., :, None] & inside[1][..., None, :]).any(2).flatten(2)  # (B, tries, rows * columns)
        good = ~hidden.all(2)
        first = good.int().argmax(1)
        chosen = hidden.gather(1, first[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0]
        single = (inside[0][:, 0, 0, :, None] & inside[1][:, 0, 0, None, :]).flatten(1)
        return torch.where(good.any(1)[:, None], chosen, single)


def context(hidden: Tensor, frames: int, limit: int | None) -> tuple[Tensor, Tensor]:
    """Places (B, K) that the encoder sees and those (B, L-K) that are predicted, of masks (B, places of a frame) in every one of `frames` frames.

    Every sample sees as many as the one that has fewest, at most `limit`: the first in the order of time, row, column (as the authors
    do it; what is left over is predicted).
    """
    everywhere = hidden.repeat(1, frames)
    fewest = int((~hidden).sum(1).min()) * frames
    keep = min(fewest, limit) if limit is not None else fewest
    order = torch.argsort(everywhere.int(), dim=1, stable=True)
    return order[:, :keep], order[:, keep:]


def _within(side: int, starts: Tensor, lengths: Tensor) -> Tensor:
    """(..., blocks, side): which places lie in blocks that begin at `starts` (..., blocks) and are `lengths` (...) long."""
    places = torch.arange(side, device=starts.device)
    return (places >= starts[..., None]) & (places < (starts + lengths[..., None])[..., None])


def keys_of(batch: dict[str, Tensor], samples: Sequence) -> Tensor:
    """The sample keys of a batch, (B,); without them random ones."""
    found = batch.get("sample_key")
    return found if found is not None else torch.randint(2**62, (len(samples),), device=samples.device)
