"""From samples in any format to tars with an index: atomically, in parallel, and going on where a stopped run ended.

A modality offers its formats as `RawData`. Files are copied as they are. Each tar is written under a temporary name,
synced and renamed; what is complete is noted in a journal, and the index comes last.
"""

import hashlib
import io
import json
import logging
import re
import tarfile
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from trainer.errors import ConfigError, DataError
from trainer.files import atomic_file, explain, read_json, remove_leftovers, sha256_of
from trainer.lock import locked
from trainer.progress import in_threads, progress
from trainer.shards import INDEX, JOURNAL, LARGEST, Shard, write_index

VERSION = 1
"""Of the naming and contents of shards; shards of another version are not gone on with."""
STEM = 60
"""Characters of a file's own name that its key keeps; with number and ending that stays below the 100 of a plain tar header."""

log = logging.getLogger("zoo")


class Seen(NamedTuple):
    """What decoding a sample showed."""

    form: str
    """Kind of file, in words: "JPEG RGB"."""
    sides: tuple[int, ...]
    """Its shape."""
    bytes: int
    """Size of its files."""


class RawData(Protocol):
    """Samples as the files that they are stored in, whatever the format: what can be packed, checked and shown."""

    modality: str
    format: str
    """In words, as in "folder of class folders"."""
    name: str
    classes: tuple[str, ...]
    """Names of the classes; empty without labels."""

    def __len__(self) -> int: ...

    def id(self, index: int) -> str:
        """What errors and quarantine lists call a sample."""

    def stamp(self, index: int) -> str:
        """Changes when the sample's files are changed."""

    def members(self, index: int) -> dict[str, bytes]:
        """Ending -> content of the sample's files, the number of its class as "cls". DataError when they cannot be read."""

    def fits(self) -> bool:
        """Whether the first sample has a file of the modality: tars do not say what they hold."""

    def check(self, index: int) -> Seen:
        """Decode the whole sample. DataError that names the file (or shard, key and member) when that fails."""

    def problems(self) -> dict[str, str]:
        """What is wrong beside single samples (a damaged shard): id -> reason. May read everything."""

    def class_counts(self) -> list[int] | None:
        """Samples of each class; None when that would take reading very much."""

    def draw(self, indices: Sequence[int], path: Path, title: str) -> None:
        """Draw samples with their labels."""


@dataclass(frozen=True)
class PackConfig:
    """How samples are laid into tars."""

    samples_per_shard: int = 1000
    """Samples in a tar; the last has fewer. Tars of 100 MB to 1 GB are good for reading over a network."""
    seed: int = 0
    """Decides the order of the samples."""
    in_order: bool = False
    """Keep the stored order. By default it is shuffled, so that each tar is a fair sample: folders are sorted by class."""
    workers: int = 4
    """Threads."""

    def __post_init__(self) -> None:
        if self.samples_per_shard < 1 or self.workers < 1:
            raise ConfigError(f"samples_per_shard and workers must be at least 1, found {self.samples_per_shard} and {self.workers}.")
        if self.in_order and self.seed:
            raise ConfigError("The seed decides the order, and in_order keeps the stored one. Leave one of them out.")


def pack(data: RawData, to: Path | str, config: PackConfig = PackConfig(), exclude: Collection[str] = ()) -> Path:
    """Write the samples, without those whose ids are in `exclude`, as tars and `index.json` to the folder `to`.

    Run again after a stop, it verifies the tars that are complete (size and sha256, and that their samples have not
    changed) and writes the others. Raises ConfigError when the folder holds other things, DataError when a sample cannot
    be read, CheckpointError when the disk does not take them.
    """
    to = Path(to)
    order = [i for i in _order(len(data), config) if not exclude or data.id(i) not in exclude]
    if not order:
        raise DataError(f"Nothing is left of {data.name} to be packed: {len(data):,} samples, all left out.")
    plan = _plan(data, order, config)
    with locked(to):
        _require_place(to, plan)
        remove_leftovers(to)
        journal = _Journal(to, plan)
        spans = [range(begin, min(begin + config.samples_per_shard, len(order))) for begin in range(0, len(order), config.samples_per_shard)]
        digits = max(5, len(str(len(spans) - 1)))

        def make(number: int) -> tuple[Shard, bool]:
            name, span = f"shard-{number:0{digits}d}.tar", spans[number]
            stamp = _stamp(data, [order[i] for i in span])
            kept = journal.complete(name, stamp)
            if kept is not None:
                return kept, True
            (to / INDEX).unlink(missing_ok=True)  # of an earlier packing: it comes last again
            shard = _write(data, order, span, to / name)
            journal.note(shard, stamp)
            return shard, False

        shards, kept = [], 0
        with progress(f"packing {data.name}", len(order)) as advance:
            for shard, known in in_threads(make, range(len(spans)), config.workers):
                shards.append(shard)
                kept += known
                advance(shard.samples)
        if kept:
            log.info("%d of %d shards were complete and are kept", kept, len(spans))
        counts = {"class_counts": data.class_counts()} if data.classes and len(order) == len(data) else {}
        about = {"modality": data.modality, "name": data.name, "samples": len(order), "bytes": sum(s.size for s in shards), "plan": plan}
        write_index(to, shards, {**about, **({"classes": list(data.classes)} if data.classes else {}), **counts})
    return to


def _order(samples: int, config: PackConfig) -> list[int]:
    return list(range(samples)) if config.in_order else np.random.default_rng(config.seed).permutation(samples).tolist()


def _plan(data: RawData, order: Sequence[int], config: PackConfig) -> str:
    """A fingerprint of which sample goes where."""
    digest = hashlib.sha256(json.dumps([VERSION, data.modality, config.samples_per_shard, data.classes]).encode())
    for index in order:
        digest.update(data.id(index).encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def _stamp(data: RawData, indices: Sequence[int]) -> str:
    return hashlib.sha256("\0".join(data.stamp(i) for i in indices).encode()).hexdigest()


def _require_place(to: Path, plan: str) -> None:
    """ConfigError unless the folder is empty or holds a part of the same packing."""
    content = [p.name for p in to.iterdir() if p.name != ".lock"]
    if INDEX in content and read_json(to / INDEX).get("plan") != plan:
        raise ConfigError(f"{to} holds shards of other data, or packed in another way. Choose another folder.")
    if content and not {INDEX, JOURNAL} & set(content):
        raise ConfigError(f"{to} holds other things ({content[0]}). Choose a new folder.")


class _Journal:
    """Which shards of a plan are complete. A line that a kill cut short, or another plan, counts as nothing."""

    def __init__(self, folder: Path, plan: str) -> None:
        """The first line is the plan, each other one a shard."""
        self.folder, self.path, self.lock = folder, folder / JOURNAL, threading.Lock()
        self.known: dict[str, dict[str, Any]] = {}
        lines = list(self._lines())
        if lines and lines[0].get("plan") not in (plan, None):
            raise ConfigError(f"{folder} holds a part of other data, or packed in another way. Choose another folder, or remove it.")
        self.known = {line["name"]: line for line in lines if "name" in line}
        if not lines:
            self._append({"plan": plan})

    def complete(self, name: str, stamp: str) -> Shard | None:
        """The shard, when it is there as noted and its samples have not changed since."""
        line, path = self.known.get(name), self.folder / name
        if line is None or line["stamp"] != stamp or not path.is_file() or path.stat().st_size != line["size"]:
            return None
        return Shard(name, line["samples"], line["size"], line["sha256"]) if sha256_of(path) == line["sha256"] else None

    def note(self, shard: Shard, stamp: str) -> None:
        """Add a shard that was renamed to its place."""
        self._append({**asdict(shard), "stamp": stamp})

    def _lines(self) -> Iterator[dict[str, Any]]:
        for line in self.path.read_bytes().splitlines() if self.path.exists() else ():
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def _append(self, values: dict[str, Any]) -> None:
        try:
            with self.lock, open(self.path, "ab") as file:
                file.write(b"\n" * (file.tell() > 0) + json.dumps(values).encode())  # the break first: a line cut short harms only itself
        except OSError as error:
            raise explain(error, self.path) from error


def _write(data: RawData, order: Sequence[int], span: range, path: Path) -> Shard:
    """Write one tar; samples that cannot be read are a DataError, and nothing is left."""
    with atomic_file(path) as file:
        counted = _Hashed(file)
        with tarfile.open(fileobj=counted, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for position in span:
                key = sample_key(position, data.id(order[position]))
                for ending, content in data.members(order[position]).items():
                    if len(content) > LARGEST:
                        raise DataError(f"{data.id(order[position])} has {len(content):,} bytes; at most {LARGEST:,} are read from a tar. Cut it into smaller samples.")
                    info = tarfile.TarInfo(f"{key}.{ending}")  # no time, no owner: the same samples give the same bytes
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return Shard(path.name, len(span), counted.size, counted.digest.hexdigest())


def sample_key(position: int, name: str) -> str:
    """What a sample is called in a tar: its number, which sorts, and what is left of its own name. ASCII, no dots."""
    stem = name.rpartition("/")[2].rpartition("#")[2]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", stem.rpartition(".")[0] or stem)[:STEM]
    return f"{position:09d}-{stem}"


class _Hashed:
    """A file that is hashed and counted as it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size, self.digest = file, 0, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self.file.write(data)

    def tell(self) -> int:
        return self.size


def check(data: RawData, workers: int, found: Callable[[Seen], None] | None = None) -> dict[str, str]:
    """Decode every sample: id -> what is wrong. `found` is told of each that is fine."""

    def look(index: int) -> tuple[int, Seen | DataError]:
        try:
            return index, data.check(index)
        except DataError as error:
            return index, error

    wrong = data.problems()
    with progress(f"checking {data.name}", len(data)) as advance:
        for index, seen in in_threads(look, range(len(data)), workers):
            if isinstance(seen, DataError):
                wrong[data.id(index)] = str(seen)
            elif found is not None:
                found(seen)
            advance(1)
    return wrong
