"""POA in two processes, as a user starts them: every step another part of the network is trained, the targets are balanced over both."""

import pytest

from modalities.common.run import run
from tests.modalities.vision.test_self_distillation import recipe
from tests.small import pictures
from tests.two import in_two
from trainer.logs import read_lines
from trainer.weights import read_safetensors

PARTS = ("loss", "dino", "masked", "distilled")


def test_two_processes_train_as_one_does(tmp_path):
    """Without KoLeo, which compares the samples of one process."""
    wanted = recipe(pictures(tmp_path / "data"), **{"objective.masked_start": 0.25, "objective.spread": 0.0, "objective.momentum": (0.5, 0.9)})
    wanted.save(tmp_path / "recipe.yaml")
    in_two(tmp_path, "pretrain", wanted.recipe, "--config", tmp_path / "recipe.yaml", "--to", tmp_path / "two")
    run(wanted, tmp_path / "one")
    one, two = (read_lines(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert len(two) == 8 and one[-1]["masked"] > 0
    for a, b in zip(one, two, strict=True):
        assert {name: b[name] for name in PARTS} == pytest.approx({name: a[name] for name in PARTS}, rel=1e-4)
    found, whole = (read_safetensors(tmp_path / name / "export" / "model.safetensors") for name in ("two", "one"))
    assert found.keys() == whole.keys()
    assert all((found[name] - tensor).abs().max() < 1e-4 * max(1, tensor.abs().max()) for name, tensor in whole.items())
