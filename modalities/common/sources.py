"""Where samples come from that may be labelled: folders and tables of files, and tars. A modality says which files, and what becomes of them.

A sample is {key: the model's input} and, when the set has labels, "label": () int64.
"""

import copy
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from modalities.common.folders import PARTS, class_names
from trainer.corrupt import read_quarantine
from trainer.decoders import decode
from trainer.errors import DataError
from trainer.order import Order, ShardShuffle, full_shuffle
from trainer.remote import scheme
from trainer.shards import Shards
from trainer.sources import FileTable

LABEL = "label"
"""Column of a table with the class."""

L = TypeVar("L", bound="LabelledSource")


class Encoded(bytes):
    """The content of a file, with what errors call it."""

    def __new__(cls, content: bytes, where: str) -> "Encoded":
        self = super().__new__(cls, content)
        self.where = where
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Encoded, (bytes(self), self.where)


class LabelledSource(ABC):
    """What all sets of samples share that may be labelled. A subclass gives `name`, `__len__`, `item`, `take` and `describe`."""

    name: str
    """What the set is called in logs and cards."""
    in_memory = False
    preprocess: Any
    """What makes the model's input of a raw sample: `transform`."""
    key: str
    """The batch entry that holds the input."""
    label_key = "label"
    """The batch entry that holds the labels."""
    classes: tuple[str, ...] = ()
    """Names of the classes; a label is an index into it. Empty without labels."""
    labels: Tensor | None = None
    """(N,) int64; with several labels per sample (N, K) float32, see `modalities.common.findings`; or None."""
    held_out: "LabelledSource | None" = None
    """Of a training set: the samples that are kept back to measure on, without augmentation."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def item(self, index: int) -> Any:
        """The raw sample (a path, the content of a file, uint8 pixels), before any transform."""

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
        """One sample, its input made by `transform`, or what else that makes of it, by name (several crops)."""
        made = transform(self.item(index))
        sample = made if isinstance(made, dict) else {self.key: made}
        if self.labels is not None:
            sample["label"] = self.labels[index]
        return sample


class FolderSource(LabelledSource):
    """Files below a folder, in sorted order; hidden files are skipped.

    With `labelled`, the direct sub-folders are the classes, as in ImageNet: `root/<class>/.../file`. Their
    sorted names are numbered, or `classes` fixes names and numbers (a trained classifier's, say). Without it,
    all files at any depth are taken and labels do not exist. Raises DataError when the folder is not like this.
    """

    noun = "image"
    """What a file is, in words."""

    def __init__(
        self, root: Path | str, preprocess: Any, labelled: bool = True, classes: Sequence[str] | None = None
    ) -> None:
        self.root, self.preprocess = Path(root), preprocess
        full = self.root.resolve()
        self.name = full.parent.name if full.name in PARTS else full.name
        self.files = self.find(self.root)
        """Paths relative to root."""
        if labelled:
            self.classes = class_names(self.root, self.files, classes, self.noun)
            number = {name: i for i, name in enumerate(self.classes)}
            self.labels = torch.tensor([number[Path(file).parts[0]] for file in self.files])

    @abstractmethod
    def find(self, root: Path) -> list[str]:
        """The files below a folder, as sorted paths relative to it. DataError when there are none."""

    def __len__(self) -> int:
        return len(self.files)

    def item(self, index: int) -> Path:
        return self.root / self.files[index]

    def id(self, index: int) -> str:
        return Path(self.files[index]).as_posix()

    def take(self, indices: Sequence[int]) -> Self:
        part = copy.copy(self)
        part.files = [self.files[i] for i in indices]
        part.labels = None if self.labels is None else self.labels[index_tensor(indices)]
        return part

    def describe(self) -> dict[str, Any]:
        facts = {"name": self.name, "samples": len(self), "source": f"{self.noun} files in a folder of the user"}
        return {**facts, "classes": len(self.classes)} if self.classes else facts


class TableSource(FolderSource):
    """Files that a table names in its column `path`; when labelled, `label` is the name of the class, as in a class folder."""

    def __init__(self, path: str, preprocess: Any, labelled: bool = True, classes: Sequence[str] | None = None) -> None:
        self.table, self.preprocess = FileTable(path), preprocess
        self.name, self.files = stem_of(path), self.table.files
        self.chosen = np.arange(len(self.table))
        """Which rows of the table these are, (N,)."""
        if labelled:
            if LABEL not in self.table.columns:
                raise DataError(f"{path} has no column {LABEL!r} with the class of each {self.noun}, only {', '.join(('path', *self.table.columns))}.")
            cells = self.table.columns[LABEL]
            empty = next((row for row, cell in enumerate(cells, 1) if cell is None or cell == ""), None)
            if empty is not None:
                raise DataError(f"Row {empty} of {path} has no {LABEL}. Fill it, or take the row out.")
            found = [str(cell) for cell in cells]
            self.classes = tuple(classes) if classes is not None else tuple(sorted(set(found)))
            strange = sorted(set(found) - set(self.classes))
            if strange or len(self.classes) < 2:
                why = f"the class(es) {', '.join(strange)}, which are not among the known ones: {', '.join(self.classes)}" if strange else "one class only"
                raise DataError(f"{path} has {why}.")
            number = {name: i for i, name in enumerate(self.classes)}
            self.labels = torch.tensor([number[label] for label in found])

    def item(self, index: int) -> Path:
        return self.table.path(int(self.chosen[index]))

    def take(self, indices: Sequence[int]) -> Self:
        part = super().take(indices)
        part.chosen = self.chosen[np.asarray(indices, np.int64)]
        return part

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "source": f"{self.noun} files of the user, named by a table"}


class ShardSource(LabelledSource):
    """Samples in tars: each has one member with one of `endings` and, when labelled, `cls` with the number of its class.

    Names of the classes come from `classes`, else from the shards' index, else they are the numbers. Raises DataError when labels are asked for
    and a sample has none, or one beyond the classes.
    """

    endings: tuple[str, ...]
    """What the member that is the sample may end in."""
    noun: str
    """What such members are, in words."""

    def __init__(self, path: str, preprocess: Any, labelled: bool = True, classes: Sequence[str] | None = None) -> None:
        self.shards, self.preprocess = Shards(path), preprocess
        self.name = str(self.shards.about.get("name") or stem_of(path))
        self.chosen = np.arange(len(self.shards))
        """Which samples of the shards these are, (N,)."""
        if labelled:
            numbers = [self._label(i) for i in range(len(self.shards))]
            known = classes if classes is not None else self.shards.about.get("classes")
            self.classes = tuple(map(str, known)) if known else tuple(map(str, range(max(numbers, default=-1) + 1)))
            if numbers and max(numbers) >= len(self.classes):
                worst = numbers.index(max(numbers))
                raise DataError(f"{self.shards.where(worst, 'cls')} is class {max(numbers)}, and there are {len(self.classes)}, counted from 0.")
            if len(self.classes) < 2:
                raise DataError(f"{path} has {len(self.classes)} class(es); a classifier needs at least two.")
            self.labels = torch.tensor(numbers)

    def __len__(self) -> int:
        return len(self.chosen)

    def item(self, index: int) -> Encoded:
        place = int(self.chosen[index])
        found_members = self.shards.read(place, [e for e in self.shards.endings(place) if e.rpartition(".")[2] in self.endings])
        if len(found_members) != 1:
            found = ", ".join(self.shards.endings(place))
            raise DataError(f"{self.shards.where(place, '*')} has {len(found_members)} {self.noun} ({found}); expected one that ends in {', '.join(self.endings)}.")
        ending, content = next(iter(found_members.items()))
        return Encoded(content, self.shards.where(place, ending))

    def id(self, index: int) -> str:
        return self.shards.id(int(self.chosen[index]))

    def order(self, seed: int, epoch: int) -> Order:
        """The order of one epoch: that of the shards, also when only some samples are taken from them."""
        if self.shards.shuffle == "full" or (np.diff(self.chosen) < 0).any():
            return full_shuffle(len(self), seed, epoch)
        counts = np.diff(np.searchsorted(self.chosen, self.shards.ends), prepend=0)
        return ShardShuffle(counts, seed, epoch, self.shards.buffer)

    def take(self, indices: Sequence[int]) -> Self:
        part, chosen = copy.copy(self), np.asarray(indices, np.int64)
        part.chosen = self.chosen[chosen]
        part.labels = None if self.labels is None else self.labels[torch.from_numpy(chosen)]
        return part

    def describe(self) -> dict[str, Any]:
        facts = {"name": self.name, "samples": len(self), "source": f"{len(self.shards.shards)} tar shard(s) of the user"}
        return {**facts, "classes": len(self.classes)} if self.classes else facts

    def _label(self, index: int) -> int:
        content = self.shards.read(index, ("cls",))
        if not content:
            raise DataError(f"{self.shards.where(index, 'cls')} is missing: the sample has no label, only {', '.join(self.shards.endings(index))}.")
        return decode("cls", content["cls"], self.shards.where(index, "cls"))


class Augmented(LabelledSource):
    """Another source with a random transform. It has no `fetch`: samples are drawn one by one, each with its own seed."""

    def __init__(self, source: LabelledSource, augment: Callable[[Any], Tensor | dict[str, Tensor]]) -> None:
        self.source, self.augment = source, augment
        self.preprocess, self.in_memory, self.name, self.key = source.preprocess, source.in_memory, source.name, source.key
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


def index_tensor(indices: Sequence[int]) -> Tensor:
    """Indices for a tensor, also none."""
    return torch.as_tensor(indices, dtype=torch.long)


def stem_of(path: str) -> str:
    """What a set is called after its path: the folder of an index, else the file without braces and ending."""
    place = Path(path if scheme(path) else Path(path).expanduser().resolve())
    name = place.parent.name if place.suffix == ".json" else place.name
    return name.partition("{")[0].partition(".")[0].rstrip("-_") or place.parent.name


def some_of(source: LabelledSource, count: int) -> list[int]:
    """The first, the last and `count` random indices, the same ones each time: what is read to see whether the data are sound."""
    chosen = random.Random(0).sample(range(len(source)), min(count, len(source)))
    return sorted({0, len(source) - 1, *chosen})


def without_excluded(source: L, exclude: Path | str, path: Path | str, root: Path | str) -> L:
    """The source at `path` without the samples of the list `exclude`, whose ids are as seen from `root`. What lies outside of `root` stays.

    DataError when nothing of the list is there at all.
    """
    if Path(path) != Path(root) and Path(root) not in Path(path).parents:
        return source
    listed, folder = read_quarantine(exclude), Path(path).relative_to(root)
    names = [(folder / source.id(i)).as_posix() for i in range(len(source))]
    if listed and listed.isdisjoint(names) and not any((Path(root) / name).exists() for name in listed):
        raise DataError(f"{exclude} leaves out {min(listed)!r}, and nothing that it names is in {root}. Is it the list of other data?")
    return source.take([i for i, name in enumerate(names) if name not in listed])
