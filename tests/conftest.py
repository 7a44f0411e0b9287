"""Shared test helpers: no network, no surprises from the user's environment."""

import logging
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: more threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

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
def full_disk():
    """`full_disk(bytes)`: until the test ends, files may not grow beyond so many bytes (the process's own limit, as a full disk)."""
    import resource
    import signal

    previous = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, previous[1]))
    signal.signal(signal.SIGXFSZ, handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """The limit of `full_disk` ends before pytest writes what became of the test: its own output may be a long file."""
    if "full_disk" not in item.fixturenames:
        return (yield)
    import resource

    previous = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        return (yield)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, previous)
