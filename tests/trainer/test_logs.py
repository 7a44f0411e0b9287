"""What people see of a run while it goes on."""

import io
import json
import logging
import math
import sys
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pytest
import torch
from rich.console import Console

from trainer.errors import CheckpointError
from trainer.logs import MetricsFile, Pictures, ProgressBar, Sessions, TensorBoard, clock, facts, picture_tag, read_lines
from trainer.plan import Even

METRICS = {"loss": 0.5, "samples_per_second": 1234.5, "data_wait": 0.12, "lr": 3e-4, "grad_norm": 2.0}


def trainer_at(folder, step=0, steps=30, main=True, pictures=2):
    """What the callbacks read of a trainer."""
    return SimpleNamespace(
        folder=folder, step=step, steps=steps, seconds=1.0, source=range(50), device=torch.device("cpu"),
        processes=SimpleNamespace(main=main, world=1), config=SimpleNamespace(batch_size=16, pictures=pictures), plain=lambda: "objective", plan=Even(16, steps),
    )  # fmt: skip


def drive(callback, trainer, until, metrics=METRICS, every=10):
    """Call a callback's hooks as the loop does, up to step `until`."""
    callback.start(trainer)
    while trainer.step < until:
        trainer.step += 1
        callback.after_step(trainer)
        if trainer.step % every == 0:
            callback.log(trainer, metrics)
    if trainer.step == trainer.steps:
        callback.end_of_phase(trainer)
    callback.close(trainer)


def test_plain_lines_where_there_is_no_terminal(tmp_path):
    out = io.StringIO()
    drive(ProgressBar(Console(file=out, width=60), seconds=0), trainer_at(tmp_path), 30)
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("step 10/30  loss 0.5000  1,234 samples/s  data wait 12%  lr 3.0e-04  0:00:0")
    assert [line.split()[1] for line in lines] == ["10/30", "20/30", "30/30"]  # the last step once, at the end of the run
    assert "done in" in lines[-1] and "\x1b" not in out.getvalue()


def test_a_pipe_hears_at_most_every_fifteen_seconds(tmp_path):
    out = io.StringIO()
    drive(ProgressBar(Console(file=out)), trainer_at(tmp_path, steps=1000), 1000)
    assert len(out.getvalue().splitlines()) == 1


@pytest.mark.parametrize("width, shown", [(120, "lr 3.0e-04"), (60, "1,234 samples/s"), (30, "loss 0.5000")])
def test_the_bar_fits_the_terminal(tmp_path, width, shown):
    out = io.StringIO()
    drive(ProgressBar(Console(file=out, width=width, force_terminal=True, color_system=None)), trainer_at(tmp_path), 30)
    last = out.getvalue().split("\x1b[2K")[-1].split("\n")[0]
    assert shown in last and "30/30" in last and "0:00:00" in last and len(last) <= width
    assert ("lr" in last) == (width == 120)


def test_log_lines_appear_above_the_bar(tmp_path, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    handler, logger = logging.StreamHandler(screen), logging.getLogger("zoo")
    logger.addHandler(handler)
    bar, trainer = ProgressBar(Console(file=screen, width=80, force_terminal=True, color_system=None)), trainer_at(tmp_path)
    try:
        bar.start(trainer)
        logger.warning("a word")
        bar.close(trainer)
    finally:
        logger.removeHandler(handler)
    assert "\x1b[2Ka word\n" in screen.getvalue() and handler.stream is screen


def test_only_the_main_process_is_heard(tmp_path, capsys):
    def draw(objective, path, title):
        raise AssertionError("drawn")

    for callback in (ProgressBar(seconds=0), MetricsFile(), Sessions(), TensorBoard(), Pictures(draw)):
        drive(callback, trainer_at(tmp_path, main=False), 30)
    assert not list(tmp_path.iterdir()) and capsys.readouterr().err == ""


def test_facts_leave_out_what_was_not_measured():
    assert facts({"loss": math.nan, "lr": 0.1}) == ["loss nan", "lr 1.0e-01"]
    assert facts({"loss": 1e-6, "samples_per_second": 0.25}) == ["loss 1.000e-06", "0.25 samples/s"]
    assert (clock(59.6), clock(3723)) == ("0:01:00", "1:02:03")


def test_metrics_are_valid_json_with_null_for_what_is_not_finite(tmp_path):
    drive(MetricsFile(), trainer_at(tmp_path), 10, {"loss": math.nan, "eval/knn": math.inf, "lr": 0.1})

    def refuse(constant):
        raise AssertionError(constant)

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert line == {"step": 10, "samples": 160, "seconds": 1.0, "loss": None, "eval/knn": None, "lr": 0.1}


def test_on_resume_the_lines_after_the_checkpoint_go_and_damaged_ones_too(tmp_path):
    path = tmp_path / "metrics.jsonl"
    drive(MetricsFile(), trainer_at(tmp_path), 30)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"step": 10', b'"step": \xff') + b'{"step": 40, "lo')
    assert [line["step"] for line in read_lines(path)] == [20, 30]
    path.write_bytes(whole + b'[1]\n{"step": "x"}\n{"step": 1e3}\n{"loss": 1}\n{"step": NaN}\n{"step": 40, "lo')
    drive(MetricsFile(), trainer_at(tmp_path, step=25), 30)
    assert path.read_bytes() == whole
    drive(MetricsFile(), trainer_at(tmp_path, step=0), 0)  # killed before the first checkpoint
    assert path.read_bytes() == b""


def test_a_kill_while_resuming_loses_no_lines(tmp_path, monkeypatch):
    drive(MetricsFile(), trainer_at(tmp_path), 30)
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        MetricsFile().start(trainer_at(tmp_path, step=20))
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_every_start_is_a_session(tmp_path):
    drive(Sessions({"command": "zoo pretrain x"}), trainer_at(tmp_path), 10)
    with open(tmp_path / "sessions.jsonl", "a") as file:
        file.write('{"step": 1')  # cut short
    drive(Sessions(), trainer_at(tmp_path, step=10), 30)
    first, second = (json.loads(line) for line in (tmp_path / "sessions.jsonl").read_text().splitlines())
    assert (first["step"], first["command"], first["steps"], first["samples"]) == (0, "zoo pretrain x", 30, 50)
    assert second["step"] == 10 and "CPU" in second["hardware"] and second["started"].endswith("+00:00")


def test_tensorboard_leaves_out_what_is_not_finite(tmp_path):
    drive(TensorBoard(), trainer_at(tmp_path), 10, {"loss": 1.0, "grad_norm": math.nan})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert EventAccumulator(str(tmp_path / "tensorboard")).Reload().Tags()["scalars"] == ["loss"]


def test_pictures_go_to_their_folder_and_to_every_board(tmp_path):
    shown = []

    class Board:
        def picture(self, trainer, path):
            shown.append((trainer.step, path.name, matplotlib.image.imread(path).shape))

    def draw(objective, path, title):
        matplotlib.image.imsave(path, np.zeros((4, 6, 3)))

    trainer = trainer_at(tmp_path, steps=30)
    pictures = Pictures(draw, Board(), Board())
    drive(pictures, trainer, 20)
    assert shown == [(15, "step-00000015.png", (4, 6, 4))] * 2
    trainer.steps = 20  # it ended early: the last state is drawn too, once
    pictures.end_of_phase(trainer)
    pictures.start(trainer)
    pictures.end_of_phase(trainer)
    assert len(shown) == 4 and sorted(p.name for p in (tmp_path / "pictures").iterdir()) == ["step-00000015.png", "step-00000020.png"]


def test_pictures_of_another_kind_have_their_own_files_and_tag(tmp_path):
    def draw(objective, path, title):
        matplotlib.image.imsave(path, np.zeros((4, 6, 3)))

    drive(Pictures(draw, name="attention"), trainer_at(tmp_path), 20)
    (path,) = (tmp_path / "pictures").iterdir()
    assert path.name == "attention-00000015.png"
    assert picture_tag(path) == "pictures/attention" and picture_tag(tmp_path / "step-00000015.png") == "pictures"


def test_a_full_disk_is_named(tmp_path, full_disk):
    drive(MetricsFile(), trainer_at(tmp_path), 30)
    full_disk(10)
    with pytest.raises(CheckpointError, match="Cannot write .*metrics.jsonl"):
        MetricsFile().start(trainer_at(tmp_path, step=30))
