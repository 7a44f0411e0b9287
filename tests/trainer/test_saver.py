"""When a run writes checkpoints, which it keeps, and what it does when it cannot."""

import hashlib
import shutil
import signal
import threading
import time

import pytest

from tests.trainer.toy import CONFIG, Fit, fit, lines, same, weights
from trainer import checkpoint
from trainer.callback import Callback
from trainer.checkpoint import list_checkpoints, load_checkpoint, newest
from trainer.config import replace
from trainer.errors import CheckpointError, Interrupted
from trainer.evaluation import EvalConfig, Evaluate
from trainer.schedule import ScheduleConfig

ASYNC = replace(CONFIG, {"save_async": True})


class At(Callback):
    """Does something after some steps."""

    def __init__(self, *steps, do):
        self.steps, self.do = steps, do

    def after_step(self, trainer):
        if trainer.step in self.steps:
            self.do(trainer)


def names(folder):
    return [path.name.removeprefix("step-000000") for path in list_checkpoints(folder / "checkpoints")]


@pytest.fixture
def slow(monkeypatch):
    """A save takes a while."""
    monkeypatch.setattr(checkpoint, "reached", lambda point: time.sleep(0.05))


def test_which_steps_are_saved_and_kept(tmp_path, monkeypatch):
    class Late:
        """Best at step 12."""

        name, higher_is_better = "late", {"value": True}

        def __init__(self):
            self.values = iter([0, 1, 9, 3, 9, 4, 5])

        def __call__(self, objective):
            return {"value": next(self.values)}

    monkeypatch.setattr(ScheduleConfig, "milestones", lambda self, steps: [7, 17])
    for name, config in (("sync", CONFIG), ("async", ASYNC)):
        evaluate = EvalConfig(every=4, best="eval/value")
        saved = []
        save = checkpoint.save_checkpoint
        monkeypatch.setattr("trainer.saver.save_checkpoint", lambda folder, snapshot, *rest: saved.append(snapshot.step) or save(folder, snapshot, *rest))
        fit(tmp_path / name, Evaluate([Late()], evaluate), config=replace(config, {"steps": 28, "evaluate": evaluate, "keep_last": 1}))
        assert saved == [4, 7, 8, 10, 12, 17, 20, 28] and names(tmp_path / name) == ["07", "12", "17", "28"]


def test_a_tenth_of_the_run_by_default(tmp_path):
    fit(tmp_path / "a", config=replace(CONFIG, {"save_every": None, "keep_last": 99}))
    assert names(tmp_path / "a") == [f"{step:02d}" for step in range(3, 31, 3)]


def test_beside_training_the_same_bytes_are_written(tmp_path, slow):
    fit(tmp_path / "sync", config=replace(CONFIG, {"keep_last": 9, "ema": 0.9}))
    fit(tmp_path / "async", config=replace(ASYNC, {"keep_last": 9, "ema": 0.9}))
    hashes = [
        {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.safetensors")}
        for folder in (tmp_path / "sync", tmp_path / "async")
    ]
    assert hashes[0] == hashes[1] and len(hashes[0]) == 6 and lines(tmp_path / "sync") == lines(tmp_path / "async")
    assert load_checkpoint(list_checkpoints(tmp_path / "async" / "checkpoints")[0])["progress"]["step"] == 10


def test_training_goes_on_while_it_is_written(tmp_path, monkeypatch):
    seen, gate = [], threading.Event()
    monkeypatch.setattr(checkpoint, "reached", lambda point: gate.wait(10) if threading.current_thread().name == "checkpoint" else None)
    open_gate = At(19, do=lambda trainer: (seen.append(names(trainer.folder)), gate.set()))
    fit(tmp_path / "a", open_gate, config=ASYNC)
    assert seen == [[]] and names(tmp_path / "a") == ["20", "30"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("of a library")])
def test_a_failure_beside_training_is_told_by_the_next_save(tmp_path, monkeypatch, error):
    def fail(point):
        if threading.current_thread().name == "checkpoint":
            raise error

    monkeypatch.setattr(checkpoint, "reached", fail)
    with pytest.raises((CheckpointError, ValueError), match="the disk is full|of a library"):
        fit(tmp_path / "a", config=ASYNC)
    assert lines(tmp_path / "a")[-1]["step"] == 18 and names(tmp_path / "a") == []


def test_the_last_checkpoint_is_tried_after_a_failure(tmp_path, monkeypatch, caplog):
    def fail(point):
        if threading.current_thread().name == "checkpoint":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "reached", fail)
    with pytest.raises(Interrupted):
        fit(tmp_path / "a", At(15, do=lambda t: signal.raise_signal(signal.SIGINT)), config=ASYNC)
    assert names(tmp_path / "a") == ["15"] and "was not written" in caplog.text
    monkeypatch.undo()
    assert same(weights(fit(tmp_path / "a", config=ASYNC, resume=True)), weights(fit(tmp_path / "whole")))


@pytest.mark.parametrize("config", [CONFIG, ASYNC], ids=["sync", "async"])
def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, full_disk, config):
    def fill(trainer):
        while names(tmp_path / "a") != ["10"]:  # a slow machine may still be writing it
            time.sleep(0.01)
        full_disk(3000)

    with pytest.raises(CheckpointError, match="Cannot write"):
        fit(tmp_path / "a", At(15, do=fill), config=config)
    full_disk(10**9)
    assert names(tmp_path / "a") == ["10"]
    again = fit(tmp_path / "a", config=config, resume=True)
    assert same(weights(fit(tmp_path / "whole")), weights(again)) and lines(tmp_path / "whole") == lines(tmp_path / "a")


def test_ctrl_c_while_a_checkpoint_is_written(tmp_path, slow):
    with pytest.raises(Interrupted, match="step 11 of 30"):
        fit(tmp_path / "a", At(11, do=lambda t: signal.raise_signal(signal.SIGINT)), config=ASYNC)
    assert names(tmp_path / "a") == ["10", "11"]
    again = fit(tmp_path / "a", config=ASYNC, resume=True)
    assert same(weights(fit(tmp_path / "whole")), weights(again)) and lines(tmp_path / "whole") == lines(tmp_path / "a")


@pytest.mark.parametrize("config", [CONFIG, ASYNC], ids=["sync", "async"])
def test_a_second_ctrl_c_stops_at_once_and_spoils_nothing(tmp_path, slow, config):
    def twice(trainer):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "a", At(21, do=twice), config=config)
    assert names(tmp_path / "a") == ["10", "20"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert same(weights(fit(tmp_path / "whole")), weights(fit(tmp_path / "a", config=config, resume=True)))


@pytest.mark.parametrize("config", [CONFIG, ASYNC], ids=["sync", "async"])
def test_the_folder_of_checkpoints_is_removed_under_a_run(tmp_path, config):
    remove = At(15, do=lambda t: (t.saver.close(), shutil.rmtree(t.folder / "checkpoints")))  # no save is on its way
    trainer = fit(tmp_path / "a", remove, config=config)
    assert names(tmp_path / "a") == ["20", "30"]
    assert same(load_checkpoint(newest(tmp_path / "a" / "checkpoints"))["objective"], weights(trainer))


@pytest.mark.parametrize("config", [CONFIG, ASYNC], ids=["sync", "async"])
def test_the_run_folder_is_removed_under_a_run(tmp_path, config):
    """Either a clear error, or what is there afterwards is whole."""
    trainer = fit(tmp_path / "a", At(15, do=lambda t: (t.saver.close(), shutil.rmtree(t.folder))), config=config)
    assert same(load_checkpoint(newest(tmp_path / "a" / "checkpoints"))["objective"], weights(trainer))


@pytest.mark.parametrize("point", ["folder made", "half written", "before rename", "after rename"])
@pytest.mark.parametrize("config", [CONFIG, ASYNC], ids=["sync", "async"])
def test_the_run_folder_is_removed_while_saving(tmp_path, monkeypatch, config, point):
    def remove(now):
        if now == point and not seen:
            seen.append(now)
            shutil.rmtree(tmp_path / "a")

    seen = []
    monkeypatch.setattr(checkpoint, "reached", remove)
    with pytest.raises(CheckpointError, match="Cannot write .*removed"):
        fit(tmp_path / "a", config=config)
    assert seen and not list_checkpoints(tmp_path / "a" / "checkpoints")


def test_a_model_that_became_infinite_is_not_written(tmp_path):
    def spoil(trainer):
        trainer.objective.net[0].weight.data[0, 0] = float("inf")

    with pytest.raises(CheckpointError, match="The model at step 20 holds NaN or infinity in objective.net.0.weight"):
        fit(tmp_path / "a", At(20, do=spoil), objective=Fit())
    assert names(tmp_path / "a") == ["10"]
