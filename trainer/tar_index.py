"""Where the members of a tar lie, so that any sample of it can be read on its own.

The naming is webdataset's: the key of a member is its path up to the first dot of the last part, the rest is its ending
(in lower case); members with the same key are one sample. Only headers are read; the result is kept in the cache folder
and made again when size or time of the tar change.
"""

import hashlib
import json
import os
import re
import tarfile
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from trainer.errors import CheckpointError, DataError
from trainer.files import write_bytes
from trainer.remote import cache_folder

FORMAT_VERSION = "1"
NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)", re.DOTALL)
LONGEST_HEADER = 2**20
"""Bytes that one read for a header may take; more is a trap, since no name is that long."""
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}


@dataclass(frozen=True)
class TarIndex:
    """The samples of one tar, in the order of their first members; M members of N samples."""

    size: int
    """Bytes of the tar."""
    modified: int
    """When it was changed, nanoseconds."""
    endings: tuple[str, ...]
    """All endings that occur."""
    keys: np.ndarray
    """All keys as UTF-8, one after another, uint8."""
    key_ends: np.ndarray
    """Where they end, (N,) int64."""
    member_ends: np.ndarray
    """Where each sample's members end in the arrays below, (N,) int64."""
    ending: np.ndarray
    """Number of a member's ending, (M,) int32."""
    offset: np.ndarray
    """Where its content begins in the tar, (M,) int64."""
    length: np.ndarray
    """Bytes of its content, (M,) int64."""

    def __len__(self) -> int:
        return len(self.key_ends)

    def key(self, sample: int) -> str:
        """The key of a sample."""
        begin = int(self.key_ends[sample - 1]) if sample else 0
        return self.keys[begin : int(self.key_ends[sample])].tobytes().decode()

    def members(self, sample: int) -> list[tuple[str, int, int]]:
        """(ending, offset, length) of each member of a sample."""
        begin, end = int(self.member_ends[sample - 1]) if sample else 0, int(self.member_ends[sample])
        part = slice(begin, end)
        names = [self.endings[i] for i in self.ending[part].tolist()]
        return list(zip(names, self.offset[part].tolist(), self.length[part].tolist()))

    def save(self, path: Path) -> None:
        """Write it as safetensors, atomically. CheckpointError when the disk does not take it."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        facts = {"format_version": FORMAT_VERSION, "size": str(self.size), "modified": str(self.modified), "endings": json.dumps(self.endings)}
        write_bytes(path, save(arrays, facts))

    @classmethod
    def load(cls, path: Path) -> "TarIndex | None":
        """What `save` wrote; None when it is not there, damaged or of another format."""
        try:
            with safe_open(path, "numpy") as file:
                facts = file.metadata()
                if facts["format_version"] != FORMAT_VERSION:
                    return None
                arrays = {name: file.get_tensor(name) for name in ARRAYS}
            return cls(int(facts["size"]), int(facts["modified"]), tuple(json.loads(facts["endings"])), **arrays)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None


ARRAYS = ("keys", "key_ends", "member_ends", "ending", "offset", "length")


def tar_index(path: Path) -> TarIndex:
    """The index of a tar: from the cache folder when it fits the file as it is now, else by reading the headers.

    Raises DataError as `scan` does. A cache folder that cannot be written only costs time.
    """
    state = _stat(path)
    cached = cache_folder() / "tar" / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:24]}.safetensors"
    index = TarIndex.load(cached)
    if index is None or (index.size, index.modified) != (state.st_size, state.st_mtime_ns):
        index = scan(path)
        try:
            index.save(cached)
        except CheckpointError:
            pass
    return index


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise DataError(f"The shard {path} cannot be read ({error.strerror}).") from error


def scan(path: Path) -> TarIndex:
    """Read all headers of a tar, not the contents.

    DataError names shard and member: damaged, cut off, compressed (no sample of it could be read on its own), links, devices,
    names outside the archive, names that are not UTF-8, the same member twice. Folders, hidden files and files without ending are no
    members of samples.
    """
    state, samples = _stat(path), {}
    endings: dict[str, int] = {}
    offsets, lengths, kinds, owners = array("q"), array("q"), array("i"), array("q")
    seen: set[tuple[int, int]] = set()
    for member in _members(path):
        found = NAME.fullmatch(checked_name(member, path))
        if not found or not member.isreg():
            continue
        if member.offset_data + member.size > state.st_size:
            raise DataError(f"The shard {path} is cut off in the member {member.name!r}: {state.st_size:,} bytes are there. Fetch it again.")
        sample = samples.setdefault(found[1], len(samples))
        kind = endings.setdefault(found[2].lower(), len(endings))
        if (sample, kind) in seen:
            raise DataError(f"The shard {path} holds the member {member.name!r} twice. Pack it again with one name for each.")
        seen.add((sample, kind))
        for values, value in ((offsets, member.offset_data), (lengths, member.size), (kinds, kind), (owners, sample)):
            values.append(value)
    owner = np.array(owners, np.int64)
    by_sample = np.argsort(owner, kind="stable")  # members of a sample need not follow one another
    names = [key.encode() for key in samples]
    return TarIndex(
        size=state.st_size,
        modified=state.st_mtime_ns,
        endings=tuple(endings),
        keys=np.frombuffer(b"".join(names), np.uint8),
        key_ends=np.cumsum([len(name) for name in names], dtype=np.int64),
        member_ends=np.cumsum(np.bincount(owner, minlength=len(samples)), dtype=np.int64),
        ending=np.array(kinds, np.int32)[by_sample],
        offset=np.array(offsets, np.int64)[by_sample],
        length=np.array(lengths, np.int64)[by_sample],
    )


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    """The headers of a plain tar; damage becomes DataError."""
    last = "its first header"
    try:
        with open(path, "rb") as file:
            head = file.read(tarfile.BLOCKSIZE)
            for magic, name in COMPRESSED.items():
                if head.startswith(magic):
                    raise DataError(f"The shard {path} is compressed ({name}); samples are read at any place, which needs a plain tar. Unpack it to .tar.")
            if not head:
                raise DataError(f"The shard {path} is empty (0 bytes). Fetch it again or remove it.")
            file.seek(0)
            with tarfile.open(fileobj=_Guarded(file), mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
                for member in tar:
                    last = f"the member {member.name!r}"
                    if member.size < 0:
                        raise ValueError(f"a size of {member.size}")
                    yield member
                    tar.members.clear()  # else every header stays in memory
                # tarfile takes garbage, and nothing at all, for the end
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise DataError(f"The shard {path} is cut off or damaged after {last}: neither a header nor the end of a tar follows. Fetch it again.")
    except OSError as error:
        raise DataError(f"The shard {path} cannot be read ({error.strerror or error}).") from error
    except (tarfile.TarError, ValueError, EOFError, ArithmeticError) as error:
        raise DataError(f"The shard {path} is damaged, or no tar, after {last} ({error or type(error).__name__}). Fetch it again.") from error


class _Guarded:
    """A file for `tarfile` that refuses to read very much at once: it reads long headers whole."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= LONGEST_HEADER:
            raise ValueError(f"a header of {size:,} bytes")
        return self.file.read(size)


def checked_name(member: tarfile.TarInfo, path: Path) -> str:
    """The name of a member, or DataError when it is a link or a device, or its name is a trick."""
    name, parts = member.name, member.name.split("/")
    shown = f"The shard {path} holds the member {name[:200]!r}"
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise DataError(f"{shown}, which is a link, a device or a file with holes; a shard may hold only plain files.")
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise DataError(f"{shown}, whose name leads outside the archive. Do not trust it.")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{shown}, whose name is not UTF-8. Pack it again with names in UTF-8.") from error
    return name.removeprefix("./")
