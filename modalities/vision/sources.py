"""Where pictures come from: folders on disk and arrays in memory.

A sample is {"image": (C, H, W) float32, normalised} and, when the set has labels, "label": () int64.
"""

import copy
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modalities.vision.images import as_picture, to_tensor
from modalities.vision.preprocess import ImagePreprocess
from trainer.errors import DataError
from trainer.image_files import EXTENSIONS
from trainer.objective import Batch
from trainer.randomness import draws

JUNK = ("__MACOSX",)
TRAIN_FOLDER = "train"
TEST_FOLDERS = ("val", "valid", "validation", "test")
PARTS = (TRAIN_FOLDER, *TEST_FOLDERS)
"""Folders with these names are a part of the set that the folder above is named after."""


class ImageSource(ABC):
    """What all sets of pictures share. A subclass gives `name`, `__len__`, `item`, `take` and `describe`."""

    name: str
    """What the set is called in logs and cards."""
    in_memory = False
    preprocess: ImagePreprocess
    classes: tuple[str, ...] = ()
    """Names of the classes; a label is an index into it. Empty without labels."""
    labels: Tensor | None = None
    """(N,) int64, or None."""
    held_out: "ImageSource | None" = None
    """Of a training set: the pictures that are kept back to measure on, without augmentation."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def item(self, index: int) -> Any:
        """The raw picture (a path or uint8 pixels), before any transform."""

    @abstractmethod
    def take(self, indices: Sequence[int]) -> Self:
        """The same set with only these samples, in this order."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Facts for logs and cards: name, samples, classes, source, licence, derivation."""

    def id(self, index: int) -> str:
        """What a sample is called, whatever the folder that the set lies in."""
        return str(index)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.sample(index, self.preprocess.transform)

    def sample(self, index: int, transform: Callable[[Any], Tensor | dict[str, Tensor]]) -> dict[str, Tensor]:
        """One sample, its picture made by `transform`, or what else that makes of it, by name (several crops)."""
        made = transform(self.item(index))
        sample = made if isinstance(made, dict) else {"image": made}
        if self.labels is not None:
            sample["label"] = self.labels[index]
        return sample


class ImageFolder(ImageSource):
    """Image files below a folder, in sorted order; hidden files are skipped.

    With `labelled`, the direct sub-folders are the classes, as in ImageNet: `root/<class>/.../x.jpg`. Their
    sorted names are numbered, or `classes` fixes names and numbers (a trained classifier's, say). Without it,
    all images at any depth are taken and labels do not exist. Raises DataError when the folder is not like this.
    """

    def __init__(
        self, root: Path | str, preprocess: ImagePreprocess, labelled: bool = True, classes: Sequence[str] | None = None
    ) -> None:
        self.root, self.preprocess = Path(root), preprocess
        full = self.root.resolve()
        self.name = full.parent.name if full.name in PARTS else full.name
        self.files = _image_files(self.root)
        """Paths relative to root."""
        if labelled:
            self.classes = _class_names(self.root, self.files, classes)
            number = {name: i for i, name in enumerate(self.classes)}
            self.labels = torch.tensor([number[Path(file).parts[0]] for file in self.files])

    def __len__(self) -> int:
        return len(self.files)

    def item(self, index: int) -> Path:
        return self.root / self.files[index]

    def id(self, index: int) -> str:
        return Path(self.files[index]).as_posix()

    def take(self, indices: Sequence[int]) -> Self:
        part = copy.copy(self)
        part.files = [self.files[i] for i in indices]
        part.labels = None if self.labels is None else self.labels[_index(indices)]
        return part

    def describe(self) -> dict[str, Any]:
        facts = {"name": self.name, "samples": len(self), "source": "image files in a folder of the user"}
        return {**facts, "classes": len(self.classes)} if self.classes else facts


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
        chosen = _index(indices)
        pixels = self.ready[chosen]  # (B, C, H, W)
        if self.shift and keys is not None:
            offsets = torch.from_numpy((draws(keys, 2) * (2 * self.shift + 1)).astype(np.int64))  # (B, 2) in 0..2*shift
            pixels = _window(F.pad(pixels, (self.shift,) * 4), offsets, pixels.shape[2:])
        batch = {"image": self.preprocess.normalise(pixels)}
        if self.labels is not None:
            batch["label"] = self.labels[chosen]
        return batch

    def take(self, indices: Sequence[int]) -> Self:
        part, chosen = copy.copy(self), _index(indices)
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


class Augmented(ImageSource):
    """Another source with a random transform. It has no `fetch`: samples are drawn one by one, each with its own seed."""

    def __init__(self, source: ImageSource, augment: Callable[[Any], Tensor | dict[str, Tensor]]) -> None:
        self.source, self.augment = source, augment
        self.preprocess, self.in_memory, self.name = source.preprocess, source.in_memory, source.name
        self.classes, self.labels, self.held_out = source.classes, source.labels, source.held_out
        if hasattr(source, "order"):
            self.order = source.order

    def __len__(self) -> int:
        return len(self.source)

    def item(self, index: int) -> Any:
        return self.source.item(index)

    def id(self, index: int) -> str:
        return self.source.id(index)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.sample(index, self.augment)

    def take(self, indices: Sequence[int]) -> "Augmented":
        return Augmented(self.source.take(indices), self.augment)

    def describe(self) -> dict[str, Any]:
        return self.source.describe()


def _window(images: Tensor, offsets: Tensor, size: Sequence[int]) -> Tensor:
    """Cut (B, C, *size) out of images (B, C, H, W), each at its own (row, column) offset (B, 2)."""
    rows = offsets[:, :1] + torch.arange(size[0])  # (B, h)
    columns = offsets[:, 1:] + torch.arange(size[1])  # (B, w)
    samples = torch.arange(len(images))[:, None, None]
    return images[samples, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _index(indices: Sequence[int]) -> Tensor:
    return torch.as_tensor(indices, dtype=torch.long)  # an empty list too


def _image_files(root: Path) -> list[str]:
    """All images below `root` as sorted relative paths; DataError when there is no such folder or no image in it."""
    if not root.is_dir():
        what = "is a file, not a folder" if root.is_file() else "does not exist"
        raise DataError(f"{root} {what}. Expected a folder with images.")
    found, others, seen = [], Counter(), set()
    for folder, subfolders, files in os.walk(root, onerror=_unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back to a folder above
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(s for s in subfolders if not s.startswith(".") and s not in JUNK)
        for file in files:
            ending = os.path.splitext(file)[1].lower()
            if file.startswith("."):
                continue
            if ending in EXTENSIONS:
                found.append(os.path.relpath(os.path.join(folder, file), root))
            else:
                others[ending or "no ending"] += 1
    if not found:
        what = ", ".join(f"{count} x {ending}" for ending, count in others.most_common(5)) or "no files at all"
        raise DataError(f"There are no images in {root}. Found {what}; expected files that end in {', '.join(EXTENSIONS)}.")
    return sorted(found, key=lambda file: Path(file).parts)


def _unreadable(error: OSError) -> None:
    raise DataError(f"The folder {error.filename} cannot be read ({error.strerror}): change its permissions or remove it.") from error


def _class_names(root: Path, files: Iterable[str], known: Sequence[str] | None) -> tuple[str, ...]:
    """The classes of a labelled folder: `known` ones, or the sorted names of its sub-folders."""
    layout = f"Expected one sub-folder per class: {root}/<class>/<image>."
    top = [file for file in files if len(Path(file).parts) == 1]
    if top:
        raise DataError(f"{len(top)} image(s) lie directly in {root} and have no class ({top[0]}). {layout}")
    names = sorted({Path(file).parts[0] for file in files})
    empty = sorted(d.name for d in root.iterdir() if d.is_dir() and not d.name.startswith(".") and d.name not in (*names, *JUNK))
    if empty:
        raise DataError(f"No images in the class folder(s) {', '.join(empty)} of {root}. Fill them or remove them.")
    if known is None:
        if len(names) < 2:
            raise DataError(f"{root} has one class only ({names[0]}); a classifier needs at least two. {layout}")
        return tuple(names)
    strange = sorted(set(names) - set(known))
    if strange:
        raise DataError(
            f"{root} has the class(es) {', '.join(strange)}, which are not among the known ones: {', '.join(known)}. "
            "Rename or remove these folders."
        )
    return tuple(known)
