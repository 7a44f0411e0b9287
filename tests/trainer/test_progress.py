import io
import threading
import time

import pytest
from rich.console import Console

from trainer.progress import in_threads, progress


def test_plain_lines_without_a_terminal():
    out = io.StringIO()
    with progress("packing", 20, Console(file=out, width=40), seconds=0) as advance:
        for _ in range(20):
            advance(1)
    lines = out.getvalue().splitlines()
    assert len(lines) == 20 and lines[4].startswith("packing  5/20  ") and lines[4].endswith("left") and "done in" in lines[-1]


def test_a_bar_on_a_terminal():
    out = io.StringIO()
    with progress("packing", 3, Console(file=out, width=100, force_terminal=True)) as advance:
        advance(3)
    assert "3/3" in out.getvalue() and "samples/s" in out.getvalue()


def test_threads_keep_the_order_and_are_never_far_ahead():
    begun = []

    def slow(item):
        begun.append(item)
        time.sleep(0.01 * (item % 3))
        return item

    results = in_threads(slow, iter(range(30)), 2)
    assert next(results) == 0 and len(begun) <= 5
    assert list(results) == list(range(1, 30))


def test_after_an_error_nothing_new_is_begun():
    begun, lock = [], threading.Lock()

    def fail(item):
        with lock:
            begun.append(item)
        if item == 3:
            raise ValueError("three")
        return item

    with pytest.raises(ValueError, match="three"):
        list(in_threads(fail, range(1000), 2))
    assert len(begun) < 20
