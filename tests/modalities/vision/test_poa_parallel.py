"""POA in two processes, as a user starts them: every step another part of the network is trained, the targets are balanced over both."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from modalities.common.run import run
from tests.modalities.vision.test_self_distillation import recipe
from tests.small import pictures
from trainer.logs import read_lines
from trainer.weights import read_safetensors

ROOT = Path(__file__).parents[3]
PARTS = ("loss", "dino", "masked", "distilled")


def in_two(*command):
    """A module in two processes with what torchrun tells its own (torchrun would cost the time of a third one); both must succeed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    options = dict(cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    arguments = [sys.executable, "-m", *map(str, command)]
    started = [subprocess.Popen(arguments, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, **options) for rank in range(2)]
    try:
        said = [process.communicate(timeout=100)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert not any(process.returncode for process in started), said


def test_two_processes_train_as_one_does(tmp_path):
    """Without KoLeo, which compares the samples of one process."""
    wanted = recipe(pictures(tmp_path / "data"), **{"objective.masked_start": 0.25, "objective.spread": 0.0, "objective.momentum": (0.5, 0.9)})
    wanted.save(tmp_path / "recipe.yaml")
    in_two("zoo.cli", "pretrain", wanted.recipe, "--config", tmp_path / "recipe.yaml", "--to", tmp_path / "two")
    run(wanted, tmp_path / "one")
    one, two = (read_lines(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert len(two) == 8 and one[-1]["masked"] > 0
    for a, b in zip(one, two, strict=True):
        assert {name: b[name] for name in PARTS} == pytest.approx({name: a[name] for name in PARTS}, rel=1e-4)
    found, whole = (read_safetensors(tmp_path / name / "export" / "model.safetensors") for name in ("two", "one"))
    assert found.keys() == whole.keys()
    assert all((found[name] - tensor).abs().max() < 1e-4 * max(1, tensor.abs().max()) for name, tensor in whole.items())
