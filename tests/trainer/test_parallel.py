"""Two processes under torchrun: the same losses and weights as one, whatever happens to them on the way."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from accelerate.utils import DistributedType
from torch import nn

from tests.trainer.toy import CONFIG, CountedFit, Fit, fit, lines, same
from trainer.checkpoint import list_checkpoints, load_checkpoint, newest, step_of
from trainer.config import replace
from trainer.errors import ConfigError
from trainer.logs import read_lines
from trainer.parallel import Processes, blocks
from trainer.weights import read_safetensors

ROOT = Path(__file__).parents[2]
LENGTH = {"steps": 50, "save_every": 25, "keep_last": 9, "log_every": 5}
BEST = {"evaluate.every": 10, "evaluate.best": "eval/size"}
RUNS = {
    "ddp": {**LENGTH, "workers": 2},
    "ddp-counted": {**LENGTH, **BEST, "counted": True, "accumulate": 2},
    "fsdp": {**LENGTH, **BEST, "parallel": "fsdp", "ema": 0.9, "accumulate": 2},
    "fsdp-counted": {**LENGTH, "counted": True, "parallel": "fsdp", "batch_size": 7, "guard.skip_spikes": True, "guard.spike_window": 8},
}
"""Compared with one process."""
WHOLE = {
    "whole": {"dropout": 0.2, "save_every": 8},
    "whole-fsdp": {"counted": True, "parallel": "fsdp", "ema": 0.9, "save_every": 8},
}
"""Compared with runs that lose a process."""
HURT = {"killed": {**WHOLE["whole"], "kill": [1, 14]}, "failed-fsdp": {**WHOLE["whole-fsdp"], "fail": [0, 21]}}


def launch(folder, runs, *options):
    """torchrun with two processes, in a session of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options, "-m", "tests.trainer.toy"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, str(folder), json.dumps(runs)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def end(process, timeout=100):
    """(exit status, output) of a launch; all of it is gone afterwards."""
    try:
        text = process.communicate(timeout=timeout)[0]
        return process.returncode, text
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        process.wait(10)


def single(folder, options, resume=False):
    """The same run in this one process."""
    counted, options = options.get("counted", False), {k: v for k, v in options.items() if k not in ("counted", "resume")}
    return fit(folder, config=replace(CONFIG, options), objective=CountedFit if counted else partial(Fit, 0.0), resume=resume)


def forget(folder):
    """As if a run had been killed soon after step 25."""
    for path in list_checkpoints(folder / "checkpoints"):
        if step_of(path) > 25:
            shutil.rmtree(path)


def require_close(folder, other, trainer):
    """Two runs in these folders, of which `trainer` made one in this process, are equal but for rounding."""
    for a, b in zip(lines(folder), lines(other), strict=True):
        assert a == {name: value if name == "rmse" else pytest.approx(value, rel=1e-5) for name, value in b.items()} | ({"rmse": a["rmse"]} if "rmse" in a else {})
    found, whole = read_safetensors(folder / "weights.safetensors"), trainer.plain().state_dict()
    for name, value in whole.items():
        assert (found[name] - value).abs().max() < 1e-5 * value.abs().max(), name


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """What two processes made of all RUNS and WHOLE, and of two runs that one process had begun."""
    folder = tmp_path_factory.mktemp("two")
    begun = {}
    for name in ("fsdp", "ddp-counted"):
        begun[f"one-{name}"] = {**RUNS[name], "resume": True}
        single(folder / f"one-{name}", RUNS[name])
        forget(folder / f"one-{name}")
    code, text = end(launch(folder, {**RUNS, **begun, **WHOLE}))
    assert code == 0 and "Warning" not in text and text.count("left all groups") == 2, text
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_equal_one(place, tmp_path, name):
    require_close(place / name, tmp_path / name, single(tmp_path / name, RUNS[name]))
    assert len(lines(place / name)) == 10


@pytest.mark.parametrize("name", ["fsdp", "ddp-counted"])
def test_two_go_on_from_one(place, tmp_path, name):
    require_close(place / f"one-{name}", tmp_path / name, single(tmp_path / name, RUNS[name]))


@pytest.mark.parametrize("name", RUNS)
def test_one_goes_on_from_two(place, tmp_path, name, caplog):
    caplog.set_level(logging.INFO, "zoo")
    shutil.copytree(place / name, tmp_path / "cut")
    forget(tmp_path / "cut")
    trainer = single(tmp_path / "cut", RUNS[name], resume=True)
    require_close(place / name, tmp_path / "cut", trainer)
    assert "written by 2 process(es), 1 go on. Exact as before: the order of the data" in caplog.text and "Not exact: dropout" in caplog.text


def test_each_rank_has_its_own_file(place):
    for name in RUNS:
        path = newest(place / name / "checkpoints")
        files = sorted(str(p.relative_to(path)) for p in path.rglob("*.safetensors"))
        assert files[:2] == ["ranks/00000.safetensors", "ranks/00001.safetensors"] and len(files) == (4 if "fsdp" in name else 3)
        state = load_checkpoint(path)
        assert all(v.isfinite().all() for v in state["objective"].values()) and state["progress"]["step"] == 50
        damaged = path / files[-1]
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
        assert newest(place / name / "checkpoints") == list_checkpoints(place / name / "checkpoints")[-2]


def test_a_lost_process_is_started_again_and_nothing_differs(place, tmp_path):
    """Killed, or ended by an error on the main rank while the other one waits for it."""
    code, text = end(launch(tmp_path, HURT, "--max-restarts", "2"))
    assert code == 0 and text.count("ValueError: only here") == 1, text
    for whole, hurt in zip(WHOLE, HURT):
        assert (tmp_path / hurt / "trouble").exists()
        assert lines(tmp_path / hurt) == lines(place / whole) and len(lines(place / whole)) == 10
        assert same(*(read_safetensors(f / "weights.safetensors") for f in (tmp_path / hurt, place / whole)))


SLOW = {"slow": {"steps": 3000, "seconds": 0.02, "workers": 1, "save_every": 3000, "log_every": 1}}


def wait_for(folder, step, process):
    for _ in range(1200):
        if any(line["step"] >= step for line in read_lines(folder / "metrics.jsonl")):
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    raise AssertionError(f"{folder} did not get to step {step}")


def ranks_of(agent):
    """Process ids of the two workers that torchrun started."""
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(agent)], capture_output=True, text=True).stdout.split()
    return [int(child) for child in children]


@pytest.mark.parametrize("to", ["the agent", "the group of one rank"])
def test_sigterm_stops_all_ranks_at_one_step(tmp_path, to):
    process = launch(tmp_path, SLOW)
    wait_for(tmp_path / "slow", 5, process)
    if to == "the agent":
        os.kill(process.pid, signal.SIGTERM)
    else:
        os.killpg(ranks_of(process.pid)[1], signal.SIGTERM)
    code, text = end(process)
    told = {(tmp_path / "slow" / f"stopped-{rank}").read_text() for rank in (0, 1)}
    (path,) = list_checkpoints(tmp_path / "slow" / "checkpoints")
    assert code != 0 and len(told) == 1 and f"Stopped at step {int(path.name[5:])} of 3,000" in told.pop(), text
    assert len(lines(tmp_path / "slow")) == load_checkpoint(path)["progress"]["step"] and not (tmp_path / "slow" / ".lock").exists()


def test_blocks():
    objective = CountedFit()
    assert blocks(objective) == list(objective.blocks) and blocks(Fit()) == []
    assert blocks(nn.ModuleList([nn.BatchNorm1d(3), nn.BatchNorm1d(3)])) == []


def test_a_launcher_that_does_the_trainers_work_is_refused(monkeypatch):
    monkeypatch.setattr("accelerate.Accelerator.distributed_type", DistributedType.DEEPSPEED)
    with pytest.raises(ConfigError, match="accelerate up for .*DEEPSPEED.*train.parallel=fsdp"):
        Processes()
