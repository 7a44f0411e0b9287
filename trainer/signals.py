"""Stopping when the user (Ctrl-C) or the system (SIGTERM) asks: at the end of a step, all processes at the same one."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trainer.errors import Interrupted
from trainer.parallel import Processes

AGREE_EVERY = 10
"""Most steps between the moments at which several processes ask one another whether to stop."""
AGREE_SECONDS = 2.0
"""Most seconds between them, as long as a step takes less: torchrun and clusters kill soon after they have asked."""
log = logging.getLogger("zoo")


class StopSignal:
    """The first signal asks for a checkpoint at the end of the step, the second stops at once."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.number = 0
        """The signal that asked, 0 for none."""
        self._last: tuple[int, float] | None = None
        self._next = 0

    def asked(self, step: int) -> bool:
        """Whether to stop after this step; all ranks get the same answer."""
        if self.processes.world == 1:
            return self.number > 0
        if step < self._next:
            return False
        now = time.monotonic()
        step_before, time_before = self._last or (step - 1, now - AGREE_SECONDS)  # before the first step nobody knows
        # microseconds per step of the slowest rank, so that all ask again after the same step
        took = max(self.processes.agree(round(1e6 * (now - time_before) / max(step - step_before, 1))), 1)
        self._last, self._next = (step, now), step + max(1, min(AGREE_EVERY, int(1e6 * AGREE_SECONDS / took)))
        self.number = self.processes.agree(self.number)
        return self.number > 0

    def interrupted(self, message: str) -> Interrupted:
        """The exception to end with; its exit status tells the signal."""
        error = Interrupted(message)
        error.code = 128 + self.number
        return error

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Handle both signals inside the block; the old handlers come back."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number
        log.info("Stopping after this step and saving (once more to stop at once without saving) ...")
