"""Samples as one batch: stacked, padded to the longest with a mask, or packed one after another.

A source whose samples differ in length or shape names one of these as its `collate`:
`collate = Pad("series")`, and to waste little padding is wrapped in `Bucketed` (see trainer.buckets).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from trainer.errors import DataError
from trainer.objective import Batch


def collated(source: Any, samples: list[dict[str, Any]]) -> Batch:
    """Samples as one batch, in the source's own way (`source.collate`) or else stacked. DataError when they do not fit together."""
    return getattr(source, "collate", stack)(samples)


def stack(samples: list[dict[str, Any]]) -> Batch:
    """Samples that all have the same names and shapes. DataError says which do not."""
    try:
        return default_collate(samples)
    except (RuntimeError, KeyError, TypeError) as error:
        for name in samples[0]:
            kinds = sorted({_kind(sample.get(name)) for sample in samples})
            if len(kinds) > 1:
                raise DataError(
                    f"The samples of a batch differ in {name!r}: {' and '.join(kinds[:4])}. Make them equal (crop, resize), or let the source pad them (trainer.collate.Pad)."
                ) from error
        raise DataError(f"The samples do not make up a batch: {error}") from error


def _kind(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else "missing" if value is None else type(value).__name__


@dataclass(frozen=True)
class Pad:
    """Pads the tensors of some names at their ends to the largest extent of each axis in the batch; the rest is stacked.

    For `names=("series",)` with samples (C, T_i) the batch holds `series` (B, C, T) and `series_mask` (B, C, T), true where values are real.
    """

    names: tuple[str, ...]
    """Which entries of a sample."""
    value: float = 0.0
    """What padding holds."""
    multiple: int = 1
    """Axes that differ are padded to a multiple of this (a patch, or fewer shapes to compile for)."""

    def __call__(self, samples: list[dict[str, Any]]) -> Batch:
        batch = stack([{k: v for k, v in sample.items() if k not in self.names} for sample in samples])
        for name in self.names:
            tensors = _tensors(samples, name)
            if len({t.ndim for t in tensors}) > 1:
                raise DataError(f"{name!r} has {' and '.join(sorted({str(t.ndim) for t in tensors}))} axes in one batch; padding needs the same number.")
            extents = list(zip(*(t.shape for t in tensors)))
            size = [max(e) if len(set(e)) == 1 else -(-max(e) // self.multiple) * self.multiple for e in extents]
            padded = tensors[0].new_full((len(tensors), *size), self.value)
            mask = torch.zeros(padded.shape, dtype=torch.bool)
            for row, tensor in enumerate(tensors):
                part = (row, *(slice(extent) for extent in tensor.shape))
                padded[part], mask[part] = tensor, True
            batch[name], batch[f"{name}_mask"] = padded, mask
        return batch


@dataclass(frozen=True)
class Pack:
    """Puts the tensors of some names one after another along their first axis, without padding; the rest is stacked.

    For `names=("tokens",)` with samples (N_i, D) the batch holds `tokens` (sum N_i, D) and `tokens_offsets` (B + 1,) int64: sample b is
    `tokens[offsets[b] : offsets[b + 1]]`, as attention over packed sequences takes it.
    """

    names: tuple[str, ...]
    """Which entries of a sample."""

    def __call__(self, samples: list[dict[str, Any]]) -> Batch:
        batch = stack([{k: v for k, v in sample.items() if k not in self.names} for sample in samples])
        for name in self.names:
            tensors = _tensors(samples, name)
            if len({t.shape[1:] for t in tensors}) > 1 or any(t.ndim == 0 for t in tensors):
                raise DataError(f"{name!r} can be packed only along its first axis; found the shapes {sorted({tuple(t.shape) for t in tensors})[:4]}.")
            lengths = torch.tensor([0, *(len(t) for t in tensors)])
            batch[name], batch[f"{name}_offsets"] = torch.cat(tensors), lengths.cumsum(0)
        return batch


def _tensors(samples: Sequence[dict[str, Any]], name: str) -> list[Tensor]:
    missing = [sample for sample in samples if not isinstance(sample.get(name), Tensor)]
    if missing:
        raise DataError(f"A sample has no tensor {name!r}, only {', '.join(missing[0])}.")
    return [sample[name] for sample in samples]
