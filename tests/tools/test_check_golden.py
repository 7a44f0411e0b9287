"""The golden tool: passes what is right and fails what is wrong, missing, unknown or unreadable."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tools.check_golden import main

ROOT = Path(__file__).parents[2]
OFFICIAL = ROOT / "tests" / "golden" / "vision" / "mae_official.safetensors"
FINETUNE = OFFICIAL.with_name("mae_finetune.safetensors")


def changed(source, target, tensors=None, metadata=None, drop=()):
    """A copy of a golden file with some tensors or metadata replaced."""
    with safe_open(source, "pt") as file:
        own = {k: file.get_tensor(k) for k in file.keys() if k not in drop}
        meta = file.metadata()
    save_file({**own, **(tensors or {})}, target, {**meta, **(metadata or {})})
    return str(target)


def test_all_golden_files_pass_from_the_command_line():
    done = subprocess.run([sys.executable, "-m", "tools.check_golden", "tests/golden/vision"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "output.pred" in done.stdout and "(2, 16, 192)" in done.stdout
    files = len(list((ROOT / "tests/golden/vision").glob("*.safetensors")))
    assert done.stdout.endswith(f"{files} file(s), 0 failure(s)\n")


def test_a_wrong_number_fails(tmp_path, capsys):
    wrong = changed(OFFICIAL, tmp_path / "a.safetensors", {"output.loss": torch.tensor(2.4132)})
    assert main([wrong]) == 1
    assert "a.safetensors: 1 of 12 outputs: output.loss" in capsys.readouterr().out


def test_masks_must_be_equal(tmp_path, capsys):
    mask = torch.zeros(2, 16)
    mask[:, 4:] = 1
    assert main([changed(OFFICIAL, tmp_path / "a.safetensors", {"output.mask": mask})]) == 1
    with safe_open(OFFICIAL, "pt") as file:
        mask = file.get_tensor("output.mask") + 1e-6
    assert main([changed(OFFICIAL, tmp_path / "a.safetensors", {"output.mask": mask})]) == 1


@pytest.mark.parametrize(
    ("tensors", "line"),
    [
        ({"output.unheard_of": torch.zeros(2)}, "not recomputed"),
        ({"grad.blocks.7.norm1.weight": torch.zeros(32)}, "not recomputed"),
        ({"output.loss": torch.tensor(float("nan"))}, "FAIL"),
        ({"output.latent": torch.zeros(2, 4, 32)}, "stored (2, 4, 32), recomputed (2, 5, 32)"),
        ({"surprise": torch.zeros(1)}, "'surprise'. Expected names that begin with"),
        ({"state.extra": torch.zeros(1)}, "not in the model (1): extra"),
        ({"state.norm.weight": torch.full((32,), float("nan"))}, "NaN"),
    ],
)
def test_nothing_stored_is_passed_over(tensors, line, tmp_path, capsys):
    assert main([changed(OFFICIAL, tmp_path / "a.safetensors", tensors)]) == 1
    assert line in capsys.readouterr().out


def test_layer_decay_is_compared(tmp_path, capsys):
    with safe_open(FINETUNE, "pt") as file:
        rule = json.loads(file.metadata()["layer_decay"])
    other = {**rule, "params": {**rule["params"], "cls_token": [0.274625, 0.05]}}
    assert main([changed(FINETUNE, tmp_path / "a.safetensors", metadata={"layer_decay": json.dumps(other)})]) == 1
    del other["params"]["cls_token"]
    assert main([changed(FINETUNE, tmp_path / "a.safetensors", metadata={"layer_decay": json.dumps(other)})]) == 1
    assert "not in the file" in capsys.readouterr().out


def test_a_missing_input_fails(tmp_path, capsys):
    assert main([changed(OFFICIAL, tmp_path / "a.safetensors", drop=("input.noise",))]) == 1
    assert "has no input.noise" in capsys.readouterr().out


def test_a_file_without_outputs_fails(tmp_path, capsys):
    with safe_open(OFFICIAL, "pt") as file:
        outputs = [k for k in file.keys() if k.startswith(("output", "grad"))]
    assert main([changed(OFFICIAL, tmp_path / "a.safetensors", drop=outputs)]) == 1
    assert "it stores no output" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["vision/unknown", "smell/mae", "common/mae", "", "../x"])
def test_an_unknown_model_fails_and_the_others_are_still_checked(model, tmp_path, capsys):
    unknown = changed(OFFICIAL, tmp_path / "a.safetensors", metadata={"model": model})
    assert main([unknown, str(OFFICIAL)]) == 1
    out = capsys.readouterr().out
    assert "FAIL" in out and "output.pred" in out and out.endswith("2 file(s), 1 failure(s)\n")


def test_no_files_fails(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert main([str(tmp_path / "nowhere")]) == 1
    assert "there is no golden file" in capsys.readouterr().out


def test_other_files_fail(tmp_path, capsys):
    (tmp_path / "a.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    assert main([str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "git-LFS pointer" in out and "lacks model, layout, config" in out
