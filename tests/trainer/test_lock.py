"""One run per folder, and nothing locked that nobody uses."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from trainer.errors import CheckpointError, ConfigError
from trainer.lock import NAME, locked

HOLD = """
import os, sys, time
from pathlib import Path
from trainer.lock import locked
with locked(Path(sys.argv[1])):
    worker = os.fork()  # as a loader's workers are
    if worker:
        print(worker, flush=True)
    time.sleep(60)
"""
TRY = """
import sys
from pathlib import Path
from trainer.errors import ZooError
from trainer.lock import locked
try:
    with locked(Path(sys.argv[1])):
        print("free")
except ZooError as error:
    print(error)
"""
COUNT = """
import sys, time
from pathlib import Path
from trainer.errors import ConfigError
from trainer.lock import locked
folder, counter, done = Path(sys.argv[1]), Path(sys.argv[2]), 0
while done < 200:
    try:
        with locked(folder):
            before = int(counter.read_text())
            time.sleep(0)
            counter.write_text(str(before + 1))
            done += 1
    except ConfigError:
        pass
"""


def start(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)


def attempt(folder):
    """What another process gets when it tries."""
    return start(TRY, folder).communicate(timeout=30)[0].strip()


@contextmanager
def holder(folder):
    """(process that holds the lock, its worker's process id)"""
    process = start(HOLD, folder)
    worker = int(process.stdout.readline())
    try:
        yield process, worker
    finally:
        for pid in (process.pid, worker):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.communicate(timeout=30)


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path):
    with holder(tmp_path / "run") as (process, _):
        with pytest.raises(ConfigError, match=rf"in use by another run \(process {process.pid} on {socket.gethostname()}, since 20.*Wait for it, stop it"):
            with locked(tmp_path / "run"):
                pass
        assert "in use" in attempt(tmp_path / "run")  # being refused freed nothing
        with locked(tmp_path / "other"):
            pass


def test_killed_holder_frees_it_at_once_though_its_workers_live(tmp_path):
    with holder(tmp_path) as (process, worker):
        process.kill()
        process.wait(30)
        assert (tmp_path / NAME).exists()
        with locked(tmp_path):
            os.kill(worker, 0)  # alive
            assert "in use" in attempt(tmp_path)
        assert attempt(tmp_path) == "free"


def test_the_same_process_may_enter_again(tmp_path):
    with locked(tmp_path):
        with pytest.raises(RuntimeError), locked(tmp_path / ".." / tmp_path.name):
            raise RuntimeError
        message = attempt(tmp_path)
        assert f"process {os.getpid()} on" in message
    assert attempt(tmp_path) == "free" and not list(tmp_path.iterdir())


def test_never_two_at_once(tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("0")
    for process in [start(COUNT, tmp_path / "run", counter) for _ in range(2)]:
        process.communicate(timeout=60)
    assert counter.read_text() == "400"


def test_whatever_an_old_lock_file_says(tmp_path):
    (tmp_path / NAME).write_text("not JSON")
    with locked(tmp_path):
        pass
    (tmp_path / NAME).write_text('{"pid": 1}')
    with holder(tmp_path):
        (tmp_path / NAME).write_text("[]")
        assert "its lock file does not say which" in attempt(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(CheckpointError, match="Cannot write .*file"), locked(folder):
            pass

    def refuse(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(CheckpointError, match="may not be written to. Choose another folder"), locked(tmp_path):
        pass
    monkeypatch.undo()
    with locked(tmp_path):
        pass


def test_a_folder_removed_while_it_is_locked(tmp_path):
    with locked(tmp_path / "run"):
        (tmp_path / "run" / NAME).unlink()
        (tmp_path / "run").rmdir()
    with locked(tmp_path / "run"):
        pass


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog):
    def lockf(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    code = errno.ENOSYS
    with locked(tmp_path):
        assert "without locks" in caplog.text
    code = errno.EIO
    with pytest.raises(CheckpointError, match="Input/output error"), locked(tmp_path):
        pass
