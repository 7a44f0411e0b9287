"""Shared test helpers: no network, no surprises from the user's environment."""

import logging
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import pytest


@pytest.fixture(autouse=True)
def quiet():
    """Our log lines are not part of a test's output."""
    logging.getLogger("zoo").setLevel(logging.WARNING)
    yield


@pytest.fixture
def local_hub(tmp_path):
    """A Hub of this machine's own, to which huggingface_hub in this process is led; its cache is tmp_path/home/hub."""
    from zoo.testing import LocalHub

    with LocalHub(tmp_path / "local-hub") as hub, hub.in_this_process(tmp_path / "home"):
        yield hub


@pytest.fixture
def impatient(monkeypatch):
    """huggingface_hub repeats what failed without waiting in between."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.fixture
def full_disk(tmp_path_factory, monkeypatch):
    """`full_disk(bytes)`: from now on, files may not grow beyond so many bytes (the process's own limit, as a full disk)."""
    import resource
    import signal

    previous = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, previous[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, previous)
    signal.signal(signal.SIGXFSZ, handler)
