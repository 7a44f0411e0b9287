"""The trace of some steps."""

import gzip
import json
import os
import re
import signal

import pytest

from tests.trainer.toy import CONFIG, fit, lines, same, weights
from trainer.callback import Callback
from trainer.config import replace
from trainer.errors import CheckpointError, ConfigError, Interrupted
from trainer.profiler import Profiler


class StopAt(Callback):
    def __init__(self, step):
        self.step = step

    def after_step(self, trainer):
        if trainer.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def recorded(folder):
    """The numbers of the steps in the trace, from 0 at the start of the session."""
    trace = json.loads(gzip.decompress((folder / "profile" / "trace.json.gz").read_bytes()))
    assert any(event["name"] == "aten::addmm" for event in trace["traceEvents"])
    return sorted({int(found[1]) for event in trace["traceEvents"] if (found := re.fullmatch(r"ProfilerStep#(\d+)", event["name"]))})


def test_records_the_steps_after_three_and_changes_nothing(tmp_path):
    plain, profiled = fit(tmp_path / "a"), fit(tmp_path / "b", Profiler(2))
    assert lines(tmp_path / "a") == lines(tmp_path / "b") and same(weights(plain), weights(profiled))
    assert recorded(tmp_path / "b") == [3, 4]
    table = (tmp_path / "b" / "profile" / "operators.txt").read_text()
    assert table.startswith("2 steps up to step 5, operators by self_cpu_time_total") and "aten::addmm" in table
    assert sorted(p.name for p in (tmp_path / "b" / "profile").iterdir()) == ["operators.txt", "trace.json.gz"]


@pytest.mark.parametrize("steps, expected", [(1, None), (3, None), (4, [3, 4]), (6, [3, 4, 5, 6])])
def test_a_run_that_ends_before(tmp_path, caplog, steps, expected):
    fit(tmp_path / "a", Profiler(5), config=replace(CONFIG, {"steps": steps}))
    if expected:  # the last one holds what came after the last step
        assert recorded(tmp_path / "a") == expected
    else:
        assert not (tmp_path / "a" / "profile").exists() and f"this session had {steps}" in caplog.text


def test_after_a_stop_the_next_session_is_recorded_anew(tmp_path):
    with pytest.raises(Interrupted):
        fit(tmp_path / "a", Profiler(5), StopAt(5))
    assert (tmp_path / "a" / "profile" / "operators.txt").read_text().startswith("2 steps up to step 5")
    whole, resumed = fit(tmp_path / "whole"), fit(tmp_path / "a", Profiler(3), resume=True)
    assert recorded(tmp_path / "a") == [3, 4, 5] and "up to step 11" in (tmp_path / "a" / "profile" / "operators.txt").read_text()
    assert same(weights(whole), weights(resumed)) and lines(tmp_path / "whole") == lines(tmp_path / "a")


def test_a_full_disk_is_named_and_leaves_nothing_half_written(tmp_path, full_disk):
    class Fill(Callback):
        def after_step(self, trainer):
            if trainer.step == 4:
                full_disk(10_000)

    with pytest.raises(CheckpointError, match="Cannot write .*profile"):
        fit(tmp_path / "a", Fill(), Profiler(2))
    assert not list((tmp_path / "a").glob("*profile*"))


def test_the_number_of_steps_is_checked():
    with pytest.raises(ConfigError, match="train.profile must be above 0"):
        replace(CONFIG, {"profile": 0})
