"""A graph recipe in two processes under torchrun gives the weights of one."""

import os
import subprocess
import sys
from pathlib import Path

from modalities import registry
from modalities.common.run import run
from trainer.config import replace
from trainer.weights import read_safetensors

ROOT = Path(__file__).parents[3]
CHANGES = {
    "model.encoder": "gin", "model.in_dim": 6, "model.norm": "layernorm", "model.embed_dim": 16, "model.depth": 2, "data.generated.samples": 48,
    "data.generated.test_samples": 8, "train.steps": 6, "train.batch_size": 12, "train.accumulate": 2, "train.pictures": 0, "train.workers": 1,
}  # fmt: skip


def test_two_processes_give_the_weights_of_one(tmp_path):
    one = run(replace(registry.find_recipe("graph/tiny-masking"), CHANGES), tmp_path / "one")
    options = [word for name, value in CHANGES.items() for word in (f"--{name}", str(value))]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "zoo.cli", "pretrain", "graph/tiny-masking"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, *options, "--to", str(tmp_path / "two")], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = read_safetensors(tmp_path / "two" / "export" / "model.safetensors")
    for name, tensor in read_safetensors(one / "model.safetensors").items():
        assert (found[name] - tensor).abs().max() <= 1e-4 * tensor.abs().max().clamp(min=1), name
