"""The official outputs, recomputed."""

from pathlib import Path

import pytest
import torch

from modalities.common.golden import Golden
from modalities.graph.golden import RUNNERS, run
from tools.check_golden import main

GOLDEN = Path(__file__).parents[2] / "golden" / "graph"


@pytest.mark.parametrize("name", ["graphmae", "graphmae_gin", "graphmae_chem", "pretrain_gnns", "w2pgnn", "preroutgnn", "preroutgnn_encoder", "preroutgnn_decoder"])
def test_golden(name, capsys):
    assert main([str(GOLDEN / f"{name}.safetensors")]) == 0, capsys.readouterr().out


def test_every_runner_has_a_file():
    from trainer.weights import read_metadata

    assert {read_metadata(path)["model"] for path in GOLDEN.glob("*.safetensors")} >= set(RUNNERS)


def test_a_file_of_the_encoder_needs_no_other_and_a_wrong_gradient_is_found(tmp_path):
    (tmp_path / "x.safetensors").write_bytes((GOLDEN / "preroutgnn_encoder.safetensors").read_bytes())
    golden = Golden.read(tmp_path / "x.safetensors")
    name = next(name for name in golden.expected if name.startswith("grad."))
    stored = golden.expected[name]
    torch.testing.assert_close(run(golden)[name], stored, rtol=1e-4, atol=1e-9)
    golden.expected[name] = stored + 0.1 * stored.std() * torch.randn(stored.shape, generator=torch.Generator().manual_seed(0))
    assert (run(golden)[name] - golden.expected[name]).std() > 0.05 * stored.std()  # no gradient at the latent leads to it


def test_gradients_of_heads_and_of_what_the_loss_does_not_reach():
    golden = Golden.read(GOLDEN / "pretrain_gnns.safetensors")
    golden.expected.update({f"grad.{name}": golden.state[name] for name in ("linear_pred_atoms.bias", "linear_pred_bonds.bias", "discriminator_weight")})
    found = run(golden)
    assert found["grad.linear_pred_atoms.bias"].abs().sum() > 0
    assert not found["grad.linear_pred_bonds.bias"].any() and found["grad.discriminator_weight"].shape == (16, 16)
