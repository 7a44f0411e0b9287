"""Several processes (gloo on the CPU, started by torchrun) against one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.trainer.toy import lines
from trainer.files import read_json

ROOT = Path(__file__).parents[2]
STEPS = {"steps": 50, "log_every": 1, "save_every": 7}


def start(folder, processes=1, **options):
    """Train a toy in `folder`; the finished process."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "--max-restarts", "1"] if processes > 1 else []
    command = [sys.executable, *torchrun, "-m", "tests.trainer.toy", str(folder), json.dumps({**STEPS, **options})]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


def train(folder, processes=1, **options):
    done = start(folder, processes, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return lines(folder), load_file(folder / "weights.safetensors")


def assert_close(run, other):
    for line, expected in zip(run[0], other[0], strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert line["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)
    assert all((run[1][name] - weight).abs().max() < 1e-5 for name, weight in other[1].items())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return train(tmp_path_factory.mktemp("alone") / "run", counted=True, ema=0.9)


def test_ddp_with_micro_batches_equals_one_process(alone, tmp_path):
    assert_close(train(tmp_path / "run", 2, counted=True, accumulate=2, ema=0.9), alone)


def test_sharded_training_survives_a_killed_worker_and_goes_on_alone(alone, tmp_path):
    sharded = {"counted": True, "parallel": "fsdp", "ema": 0.9, "keep_last": 9}
    whole = train(tmp_path / "whole", 2, **sharded)
    assert_close(whole, alone)
    killed = train(tmp_path / "killed", 2, kill=[1, 33], **sharded)  # torchrun starts both again
    assert killed[0] == whole[0] and all(weight.equal(whole[1][name]) for name, weight in killed[1].items())
    # one process goes on with what two have written
    run = tmp_path / "whole"
    for step in (49, 50):
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    assert_close(train(run, resume=True, **sharded), alone)
    last = run / "checkpoints" / "step-00000050"
    assert read_json(last / "manifest.json")["world"] == 1 and read_json(last / "state.json")["progress"]["restarts"] == 1


def test_an_objective_without_blocks_is_sharded_as_a_whole(tmp_path):
    assert_close(train(tmp_path / "sharded", 2, parallel="fsdp"), train(tmp_path / "alone"))
