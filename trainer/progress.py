"""How far a long job over many samples is: a moving bar on a terminal, else a plain line now and then. And threads for the job."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from trainer.logs import clock

SECONDS = 15.0
"""Between two plain lines."""
In, Out = TypeVar("In"), TypeVar("Out")


class _Rate(ProgressColumn):
    """Samples per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.completed / task.elapsed:,.0f} samples/s" if task.elapsed else "")


@contextlib.contextmanager
def progress(what: str, total: int, console: Console | None = None, seconds: float = SECONDS) -> Iterator[Callable[[int], None]]:
    """Yield `advance(count)`, to be called from one thread as samples get done. Shows what is done, the rate and the time left, on stderr."""
    console = console or Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=None), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        with Progress(*columns, console=console, expand=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda count: bar.advance(task, count)
        return
    began = printed = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, printed
        done += count
        now = time.monotonic()
        if now - printed >= seconds and done < total:
            printed = now
            left = clock((now - began) / done * (total - done)) if done else "unknown time"
            console.print(f"{what}  {done:,}/{total:,}  {done / (now - began):,.0f} samples/s  {left} left", highlight=False, markup=False, soft_wrap=True)

    yield advance
    if done:
        spent = time.monotonic() - began
        console.print(f"{what}  {done:,}/{total:,}  {done / max(spent, 1e-9):,.0f} samples/s  done in {clock(spent)}", highlight=False, markup=False, soft_wrap=True)


def in_threads(function: Callable[[In], Out], items: Iterable[In], workers: int) -> Iterator[Out]:
    """`function` of each item, in order, by `workers` threads that are never more than a few items ahead.

    Threads serve what mostly reads, hashes and decodes, which lets other threads run. When the caller stops (or an
    item raises), nothing new is begun.
    """
    with ThreadPoolExecutor(workers) as pool:
        waiting = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
