"""Ctrl-C and SIGTERM, to one process and to the whole group of them."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modalities.common.commandline import guarded
from modalities.common.run import run
from tests import small
from tests.trainer.toy import CONFIG, Line, fit, lines, same, weights
from trainer.callback import Callback
from trainer.checkpoint import list_checkpoints, step_of
from trainer.config import replace
from trainer.errors import ConfigError, DataError, Interrupted
from trainer.logs import read_lines
from trainer.signals import StopSignal
from trainer.weights import read_safetensors

ROOT = Path(__file__).parents[2]
LONG = {"train.steps": 300, "train.workers": 2, "train.save_every": 100}


class Send(Callback):
    """A signal after some steps, to this process, to its loader workers, or to both."""

    def __init__(self, number, *steps, own=True, workers=False):
        self.number, self.steps, self.own, self.workers = number, steps, own, workers

    def after_step(self, trainer):
        if trainer.step in self.steps:
            if self.workers:
                for worker in multiprocessing.active_children():
                    os.kill(worker.pid, self.number)
                time.sleep(0.2)
            if self.own:
                signal.raise_signal(self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_still_saves(tmp_path, number):
    """As a terminal, torchrun (killpg) and clusters send it: loader workers get it too."""
    config = replace(CONFIG, {"workers": 2})
    with pytest.raises(Interrupted, match="Stopped at step 14 of 30") as caught:
        fit(tmp_path / "a", Send(number, 13, own=False, workers=True), Send(number, 14, workers=True), config=config)
    assert caught.value.code == 128 + number and not multiprocessing.active_children()
    again = fit(tmp_path / "a", config=config, resume=True)
    assert same(weights(again), weights(fit(tmp_path / "whole"))) and lines(tmp_path / "a") == lines(tmp_path / "whole")


KILLED = """
import sys
from pathlib import Path
from tests.trainer.test_signals import *
fit(Path(sys.argv[1]), Send(signal.SIGKILL, 3, own=False, workers=True), config=replace(CONFIG, {"workers": 2}))
"""


def test_a_worker_that_is_killed_is_told(tmp_path):
    """In a process of its own: torch raises this error from a signal handler, wherever the process is."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a")], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert re.search(r"^trainer.errors.DataError: A process that reads the training data died: .*lower train.workers", done.stderr, re.MULTILINE)


@pytest.mark.parametrize("workers", [0, 2])
def test_data_that_disappears_is_told_as_such(tmp_path, workers):
    class Gone(Line):
        def __getitem__(self, index):
            raise FileNotFoundError(2, "No such file or directory", "photos/7.png")

    class Trainer(Callback):
        def start(self, trainer):
            trainer.stream.source = Gone()

    with pytest.raises(DataError, match=r"^Cannot read the training data: .*No such file or directory: 'photos/7.png'\. Is it still where it was\?$"):
        fit(tmp_path / "a", Trainer(), config=replace(CONFIG, {"workers": workers}))


def test_a_signal_in_the_last_step_changes_nothing(tmp_path):
    trainer = fit(tmp_path / "a", Send(signal.SIGTERM, 30))
    assert trainer.step == 30 and same(weights(trainer), weights(fit(tmp_path / "b")))


def test_a_thread_trains_without_handlers(tmp_path):
    """Signals belong to the main thread."""
    import threading

    done = []
    thread = threading.Thread(target=lambda: done.append(fit(tmp_path / "a")))
    thread.start()
    thread.join(60)
    assert done[0].step == 30


class Talk:
    """Two processes, of which the other one is asked to stop after some questions and takes `slow` times as long."""

    world = 2

    def __init__(self, stopped_at=10**9, slow=1.0):
        self.stopped_at, self.slow, self.asked = stopped_at, slow, 0

    def agree(self, number):
        self.asked += 1
        if self.asked % 2:  # the time per step
            return max(number, round(self.slow * number))
        return signal.SIGTERM if self.asked >= 2 * self.stopped_at else number


@pytest.mark.parametrize("seconds, slow, later", [(0.01, 1.0, 10), (0.5, 1.0, 4), (0.5, 2.0, 2), (5.0, 1.0, 1)])
def test_processes_ask_one_another_now_and_then(monkeypatch, seconds, slow, later):
    """Every ten steps, and sooner when steps are slow: torchrun kills 30 seconds after SIGTERM."""
    now = 0.0
    monkeypatch.setattr("trainer.signals.time.monotonic", lambda: now)
    stop, asked = StopSignal(Talk(stopped_at=6, slow=slow)), []
    for step in range(100):
        now, before = now + seconds, stop.processes.asked
        stopping = stop.asked(step)
        if stop.processes.asked > before:
            asked.append(step)
        if stopping:
            break
    gaps = [b - a for a, b in zip(asked, asked[1:])]
    assert gaps == [1] + [later] * 4 and stop.interrupted("x").code == 143


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return small.pictures(tmp_path_factory.mktemp("data") / "pictures")


def command(pictures, folder, *more):
    options = {**small.MODEL, **small.TRAIN, **LONG}
    del options["train.epochs"]
    words = [word for name, value in options.items() for word in (f"--{name}", *map(str, value if isinstance(value, tuple) else (value,)))]
    line = [sys.executable, "-m", "zoo.cli", "pretrain", "vision/mae-tiny", "--data.path", str(pictures), "--to", str(folder), *words, *more]
    return subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def wait_for(folder, step):
    """Until a run has logged a step."""
    for _ in range(600):
        if any(line["step"] >= step for line in read_lines(folder / "metrics.jsonl")):
            return
        time.sleep(0.05)
    raise AssertionError(f"{folder} did not get to step {step}")


def test_the_command_stopped_and_requeued(tmp_path, pictures):
    """The same command again and again, as a cluster runs it; the signals go to its whole group. What it ends with is exact."""
    folder = tmp_path / "run"
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = command(pictures, folder, "--requeue")
        wait_for(folder, 5 if code == 143 else newest_step(folder) + 3)
        os.killpg(process.pid, number)
        text = process.communicate(timeout=100)[0]
        assert process.returncode == code and f"Stopped at step {newest_step(folder)} of 300; the state is saved" in text, text
        assert "--resume goes on from there" in text and "Traceback" not in text and "Warning" not in text
        assert not (folder / "export").exists() and not (folder / ".lock").exists()
    recipe = small.recipe(pictures, **LONG)
    with pytest.raises(ConfigError, match=r"The recipe differs.*\n  train.optim.base_lr: 0.001 -> 0.002\nResume with the same options"):
        run(replace(recipe, {"train.optim.base_lr": 2e-3}), folder, resume=True)
    exported = [read_safetensors(run(recipe, f, resume=f is folder) / "model.safetensors") for f in (folder, tmp_path / "whole")]
    assert same(*exported) and lines(folder) == lines(tmp_path / "whole") and len(lines(folder)) == 300
    record = json.loads((folder / "record.json").read_text())
    assert record["restarts"] == 2 and len(read_lines(folder / "sessions.jsonl")) == 3


def newest_step(folder):
    return step_of(list_checkpoints(folder / "checkpoints")[-1])


def test_a_second_ctrl_c_ends_the_command_at_once(tmp_path, pictures, monkeypatch, capsys):
    def interrupt(*arguments):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("trainer.trainer.Trainer._clip", interrupt)
    assert guarded(lambda: run(small.recipe(pictures), tmp_path / "run")) == 130
    assert "Stopped at once; the last checkpoint in" in capsys.readouterr().err


def test_resuming_what_is_not_there(tmp_path, pictures):
    with pytest.raises(ConfigError, match="There is no run in .* to resume"):
        run(small.recipe(pictures), tmp_path / "run", resume=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".tmp-recipe.yaml-0a1b").write_text("cut short")  # killed in its very first moment
    run(small.recipe(pictures), tmp_path / "run", requeue=True)
    assert not list((tmp_path / "run").glob(".tmp*"))
