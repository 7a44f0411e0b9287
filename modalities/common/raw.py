"""Samples as the files that they are stored in, in every format that is read: for packing, checking and showing."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modalities.common.folders import TEST_FOLDERS, TRAIN_FOLDER, is_table, train_and_test
from modalities.common.sources import LABEL, FolderSource
from trainer.decoders import decode
from trainer.errors import ConfigError, DataError
from trainer.files import sha256_of
from trainer.packing import Seen
from trainer.shards import Shard, Shards, find_shards, is_shards
from trainer.sources import FileTable
from trainer.tar_index import scan

FEW = 100_000
"""Samples whose labels are read one by one."""


def _one(path: Path) -> list[Path]:
    return [path]


def read_file(path: Path) -> dict[str, bytes]:
    """Ending and content of one file."""
    return {path.suffix.removeprefix(".").lower(): path.read_bytes()}


@dataclass(frozen=True)
class Kind:
    """What a modality's samples are as files."""

    modality: str
    """Its name."""
    what: str
    """What such files are, in words."""
    endings: tuple[str, ...]
    """How they may end, without the dot."""
    look: Callable[[bytes, str], tuple[str, tuple[int, ...]]]
    """(content, what errors call it) -> kind of file and shape, the whole decoded. DataError when it is damaged."""
    picture: Callable[[bytes, str], Any]
    """(content, what errors call it) -> what `sheet` draws."""
    sheet: Callable[[list[Any], list[str] | None, Path, str], Any]
    """(pictures, of which None cannot be read, captions, path, title): draw them."""
    folder: type[FolderSource]
    """The modality's source of such files in a folder."""
    table: type[FolderSource]
    """The same of a table."""
    preprocess: Any
    """Any preprocessing, for those sources."""
    files: Callable[[Path], list[Path]] = _one
    """The files that a sample on the disk consists of."""
    load: Callable[[Path], dict[str, bytes]] = read_file
    """A sample on the disk -> ending and content of the file that it is packed as."""
    accepts: Callable[[bytes, str], bool] | None = None
    """(content, what errors call it) -> whether a file could be of this kind, where the ending does not say it."""


class RawSamples(ABC):
    """What the formats share; see `trainer.packing.RawData`."""

    kind: Kind
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

    def fits(self) -> bool:
        """Whether the first sample has a file of the kind, or cannot be read."""
        try:
            members = self.members(0)
        except DataError:
            return True
        found = [ending for ending in members if ending.rpartition(".")[2] in self.kind.endings]
        accepts = self.kind.accepts
        return bool(found) and (accepts is None or accepts(members[found[0]], self.where(0, found[0])))

    def problems(self) -> dict[str, str]:
        """What is wrong beside single samples: nothing, unless a format says otherwise."""
        return {}

    @property
    def modality(self) -> str:
        """Whose samples they are."""
        return self.kind.modality

    def check(self, index: int) -> Seen:
        """Decode the sample as training does, and everything else that has a meaning."""
        members = self.members(index)
        ending = self._content(index, members)
        form, sides = self.kind.look(members[ending], self.where(index, ending))
        if "cls" in members:
            self._class(index, members["cls"])
        return Seen(form, sides, sum(map(len, members.values())))

    def draw(self, indices: Sequence[int], path: Path, title: str) -> None:
        """A sheet of samples with their classes; what cannot be read is grey."""
        pictures, captions = [], []
        for index in indices:
            try:
                members = self.members(index)
                ending = self._content(index, members)
                pictures.append(self.kind.picture(members[ending], self.where(index, ending)))
                label = self.label(index)
                captions.append("" if label is None else self.classes[label] if self.classes else str(label))
            except DataError:
                pictures.append(None)
                captions.append("cannot be read")
        self.kind.sheet(pictures, captions if any(captions) else None, path, title)

    def class_counts(self) -> list[int] | None:
        """Samples of each class; None without classes, or when there are very many labels to be read."""
        if not self.classes or len(self) > FEW:
            return None
        counts = Counter(self.label(i) for i in range(len(self)))
        return [counts[i] for i in range(len(self.classes))]

    def _content(self, index: int, members: dict[str, bytes]) -> str:
        """The ending of the one member that is the sample itself."""
        kind = self.kind
        found = [ending for ending in members if ending.rpartition(".")[2] in kind.endings]
        if len(found) != 1:
            raise DataError(f"{self.id(index)} has {len(found)} {kind.what} ({', '.join(members) or 'no files'}); expected one that ends in {', '.join(kind.endings)}.")
        return found[0]

    def _class(self, index: int, content: bytes) -> int:
        number = decode("cls", content, self.where(index, "cls"))
        if self.classes and number >= len(self.classes):
            raise DataError(f"{self.where(index, 'cls')} is class {number}, and there are {len(self.classes)}, counted from 0.")
        return number


class RawFiles(RawSamples):
    """Files on this disk: those of a folder or of a table."""

    def __init__(self, kind: Kind, source: FolderSource, form: str) -> None:
        self.kind, self.source, self.format = kind, source, form
        self.name, self.classes = source.name, source.classes

    def __len__(self) -> int:
        return len(self.source)

    def id(self, index: int) -> str:
        return self.source.id(index)

    def where(self, index: int, ending: str) -> str:
        return str(self.source.item(index))

    def stamp(self, index: int) -> str:
        try:
            states = [path.stat() for path in self.kind.files(self.source.item(index))]
        except OSError as error:
            raise DataError(f"{self.source.item(index)} cannot be read ({error.strerror}).") from error
        return " ".join(f"{state.st_size} {state.st_mtime_ns}" for state in states)

    def members(self, index: int) -> dict[str, bytes]:
        path, label = self.source.item(index), self.label(index)
        try:
            content = self.kind.load(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}).") from error
        return content if label is None else {**content, "cls": str(label).encode()}

    def label(self, index: int) -> int | None:
        return None if self.source.labels is None else int(self.source.labels[index])


class RawShards(RawSamples):
    """Samples in tars, with an index or without."""

    format = "tar shards"

    def __init__(self, kind: Kind, path: str) -> None:
        """DataError when there are no shards, or none of them can be read."""
        self.kind, self.path = kind, path
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

    def fits(self) -> bool:
        return any(ending.rpartition(".")[2] in self.kind.endings for ending in self.shards.endings(0)) and super().fits()

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


def open_raw(kind: Kind, path: str, labelled: bool = True, classes: Sequence[str] | None = None) -> RawSamples:
    """What a path or URL names: shards, a table, or a folder of files.

    With `labelled`, the classes are `classes`, those of the shards or the table, or class folders: when all files lie in two or
    more sub-folders. DataError when there is no such file.
    """
    if is_shards(path):
        return RawShards(kind, path)
    if is_table(path):
        known = LABEL in FileTable(path).columns
        return RawFiles(kind, kind.table(path, kind.preprocess, labelled and known, classes), f"table of {kind.table.noun} files")
    source = kind.folder(path, kind.preprocess, labelled=False)
    tops = {Path(file).parts[0] for file in source.files}
    if labelled and (classes or (len(tops) > 1 and all(len(Path(file).parts) > 1 for file in source.files))):
        return RawFiles(kind, kind.folder(path, kind.preprocess, classes=classes), "folder of class folders")
    return RawFiles(kind, source, f"folder of {kind.folder.noun}s")


def parts_of(path: str, labelled: bool, built_in: Sequence[str], what: str, opened: Callable[..., RawSamples]) -> dict[str, RawSamples]:
    """What lies at a path or URL, as files: {"": everything}, or the parts of a folder by their names ("train", "val").

    All parts number their classes as "train" does; without `labelled` sub-folders mean nothing. DataError when there is
    nothing of a known format.
    """
    if path in built_in:
        raise ConfigError(f"{path!r} is built in: it consists of no files.")
    train, _ = train_and_test(path, built_in, what)
    if train == path:
        return {"": opened(path, labelled)}
    first = opened(train, labelled)
    others = [name for name in TEST_FOLDERS if (Path(path) / name).is_dir()]
    known = {"labelled": bool(first.classes), "classes": first.classes or None}
    return {TRAIN_FOLDER: first, **{name: opened(str(Path(path) / name), **known) for name in others}}
