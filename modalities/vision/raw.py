"""Pictures as the files that they are stored in, in every format that is read: for packing, checking and showing."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from modalities.common.folders import is_table
from modalities.common.sources import LABEL
from modalities.vision.files import ENDINGS, ImageTable
from modalities.vision.images import read_image, to_eight_bit, to_tensor
from modalities.vision.pictures import contact_sheet
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.sources import ImageFolder
from trainer.decoders import decode
from trainer.errors import DataError
from trainer.files import sha256_of
from trainer.image_files import opened
from trainer.packing import Seen
from trainer.shards import Shard, Shards, find_shards, is_shards
from trainer.sources import FileTable
from trainer.tar_index import scan

SIDE = 160
"""Pictures of different sizes are fitted into squares of this side for a sheet."""
FEW = 100_000
"""Samples whose labels are read one by one."""


class RawPictures(ABC):
    """What the formats share; see `trainer.packing.RawData`."""

    modality = "vision"
    format: str
    name: str
    classes: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def id(self, index: int) -> str:
        """What errors and quarantine lists call a sample."""

    @abstractmethod
    def stamp(self, index: int) -> str:
        """Changes when the sample's files are changed."""

    @abstractmethod
    def members(self, index: int) -> dict[str, bytes]:
        """Ending -> content of its files, the number of its class as "cls"."""

    @abstractmethod
    def label(self, index: int) -> int | None:
        """Number of the sample's class, or None."""

    def where(self, index: int, ending: str) -> str:
        """A member as errors name it."""
        return self.id(index)

    def problems(self) -> dict[str, str]:
        """What is wrong beside single samples: nothing, unless a format says otherwise."""
        return {}

    def check(self, index: int) -> Seen:
        """Decode the picture as training does, and everything else that has a meaning."""
        members = self.members(index)
        ending = self._picture(index, members)
        with opened(members[ending], self.where(index, ending)) as image:
            form, (width, height) = f"{image.format} {image.mode}", image.size
            read_image(image, 3, self.where(index, ending))
        if "cls" in members:
            self._class(index, members["cls"])
        return Seen(form, (height, width), sum(map(len, members.values())))

    def class_counts(self) -> list[int] | None:
        """Samples of each class; None without classes, or when there are very many labels to be read."""
        if not self.classes or len(self) > FEW:
            return None
        counts = Counter(self.label(i) for i in range(len(self)))
        return [counts[i] for i in range(len(self.classes))]

    def draw(self, indices: Sequence[int], path: Path, title: str) -> None:
        """A contact sheet; what cannot be read is grey."""
        pictures, captions = [], []
        for index in indices:
            try:
                members = self.members(index)
                ending = self._picture(index, members)
                pictures.append(to_eight_bit(read_image(members[ending], 3, self.where(index, ending))))
                label = self.label(index)
                captions.append("" if label is None else self.classes[label] if self.classes else str(label))
            except DataError:
                pictures.append(None)
                captions.append("cannot be read")
        contact_sheet(_same_size(pictures), captions if any(captions) else None, path, title)

    def _picture(self, index: int, members: dict[str, bytes]) -> str:
        """The ending of the one picture among the members."""
        found = [ending for ending in members if ending.rpartition(".")[2] in ENDINGS]
        if len(found) != 1:
            raise DataError(f"{self.id(index)} has {len(found)} pictures ({', '.join(members) or 'no files'}); expected one that ends in {', '.join(ENDINGS)}.")
        return found[0]

    def _class(self, index: int, content: bytes) -> int:
        number = decode("cls", content, self.where(index, "cls"))
        if self.classes and number >= len(self.classes):
            raise DataError(f"{self.where(index, 'cls')} is class {number}, and there are {len(self.classes)}, counted from 0.")
        return number


def open_raw(path: str, labelled: bool = True, classes: Sequence[str] | None = None) -> RawPictures:
    """What a path or URL names: shards, a table, or a folder of image files.

    With `labelled`, the classes are `classes`, those of the shards or the table, or class folders: when all images lie in two or
    more sub-folders. DataError when there is no image.
    """
    if is_shards(path):
        return RawShards(path)
    plain = ImagePreprocess.default(SIDE)
    if is_table(path):
        known = LABEL in FileTable(path).columns
        return RawFiles(ImageTable(path, plain, labelled and known, classes), "table of image files")
    source = ImageFolder(path, plain, labelled=False)
    tops = {Path(file).parts[0] for file in source.files}
    if labelled and (classes or (len(tops) > 1 and all(len(Path(file).parts) > 1 for file in source.files))):
        return RawFiles(ImageFolder(path, plain, classes=classes), "folder of class folders")
    return RawFiles(source, "folder of images")


class RawFiles(RawPictures):
    """Image files on this disk: those of a folder or of a table."""

    def __init__(self, source: ImageFolder, form: str) -> None:
        self.source, self.format = source, form
        self.name, self.classes = source.name, source.classes

    def __len__(self) -> int:
        return len(self.source)

    def id(self, index: int) -> str:
        return self.source.id(index)

    def where(self, index: int, ending: str) -> str:
        return str(self.source.item(index))

    def stamp(self, index: int) -> str:
        try:
            state = self.source.item(index).stat()
        except OSError as error:
            raise DataError(f"{self.source.item(index)} cannot be read ({error.strerror}).") from error
        return f"{state.st_size} {state.st_mtime_ns}"

    def members(self, index: int) -> dict[str, bytes]:
        path, label = self.source.item(index), self.label(index)
        try:
            picture = {path.suffix.removeprefix(".").lower(): path.read_bytes()}
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}).") from error
        return picture if label is None else {**picture, "cls": str(label).encode()}

    def label(self, index: int) -> int | None:
        return None if self.source.labels is None else int(self.source.labels[index])


class RawShards(RawPictures):
    """Samples in tars, with an index or without."""

    format = "tar shards"

    def __init__(self, path: str) -> None:
        """DataError when there are no shards, or none of them can be read."""
        self.path = path
        self.all, about = find_shards(path)
        self.damaged: dict[str, str] = {}
        """Name of a shard -> what is wrong with it as a whole."""
        sound = [shard for shard in self.all if self._sound(shard)]
        if not sound:
            raise DataError(f"None of the {len(self.all)} shards of {path} can be read. {next(iter(self.damaged.values()), '')}")
        self.shards = Shards([shard.name for shard in sound])
        self.name = str(about.get("name") or Path(path).name)
        self.classes = tuple(map(str, about.get("classes", ())))
        self.counts: list[int] | None = about.get("class_counts")

    def _sound(self, shard: Shard) -> bool:
        if "://" in shard.name:
            return True
        try:
            count = len(scan(Path(shard.name)))
            if shard.samples not in (None, count):
                raise DataError(f"The shard {shard.name} has {count:,} samples, and its index says {shard.samples:,}. Fetch or pack it again.")
        except DataError as error:
            self.damaged[shard.title] = str(error)
        return shard.title not in self.damaged

    def __len__(self) -> int:
        return len(self.shards)

    def id(self, index: int) -> str:
        return self.shards.id(index)

    def where(self, index: int, ending: str) -> str:
        return self.shards.where(index, ending)

    def stamp(self, index: int) -> str:
        return " ".join(f"{ending} {len(content)}" for ending, content in self.shards.read(index).items())

    def members(self, index: int) -> dict[str, bytes]:
        return self.shards.read(index)

    def label(self, index: int) -> int | None:
        content = self.shards.read(index, ("cls",))
        return self._class(index, content["cls"]) if content else None

    def class_counts(self) -> list[int] | None:
        return self.counts if self.counts is not None else super().class_counts()

    def problems(self) -> dict[str, str]:
        wrong = dict(self.damaged)
        for shard in self.all:
            if shard.title not in wrong and shard.sha256 is not None and "://" not in shard.name and sha256_of(shard.name) != shard.sha256:
                wrong[shard.title] = f"{shard.name} has another sha256 than its index says: it was changed or damaged. Fetch or pack it again."
        return wrong


def _same_size(pictures: Sequence[Image.Image | None]) -> Tensor:
    """Pictures as (B, 3, H, W) in 0..1: as they are when all have one size, else each within a square on white; missing ones are NaN."""
    sizes = {picture.size for picture in pictures if picture is not None}
    size = next(iter(sizes)) if len(sizes) == 1 else (SIDE, SIDE)
    tensors = []
    for picture in pictures:
        if picture is None:
            tensors.append(torch.full((3, size[1], size[0]), torch.nan))
            continue
        if picture.size != size:
            scale = min(SIDE / picture.width, SIDE / picture.height)
            fitted = picture.resize((max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)), Image.Resampling.LANCZOS)
            picture = Image.new("RGB", size, "white")
            picture.paste(fitted, ((SIDE - fitted.width) // 2, (SIDE - fitted.height) // 2))
        tensors.append(to_tensor(picture))
    return torch.stack(tensors)
