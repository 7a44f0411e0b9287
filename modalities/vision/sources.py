"""Where pictures come from: folders on disk and arrays in memory.

A sample is {"image": (C, H, W) float32, normalised} and, when the set has labels, "label": () int64.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modalities.common.folders import files_below
from modalities.common.sources import FolderSource, LabelledSource, index_tensor
from modalities.vision.bands import USUAL
from modalities.vision.images import as_picture, read_image, to_tensor
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.values import ARRAY
from trainer.errors import DataError
from trainer.image_files import EXTENSIONS
from trainer.objective import Batch
from trainer.randomness import draws


class ImageSource(LabelledSource):
    """A set of pictures."""

    key = "image"
    preprocess: ImagePreprocess

    def check(self, index: int) -> None:
        """Read a sample, without any transform. DataError when it is not as expected."""
        read_image(self.item(index), self.preprocess.channels)

    def require_files(self) -> None:
        """Raise DataError when a file that belongs to a sample is not there, as far as that is known without reading: here each sample is one file."""


def endings_for(channels: int) -> tuple[str, ...]:
    """How files with pictures of so many channels end: for other than grey and RGB arrays are pictures too."""
    return EXTENSIONS if channels in USUAL else (*EXTENSIONS, ARRAY)


class ImageFolder(FolderSource, ImageSource):
    """Image files below a folder."""

    def find(self, root: Path) -> list[str]:
        return files_below(root, endings_for(self.preprocess.channels))


class ImageArray(ImageSource):
    """Pictures in memory: uint8 (N, H, W) or (N, C, H, W), with or without labels (N,)."""

    in_memory = True

    def __init__(
        self,
        images: Tensor,
        preprocess: ImagePreprocess,
        labels: Tensor | None = None,
        classes: Sequence[str] = (),
        name: str = "array",
        about: dict[str, Any] | None = None,
    ) -> None:
        images = images[:, None] if images.ndim == 3 else images
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
            raise DataError(
                f"Images in memory must be uint8 of shape (N, H, W) or (N, C, H, W) with 1 or 3 channels, "
                f"found {images.dtype} of shape {tuple(images.shape)}."
            )
        if labels is not None and (labels.shape != images.shape[:1] or not 0 <= int(labels.min()) <= int(labels.max()) < len(classes)):
            raise DataError(
                f"Expected {len(images)} labels in 0..{len(classes) - 1}, found {tuple(labels.shape)}: {labels.unique().tolist()[:20]}."
            )
        self.preprocess, self.name, self.about = preprocess, name, about or {}
        self.classes = tuple(classes) if labels is not None else ()
        self.labels = labels
        self.images = images
        self.ready: Tensor | None = None
        """What `fetch` reads, once it was called: pixels of the model's size, (N, C, H, W) uint8 or float in 0..1."""
        self.shift = 0
        """In training, move pictures by up to this many pixels each way, black where they came from."""

    def __len__(self) -> int:
        return len(self.images)

    def item(self, index: int) -> Tensor:
        return self.images[index]

    def fetch(self, indices: list[int], keys: np.ndarray | None = None) -> Batch:
        """A whole batch at once; without `keys` (evaluation) the same numbers as sample by sample, never shifted."""
        if self.ready is None:
            self.ready = self._fit_all()
        chosen = index_tensor(indices)
        pixels = self.ready[chosen]  # (B, C, H, W)
        if self.shift and keys is not None:
            offsets = torch.from_numpy((draws(keys, 2) * (2 * self.shift + 1)).astype(np.int64))  # (B, 2) in 0..2*shift
            pixels = window(F.pad(pixels, (self.shift,) * 4), offsets, pixels.shape[2:])
        batch = {"image": self.preprocess.normalise(pixels)}
        if self.labels is not None:
            batch["label"] = self.labels[chosen]
        return batch

    def take(self, indices: Sequence[int]) -> Self:
        part, chosen = copy.copy(self), index_tensor(indices)
        part.images, part.ready = self.images[chosen], None
        part.labels = None if self.labels is None else self.labels[chosen]
        return part

    def describe(self) -> dict[str, Any]:
        facts = {"name": self.name, "samples": len(self), **self.about}
        return {**facts, "classes": len(self.classes)} if self.classes else facts

    def _fit_all(self) -> Tensor:
        p = self.preprocess
        if self.images.shape[1:] == (p.channels, *p.size) and p.crop_pct == 1:
            return self.images
        return torch.stack([to_tensor(p.fit(as_picture(image, p.channels))) for image in self.images])


def window(images: Tensor, offsets: Tensor, size: Sequence[int]) -> Tensor:
    """Cut (B, C, *size) out of images (B, C, H, W), each at its own (row, column) offset (B, 2)."""
    rows = offsets[:, :1] + torch.arange(size[0])  # (B, h)
    columns = offsets[:, 1:] + torch.arange(size[1])  # (B, w)
    samples = torch.arange(len(images))[:, None, None]
    return images[samples, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
