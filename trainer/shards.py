"""Samples in tars (webdataset's naming), each read on its own: nothing that is skipped is read or decoded.

A set of shards is named by a folder with tars, by an `index.json` (see `write_index`), or by paths or URLs with braces, as in
`photos-{000..127}.tar`. How many samples each tar has comes from the index, or from its headers, which are read once.
Since any sample can be read from any process, shards are not dealt out: there may be fewer of them than readers.
"""

import logging
import os
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trainer.errors import ConfigError, DataError, ZooError
from trainer.files import read_json, write_json
from trainer.order import BUFFER, Order, ShardShuffle, full_shuffle
from trainer.remote import expand, join, local_copy, parent, scheme
from trainer.tar_index import TarIndex, tar_index

INDEX = "index.json"
"""File beside the tars that says what they hold."""
JOURNAL = ".packing.jsonl"
"""File that `trainer.packing` keeps beside the tars. Without an index beside it, packing has not ended."""
FORMAT_VERSION = 1
BESIDE = (".json", ".txt", ".md", ".csv", ".tsv")
"""What may lie beside tars that are shards; beside anything else they are taken for downloads."""
OPEN = 128
"""Shards that a process keeps open, with where their members lie."""
LARGEST = 2**30
"""Bytes of one member that are read; a larger one is a trap or no sample."""

log = logging.getLogger("zoo")


@dataclass(frozen=True)
class Shard:
    """One tar of a set."""

    name: str
    """Path or URL; in an index, relative to it."""
    samples: int | None = None
    """How many it holds, when that is known without reading it."""
    size: int | None = None
    """Bytes."""
    sha256: str | None = None
    """Hexadecimal."""

    @property
    def title(self) -> str:
        """The last part of the name."""
        return self.name.rpartition("/")[2]


def write_index(folder: Path | str, shards: Sequence[Shard], about: dict[str, Any] | None = None) -> None:
    """Write `index.json` for the tars in `folder`: names relative to it, samples, sizes, sha256, and facts `about` the set."""
    rows = [asdict(shard) for shard in shards]
    write_json(Path(folder) / INDEX, {**(about or {}), "format_version": FORMAT_VERSION, "shards": rows})


def read_index(name: str) -> tuple[list[Shard], dict[str, Any]]:
    """The shards of an `index.json` (path or URL), their names made absolute or relative to here, and what else it says. DataError when it is no such file."""
    content = _json(name)
    rows = content.get("shards") if isinstance(content, dict) else None
    if not isinstance(rows, list) or content.get("format_version") != FORMAT_VERSION:
        raise DataError(f"{name} is no index of shards: expected an object with format_version {FORMAT_VERSION} and a list `shards`. Make it anew, or name the tars themselves.")
    shards = []
    for row in rows:
        kinds = {"name": str, "samples": int, "size": int, "sha256": str}
        if not isinstance(row, dict) or row.keys() != kinds.keys() or any(type(row[k]) is not kind for k, kind in kinds.items()):
            raise DataError(f"{name} holds the entry {str(row)[:200]}; expected name, samples, size and sha256 of each shard.")
        if scheme(row["name"]) or row["name"].startswith("/") or ".." in row["name"].split("/") or row["samples"] < 0 or row["size"] < 0:
            raise DataError(f"{name} names the shard {row['name']!r} of {row['samples']} samples; expected a tar in its own folder. Do not trust it.")
        shards.append(Shard(join(parent(name), row["name"]), row["samples"], row["size"], row["sha256"]))
    return shards, {k: v for k, v in content.items() if k not in ("shards", "format_version")}


def _json(name: str) -> Any:
    try:
        return read_json(local_copy(name))
    except ZooError as error:
        raise DataError(f"The index of shards cannot be read: {error}") from error


def is_shards(path: str) -> bool:
    """Whether a path or URL names shards: tars (braces allowed), an index, or a folder with tars and an index, or with tars and nothing but text."""
    folder = Path(path).expanduser()
    if scheme(path) or not folder.is_dir():
        return path.endswith((".tar", INDEX))
    seen = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    plain = all(entry.is_file() and entry.suffix in (".tar", *BESIDE) for entry in seen)
    return any(entry.suffix == ".tar" for entry in seen) and (plain or (folder / INDEX).is_file())


def find_shards(path: str | Sequence[str]) -> tuple[list[Shard], dict[str, Any]]:
    """The shards that a path or URL (or several) names, in order, and what their index says of them. DataError when there are none."""
    if not isinstance(path, str):
        found = [find_shards(p) for p in path]
        return [shard for shards, _ in found for shard in shards], found[0][1] if found else {}
    folder = Path(path).expanduser()
    if scheme(path) == "" and folder.is_dir():
        if (folder / INDEX).is_file():
            return read_index(str(folder / INDEX))
        if (folder / JOURNAL).exists():
            raise DataError(f"{folder} was not packed to the end: its {INDEX} is missing. Run the same `zoo pack` again, which goes on where it stopped.")
        tars = sorted(str(tar) for tar in folder.glob("*.tar") if not tar.name.startswith("."))
        if not tars:
            raise DataError(f"There are no shards in {folder}. Expected files that end in .tar, or {INDEX}.")
        return [Shard(tar) for tar in tars], {}
    if path.endswith(".json"):
        return read_index(path)
    names = expand(path)
    beside = join(parent(names[0]), INDEX)
    if not scheme(path) and Path(beside).expanduser().is_file():
        shards, about = read_index(beside)
        known = {shard.title: shard for shard in shards}
        if all(name.rpartition("/")[2] in known and parent(name) == parent(names[0]) for name in names):
            return [known[name.rpartition("/")[2]] for name in names], about
    return [Shard(name) for name in names], {}


class Shards:
    """Random access to the samples of a set of tars. A modality's source makes tensors of what `read` gives."""

    def __init__(self, path: str | Sequence[str], shuffle: Literal["shards", "full"] = "shards", buffer: int = BUFFER) -> None:
        """`shuffle`: mix shards, and the samples of neighbouring ones (see `ShardShuffle`), or all samples (reads all over the disk).

        DataError when there are no shards or one is damaged, ConfigError for a URL of another kind. Remote shards without an index are all
        fetched now.
        """
        if shuffle not in ("shards", "full") or buffer < 1:
            raise ConfigError(f"shuffle must be shards or full and buffer at least 1, found {shuffle!r} and {buffer}.")
        self.shards, self.about = find_shards(path)
        self.shuffle, self.buffer = shuffle, buffer
        self.path = path if isinstance(path, str) else path[0]
        unknown = [shard for shard in self.shards if shard.samples is None]
        if any(scheme(shard.name) for shard in unknown):
            log.info("Fetching %d shard(s) of %s to count their samples; an %s beside them would save that", len(unknown), self.path, INDEX)
        self.counts = np.array([self._count(shard) for shard in self.shards], np.int64)
        """Samples of each shard, (S,) int64."""
        self.ends = np.cumsum(self.counts)
        self._open: OrderedDict[int, tuple[int, TarIndex]] = OrderedDict()

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def __del__(self) -> None:
        for descriptor, _ in self.__dict__.get("_open", {}).values():
            os.close(descriptor)

    def order(self, seed: int, epoch: int) -> Order:
        """The order of one epoch."""
        if self.shuffle == "full":
            return full_shuffle(len(self), seed, epoch)
        return ShardShuffle(self.counts, seed, epoch, self.buffer)

    def id(self, index: int) -> str:
        """`shard.tar#key`."""
        number, sample = self._place(index)
        return f"{self.shards[number].title}#{self._opened(number)[1].key(sample)}"

    def endings(self, index: int) -> list[str]:
        """The endings of a sample's members."""
        number, sample = self._place(index)
        return [ending for ending, _, _ in self._opened(number)[1].members(sample)]

    def read(self, index: int, wanted: Collection[str] | None = None) -> dict[str, bytes]:
        """Ending -> content of a sample's members, of all or of those with a `wanted` ending. DataError when the tar cannot be read there."""
        number, sample = self._place(index)
        descriptor, places = self._opened(number)
        members = {}
        for ending, offset, length in places.members(sample):
            if wanted is not None and ending not in wanted:
                continue
            if length > LARGEST:
                raise DataError(f"{self.where(index, ending)} has {length:,} bytes; at most {LARGEST:,} are read. Cut it into smaller samples.")
            try:
                content = os.pread(descriptor, length, offset)
            except OSError as error:
                raise DataError(f"{self.where(index, ending)} cannot be read ({error.strerror}).") from error
            if len(content) != length:
                raise DataError(f"{self.where(index, ending)} is cut off: {len(content):,} of {length:,} bytes. The tar was changed while it was in use.")
            members[ending] = content
        return members

    def where(self, index: int, ending: str) -> str:
        """A member in words: shard, key and member."""
        number, sample = self._place(index)
        return f"{self.shards[number].name}: {self._opened(number)[1].key(sample)}.{ending}"

    def describe(self) -> dict[str, Any]:
        """Facts for logs and cards."""
        return {"samples": len(self), "shards": len(self.shards)}

    def _place(self, index: int) -> tuple[int, int]:
        """(shard, sample in it) of an index."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = int(np.searchsorted(self.ends, index, side="right"))
        return number, index - int(self.ends[number] - self.counts[number])

    def _opened(self, number: int) -> tuple[int, TarIndex]:
        """A shard's file descriptor and where its members lie."""
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        shard = self.shards[number]
        path = local_copy(shard.name, shard.size, shard.sha256)
        places = tar_index(path)
        if len(places) != self.counts[number] or shard.size not in (None, places.size):
            raise DataError(
                f"{shard.name} has {len(places):,} samples in {places.size:,} bytes, expected {self.counts[number]:,} samples"
                f"{'' if shard.size is None else f' in {shard.size:,} bytes'}. It has changed since it was counted: put it back, or make its {INDEX} anew."
            )
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"The shard {path} cannot be read ({error.strerror}).") from error
        self._open[number] = descriptor, places
        if len(self._open) > OPEN:
            os.close(self._open.popitem(last=False)[1][0])
        return descriptor, places

    def _count(self, shard: Shard) -> int:
        return shard.samples if shard.samples is not None else len(tar_index(local_copy(shard.name)))
