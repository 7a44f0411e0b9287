"""Unpacking an archive that somebody else made.

Only plain files and folders come out, only below the target, only as much as allowed; anything else in the
archive refuses all of it, and nothing is left behind.
"""

import contextlib
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from trainer.errors import DataError, ZooError
from trainer.files import atomic_folder, explain

CHUNK = 2**20
"""Bytes that are read at once. A header that asks for more is a trap: no name is that long."""
LONGEST = 4096
"""Bytes of a path that Linux takes."""


@dataclass(frozen=True)
class ArchiveLimits:
    """How much may come out of an archive."""

    files: int = 2_000_000
    """Files and folders."""
    bytes: int = 2**40
    """Bytes of all files together."""


def extract(archive: Path | str, folder: Path | str, limits: ArchiveLimits = ArchiveLimits()) -> Path:
    """Unpack a tar (plain, gz, bz2 or xz) or zip into the new folder `folder`, which appears whole or not at all.

    Raises DataError when the archive is damaged, holds links, devices, encrypted files, names outside the folder or
    twice the same name, or goes beyond `limits`; CheckpointError when the folder exists or cannot be written.
    """
    archive = Path(archive)
    if not archive.is_file():
        raise DataError(f"There is no archive {archive}.")
    with atomic_folder(folder) as place, _explained(archive), archive.open("rb") as file:
        members = _zip_members(file, archive) if zipfile.is_zipfile(file) else _tar_members(file, archive, limits)
        _write(members, place, archive, limits)
    return Path(folder)


@contextlib.contextmanager
def _explained(archive: Path) -> Iterator[None]:
    """Whatever the libraries raise on damage as a DataError; what was explained already passes through."""
    try:
        yield
    except ZooError:
        raise
    except Exception as error:
        raise DataError(f"{archive} is a damaged archive, or none ({error or type(error).__name__}). Fetch it again.") from error


def _write(members: Iterator[tuple[str, int, IO[bytes] | None]], place: Path, archive: Path, limits: ArchiveLimits) -> None:
    """Write (name, size, content or None for a folder) below `place`."""
    total = 0
    for count, (name, size, content) in enumerate(members, 1):
        total += size
        if count > limits.files or total > limits.bytes:
            raise DataError(f"{archive} holds more than {limits.files:,} files or {limits.bytes:,} bytes, which is more than is unpacked.")
        target = place / _safe(name, archive)
        try:
            if content is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            output = target.open("xb")
        except (FileExistsError, NotADirectoryError) as error:
            raise DataError(f"{archive} holds {name!r} twice, as two files or as a file and a folder.") from error
        except OSError as error:
            raise explain(error, target) from error
        with output, content:
            left = size
            while left and (piece := content.read(min(left, CHUNK))):
                left -= len(piece)
                try:
                    output.write(piece)
                except OSError as error:
                    raise explain(error, target) from error
            if left:
                raise DataError(f"{archive} is cut off in the member {name!r}: {left:,} of {size:,} bytes are missing. Fetch it again.")


def _safe(name: str, archive: Path) -> PurePosixPath:
    """A member's name as a path below the target, or DataError."""
    path = PurePosixPath(name)
    try:
        long = len(name.encode()) > LONGEST
    except UnicodeEncodeError as error:
        raise DataError(f"{archive} holds {name!r}, whose name is not UTF-8. Pack it again with names in UTF-8.") from error
    tricks = path.is_absolute() or ".." in path.parts or "\\" in name or "\x00" in name or name[1:2] == ":"
    if tricks or long or (not path.parts and name not in (".", "./")):
        raise DataError(f"{archive} holds the member {name[:200]!r}, which would not lie below the folder that it is unpacked to. Do not trust it.")
    return path


def _tar_members(file: IO[bytes], archive: Path, limits: ArchiveLimits) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    guarded = _Guarded(_unpacked(file), archive, limits)
    with tarfile.open(fileobj=guarded, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
        for member in tar:
            if not (member.isreg() or member.isdir()) or member.issparse():
                kind = "a link" if member.issym() or member.islnk() else "a device, a pipe or a file with holes"
                raise DataError(f"{archive} holds {member.name!r}, which is {kind}; only plain files and folders are unpacked.")
            yield member.name, member.size if member.isreg() else 0, tar.extractfile(member) if member.isreg() else None
            tar.members.clear()  # else every header stays in memory
    if guarded.last.strip(b"\0") or len(guarded.last) < tarfile.BLOCKSIZE:  # tarfile itself takes any end for the end
        raise DataError(f"{archive} is cut off: its end mark is missing. Fetch it again.")
    while guarded.read(CHUNK):  # so that a checksum at the end of the compressed file is looked at
        guarded.seek(guarded.tell())


def _unpacked(file: IO[bytes]) -> IO[bytes]:
    """The tar inside, by the first bytes of the file."""
    import bz2
    import gzip
    import lzma

    file.seek(0)
    head = file.read(6)
    file.seek(0)
    for magic, opener in ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open)):
        if head.startswith(magic):
            return opener(file)
    return file


class _Guarded:
    """A file for `tarfile` that refuses to read very much at once or in all: long headers are read whole by it."""

    def __init__(self, file: IO[bytes], archive: Path, limits: ArchiveLimits) -> None:
        self.file, self.archive = file, archive
        self.end = limits.bytes + limits.files * 3 * tarfile.BLOCKSIZE  # contents, headers, padding
        self.last = b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= CHUNK:
            raise DataError(f"{self.archive} has a header of {size:,} bytes, which is a trap or damage. Do not trust it.")
        self.last = self.file.read(size)
        return self.last

    def seek(self, position: int) -> int:
        if position > self.end:
            raise DataError(f"{self.archive} goes on beyond {self.end:,} bytes, which is more than is unpacked.")
        return self.file.seek(position)

    def tell(self) -> int:
        return self.file.tell()


def _zip_members(file: IO[bytes], archive: Path) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    with zipfile.ZipFile(file) as packed:
        for info in packed.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or info.flag_bits & 1:
                raise DataError(f"{archive} holds {info.filename!r}, which is {'encrypted' if info.flag_bits & 1 else 'a link or a device'}; only plain files are unpacked.")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{archive} holds {info.filename!r} in an unusual compression. Pack it again as a plain zip or tar.")
            yield info.filename, 0 if info.is_dir() else info.file_size, None if info.is_dir() else packed.open(info)
