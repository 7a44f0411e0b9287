"""Writing files so that nothing is ever half there, and reading small ones with a clear error.

A folder is written under a temporary name beside its target, synced, and renamed. Beside, not in /tmp:
a rename is atomic only within one file system.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from trainer.errors import CheckpointError, shorten

TEMPORARY = ".tmp-"
"""Prefix of unfinished files and folders; whoever lists a folder skips these names."""
JSON_LIMIT = 16 * 2**20
"""Largest JSON file that is read, in bytes."""


@contextlib.contextmanager
def atomic_folder(target: Path | str, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes `target` when the block ends without an error.

    `replace` allows `target` to exist: it is moved aside, and removed only after the new one is in place.
    Raises CheckpointError when the target exists (without `replace`) or cannot be written; the temporary
    folder is removed whatever happens, also on Ctrl-C.
    """
    target = Path(target)
    if target.exists() and not replace and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target} exists already. Choose another folder, or remove it first.")
    temporary = target.parent / f"{TEMPORARY}{target.name}-{uuid.uuid4().hex[:8]}"
    with _explained(target):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            sync_folder(temporary)
            aside = None
            if target.exists():
                aside = target.parent / f"{TEMPORARY}{target.name}-{uuid.uuid4().hex[:8]}"
                target.rename(aside)
            temporary.rename(target)
            sync(target.parent)
            if aside is not None:
                shutil.rmtree(aside, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def carry_over(old: Path, new: Path, replaced: Callable[[str], bool]) -> None:
    """Copy into a `new` folder what lies in the `old` one whose place it takes, but for names that it has itself or that are `replaced`."""
    for path in old.iterdir() if old.is_dir() else ():
        if not (new / path.name).exists() and not replaced(path.name):
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, new / path.name)


def write_text(path: Path | str, text: str) -> None:
    """Write a text file atomically (temporary file beside it, sync, rename)."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write a file atomically, as `write_text`."""
    with atomic_file(path) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_file(target: Path | str) -> Iterator[BinaryIO]:
    """Yield a file to write that becomes `target`, replacing it, when the block ends without an error.

    Raises CheckpointError when it cannot be written; the temporary file is removed whatever happens.
    """
    target = Path(target)
    temporary = target.parent / f"{TEMPORARY}{target.name}-{uuid.uuid4().hex[:8]}"
    with _explained(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                yield file
            sync(temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path | str, values: Any) -> None:
    """Write JSON atomically. Non-finite numbers are refused: other readers do not take them."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file, or raise CheckpointError that names it and says what is wrong."""
    with open_regular(path) as file:
        data = file.read(JSON_LIMIT + 1)
    return parse_json(data, str(path))


def open_regular(path: Path | str) -> BinaryIO:
    """Open a file to read its bytes. CheckpointError when it is missing, may not be read, or is a folder, pipe or device (which could block for ever)."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise CheckpointError(f"{path} is a {'folder' if stat.S_ISDIR(mode) else 'pipe or device'}; expected a file.")
        return open(path, "rb")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing.") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise CheckpointError(f"Cannot read {path}: {getattr(error, 'strerror', None) or error}.") from error


def parse_json(data: bytes, where: str) -> Any:
    """JSON text as values. CheckpointError, led by `where`, for what JSON leaves open and readers answer differently.

    Refused are a name that stands twice in one object (which value counts?), NaN, infinite or too large numbers,
    nesting deeper than Python reads, and more than `JSON_LIMIT` bytes (a few bytes of text can take fifty of memory).
    """
    if len(data) > JSON_LIMIT:
        raise CheckpointError(f"{where} holds more than {JSON_LIMIT:,} bytes of JSON, far more than any config. Fetch or export it again.")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_each_once, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError as error:
        raise CheckpointError(f"{where} is JSON nested too deeply to be read. Fetch or export it again.") from error
    except ValueError as error:  # also UnicodeDecodeError, JSONDecodeError, numbers of thousands of digits
        raise CheckpointError(f"{where} is not valid JSON ({error}). Fetch or export it again.") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))
        raise ValueError(f"the name {shorten(twice)} stands twice in one object")
    return values


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {shorten(text)} is too large")
    return value


def sha256_of(path: Path | str) -> str:
    """Hexadecimal sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_leftovers(folder: Path) -> None:
    """Remove unfinished temporary files and folders that a killed process left in `folder`."""
    for path in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def explain(error: OSError, target: Path | str) -> CheckpointError:
    """An operating-system error in the project's words: what failed, where, what to do."""
    reasons = {
        errno.ENOSPC: "the disk is full. Free some space or choose another disk, then run the command again",
        errno.EDQUOT: "your disk quota is used up. Free some space or choose another disk, then run the command again",
        errno.EACCES: "this folder may not be written to. Choose another folder or change its permissions",
        errno.EPERM: "this folder may not be written to. Choose another folder or change its permissions",
        errno.EROFS: "this file system is read-only. Choose another folder",
        errno.ENOENT: "its folder was removed while it was in use. Run the command again",
        errno.ENOTDIR: "a part of this path is a file, not a folder. Choose another folder",
    }
    reason = reasons.get(error.errno or 0, f"{error.strerror or error}")
    folder = Path(target).parent
    if folder.name.startswith(TEMPORARY):  # name the folder that was to appear, not the one that was made for it
        target = folder.parent / folder.name.removeprefix(TEMPORARY).rpartition("-")[0]
    return CheckpointError(f"Cannot write {target}: {reason}. Nothing half-written was left behind.")


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise explain(error, target) from error


def sync_folder(folder: Path) -> None:
    """Flush a folder and everything in it to the disk; its files become readable for others."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            path.chmod(0o644)  # some libraries write files that only their owner can read
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
