"""Pictures in other places than a folder: tar shards, and tables that name image files."""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from modalities.vision.images import Encoded
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.sources import ImageFolder, ImageSource
from trainer.decoders import decode
from trainer.errors import ConfigError, DataError, did_you_mean, shorten
from trainer.image_files import EXTENSIONS
from trainer.mixture import Mixture, MixtureConfig
from trainer.order import Order, ShardShuffle, full_shuffle
from trainer.remote import scheme
from trainer.shards import Shards, is_shards
from trainer.sources import TABLES, FileTable

ENDINGS = tuple(ending.removeprefix(".") for ending in EXTENSIONS)
LABEL = "label"
"""Column of a table with the class."""


def open_images(
    path: str | Path, preprocess: ImagePreprocess, labelled: bool = True, classes: Sequence[str] | None = None, columns: Sequence[str] = ()
) -> ImageSource:
    """The pictures that a path or URL names: shards, a table (.csv, .tsv, .jsonl), or a folder with image files. DataError when they are not as expected.

    `columns` of a table hold several labels per picture, a yes or no each; ConfigError where there is no table.
    """
    path = str(path)
    if columns:
        if is_shards(path) or not is_table(path):
            raise ConfigError(f"data.label_columns are columns of a table (.csv, .tsv, .jsonl), and {path} is none.")
        return ImageFindings(path, preprocess, columns)
    if is_shards(path):
        return ImageShards(path, preprocess, labelled, classes)
    if is_table(path):
        return ImageTable(path, preprocess, labelled, classes)
    return ImageFolder(path, preprocess, labelled, classes)


def is_table(path: str) -> bool:
    """Whether a path or URL names a table of files."""
    return path.endswith(TABLES) and (scheme(path) != "" or not Path(path).is_dir())


class ImageShards(ImageSource):
    """Pictures in tars: each sample has one member that is an image and, when labelled, `cls` with the number of its class.

    Names of the classes come from `classes`, else from the shards' index, else they are the numbers. Raises DataError when labels are asked for
    and a sample has none, or one beyond the classes.
    """

    def __init__(self, path: str, preprocess: ImagePreprocess, labelled: bool = True, classes: Sequence[str] | None = None) -> None:
        self.shards, self.preprocess = Shards(path), preprocess
        self.name = str(self.shards.about.get("name") or _stem(path))
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
        pictures = self.shards.read(place, [e for e in self.shards.endings(place) if e.rpartition(".")[2] in ENDINGS])
        if len(pictures) != 1:
            found = ", ".join(self.shards.endings(place))
            raise DataError(f"{self.shards.where(place, '*')} has {len(pictures)} pictures ({found}); expected one that ends in {', '.join(ENDINGS)}.")
        ending, content = next(iter(pictures.items()))
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


class ImageTable(ImageFolder):
    """Image files that a table names in its column `path`; when labelled, `label` is the name of the class, as in a class folder."""

    def __init__(self, path: str, preprocess: ImagePreprocess, labelled: bool = True, classes: Sequence[str] | None = None) -> None:
        self.table, self.preprocess = FileTable(path), preprocess
        self.name, self.files = _stem(path), self.table.files
        self.rows = np.arange(len(self.table))
        """Which rows of the table these are, (N,)."""
        if labelled:
            if LABEL not in self.table.columns:
                raise DataError(f"{path} has no column {LABEL!r} with the class of each picture, only {', '.join(('path', *self.table.columns))}.")
            found = [str(label) for label in self.table.columns[LABEL]]
            self.classes = tuple(classes) if classes is not None else tuple(sorted(set(found)))
            strange = sorted(set(found) - set(self.classes))
            if strange or len(self.classes) < 2:
                why = f"the class(es) {', '.join(strange)}, which are not among the known ones: {', '.join(self.classes)}" if strange else "one class only"
                raise DataError(f"{path} has {why}.")
            number = {name: i for i, name in enumerate(self.classes)}
            self.labels = torch.tensor([number[label] for label in found])

    def item(self, index: int) -> Path:
        return self.table.path(int(self.rows[index]))

    def take(self, indices: Sequence[int]) -> Self:
        part = super().take(indices)
        part.rows = self.rows[np.asarray(indices, np.int64)]
        return part

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "source": "image files of the user, named by a table"}


class ImageFindings(ImageTable):
    """Image files that a table names, with several labels each: a column per label with 1 (true, yes) or 0 (false, no).

    An empty cell, null, NaN or -1 ("uncertain") is a label that is not known. `labels` is (N, K) float32 with NaN there, `classes` the columns.
    """

    def __init__(self, path: str, preprocess: ImagePreprocess, columns: Sequence[str]) -> None:
        super().__init__(path, preprocess, labelled=False)
        known = self.table.columns
        lacking = [name for name in columns if name not in known]
        if lacking:
            raise DataError(f"{path} has no column {lacking[0]!r}.{did_you_mean(lacking[0], known)} Columns: {', '.join(known)}.")
        self.classes = tuple(columns)
        rows = zip(*(known[name] for name in columns))
        self.labels = torch.tensor([[_yes_or_no(cell, path, number, name) for cell, name in zip(row, columns)] for number, row in enumerate(rows, 1)])
        for name, column in zip(columns, self.labels.T):
            if column.isnan().all():
                raise DataError(f"The column {name!r} of {path} says of no picture whether it is so. Fill it, or leave it out of data.label_columns.")


YES_OR_NO = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), 1.0),
    **dict.fromkeys(("0", "0.0", "false", "no"), 0.0),
    **dict.fromkeys(("", "none", "null", "nan", "na", "-1", "-1.0"), math.nan),
}
"""What a cell may hold, in small letters."""


def _yes_or_no(cell: Any, path: str, number: int, column: str) -> float:
    """1, 0, or NaN where it is not known."""
    value = YES_OR_NO.get(str(cell).strip().lower())
    if value is None:
        raise DataError(f"Row {number} of {path} has {shorten(cell)} in the column {column!r}; expected 1, 0, or nothing (or -1) where it is not known.")
    return value


class ImageMixture(Mixture):
    """Several sets of pictures without labels as one. What any of them holds out is held out."""

    def __init__(self, parts: Sequence[ImageSource], config: MixtureConfig = MixtureConfig()) -> None:
        names: dict[str, ImageSource] = {}
        for part in parts:
            names[part.name if part.name not in names else f"{part.name}-{len(names) + 1}"] = part
        super().__init__(names, config)
        self.name, self.preprocess, self.classes, self.labels = " + ".join(names), parts[0].preprocess, (), None
        held_out = [part.held_out for part in parts if part.held_out is not None]
        self.held_out = ImageMixture(held_out) if held_out else None


def _stem(path: str) -> str:
    """What a set is called after its path: the folder of an index, else the file without braces and ending."""
    place = Path(path if scheme(path) else Path(path).expanduser().resolve())
    name = place.parent.name if place.suffix == ".json" else place.name
    return name.partition("{")[0].partition(".")[0].rstrip("-_") or place.parent.name
