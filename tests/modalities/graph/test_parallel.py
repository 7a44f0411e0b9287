"""A graph recipe in two processes gives the weights of one."""

from modalities import registry
from modalities.common.run import run
from tests.two import in_two
from trainer.config import replace
from trainer.weights import read_safetensors

CHANGES = {
    "model.encoder": "gin", "model.in_dim": 6, "model.norm": "layernorm", "model.embed_dim": 16, "model.depth": 2, "data.generated.samples": 48,
    "data.generated.test_samples": 8, "train.steps": 6, "train.batch_size": 12, "train.accumulate": 2, "train.pictures": 0, "train.workers": 0,
}  # fmt: skip


def test_two_processes_give_the_weights_of_one(tmp_path):
    one = run(replace(registry.find_recipe("graph/tiny-masking"), CHANGES), tmp_path / "one")
    options = [word for name, value in CHANGES.items() for word in (f"--{name}", value)]
    in_two(tmp_path, "pretrain", "graph/tiny-masking", *options, "--to", tmp_path / "two")
    found = read_safetensors(tmp_path / "two" / "export" / "model.safetensors")
    for name, tensor in read_safetensors(one / "model.safetensors").items():
        assert (found[name] - tensor).abs().max() <= 1e-4 * tensor.abs().max().clamp(min=1), name
