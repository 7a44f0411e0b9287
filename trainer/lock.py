"""One run per folder: a lock that the operating system drops when its process ends, however it ends."""

import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from trainer.errors import ConfigError
from trainer.files import explain

NAME = ".lock"
"""File in the run folder while a run goes on. A killed process leaves it behind, which means nothing: the lock is gone."""

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems without locks answer (some network ones)."""

log = logging.getLogger("zoo")

_held: dict[Path, int] = {}
"""Folders that this process has locked, and how many times."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder, made if it is not there. ConfigError names who holds it already.

    A POSIX record lock, not flock: loader workers, which are forked, do not inherit it, so nothing is left locked
    when the process is killed. It works over NFS too. The same process may enter again.
    """
    folder = folder.resolve()
    if folder in _held:
        _held[folder] += 1
        try:
            yield
        finally:
            _held[folder] -= 1
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _take(folder)
    except OSError as error:
        raise explain(error, folder) from error
    _held[folder] = 1
    try:
        yield
    finally:
        del _held[folder]
        (folder / NAME).unlink(missing_ok=True)
        os.close(descriptor)  # which drops the lock


def _take(folder: Path) -> int:
    """The descriptor of the lock file, locked, with our name in it."""
    while True:
        descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                raise ConfigError(f"{folder} is in use by another run ({_holder(descriptor)}). Wait for it, stop it, or choose another folder.") from error
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                log.warning("%s lies on a file system without locks: see to it that no second run uses this folder.", folder)
            try:
                same = os.stat(folder / NAME).st_ino == os.fstat(descriptor).st_ino
            except FileNotFoundError:
                same = False
            if same:
                facts = {"host": socket.gethostname(), "pid": os.getpid(), "since": datetime.now().isoformat(timespec="seconds")}
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(facts).encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed the file as we opened it: the next one may be ours


def _holder(descriptor: int) -> str:
    try:
        facts = json.loads(os.pread(descriptor, 1000, 0))
        return f"process {facts['pid']} on {facts['host']}, since {facts['since']}"
    except (ValueError, KeyError, TypeError):
        return "its lock file does not say which"
