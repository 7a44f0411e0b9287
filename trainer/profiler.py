"""A trace of some steps on request: where the time of a step goes, on the processor and on the device."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from torch.profiler import ProfilerAction, ProfilerActivity, profile, schedule

from trainer.callback import Callback
from trainer.errors import CheckpointError
from trainer.files import atomic_folder

if TYPE_CHECKING:
    from trainer.trainer import Trainer

log = logging.getLogger("zoo")

WARM_UP = 3
"""Steps before the recording: the first ones of a session compile kernels, fill caches and grow memory."""
ROWS = 60
"""Rows of the table of operators."""


class Profiler(Callback):
    """Records `steps` steps after the first three of this session, on the main process, into `profile/` of the run folder.

    `profile/trace.json.gz` opens in https://ui.perfetto.dev, `profile/operators.txt` is a table of the operators by their
    own time. A run that ends earlier leaves what was recorded until then. Training computes the same with it, more slowly
    while it records.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.profile: profile | None = None
        self.done = 0

    def start(self, trainer: "Trainer") -> None:
        if trainer.processes.main:
            # the profiler itself warms up in the step before it records: its own start would be in the trace otherwise
            when = schedule(wait=WARM_UP - 1, warmup=1, active=self.steps, repeat=1)
            what = [ProfilerActivity.CPU] if trainer.device.type == "cpu" else None  # None: all that this machine can record
            self.profile = profile(activities=what, schedule=when, acc_events=True)
            self.profile.start()
            self.done = 0

    def after_step(self, trainer: "Trainer") -> None:
        if self.profile is not None:
            self.done += 1
            if self.done == WARM_UP + self.steps:
                self._finish(trainer)
            else:
                self.profile.step()

    def close(self, trainer: "Trainer") -> None:
        try:
            self._finish(trainer)
        except CheckpointError as error:  # the run may be ending with another error, which is the one to see
            log.warning("No profile was written: %s", error)

    def _finish(self, trainer: "Trainer") -> None:
        """Stop recording and write what there is."""
        if self.profile is None:
            return
        recorder, self.profile = self.profile, None
        recording = recorder.current_action in (ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE)
        recorder.stop()
        steps = min(self.done - WARM_UP, self.steps)
        if not recording or steps < 1:
            log.warning("Nothing was profiled: the recording begins after %d steps, and this session had %d.", WARM_UP, self.done)
            return
        with atomic_folder(trainer.folder / "profile", replace=True) as folder:
            write_profile(recorder, folder, f"{steps} steps up to step {trainer.step:,}")
        log.info("Profiled %d steps: %s (open the trace in https://ui.perfetto.dev)", steps, trainer.folder / "profile")


def write_profile(recorder: profile, folder: Path, what: str) -> None:
    """The trace and the table of a stopped profiler; `what` says which steps they hold."""
    recorder.export_chrome_trace(str(folder / "trace.json.gz"))
    operators = recorder.key_averages()
    device = any(event.self_device_time_total for event in operators)
    order = "self_device_time_total" if device else "self_cpu_time_total"
    table = operators.table(sort_by=order, row_limit=ROWS, max_name_column_width=80)
    (folder / "operators.txt").write_text(f"{what}, operators by {order}\n\n{table}\n", encoding="utf-8")
