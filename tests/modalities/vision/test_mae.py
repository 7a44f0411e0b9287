"""MAE: sizes, saving and loading, the objective by its config."""

import pytest
import torch

from modalities.vision.models.mae import MAE, MAEConfig
from modalities.vision.objectives.mae import MAEObjectiveConfig
from trainer.errors import CheckpointError, ModelError

SMALL = dict(input_size=16, patch_size=4, embed_dim=24, depth=1, num_heads=3, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)


@pytest.mark.parametrize(
    ("fields", "whole", "encoder"),
    [
        ({}, 111_907_840, 85_798_656),
        ({"embed_dim": 1024, "depth": 24, "num_heads": 16}, 329_541_888, 303_301_632),
        ({"embed_dim": 1280, "depth": 32, "num_heads": 16, "patch_size": 14}, 657_074_508, 630_764_800),
    ],
    ids=["base", "large", "huge"],
)
def test_parameter_counts_of_the_paper(fields, whole, encoder):
    with torch.device("meta"):
        model = MAE(MAEConfig(**fields))
    counts = {name: p.numel() for name, p in model.named_parameters()}
    assert sum(counts.values()) == whole
    assert sum(n for name, n in counts.items() if not name.startswith(("decoder_", "mask_token"))) == encoder


def test_saved_and_loaded_it_computes_the_same(tmp_path):
    model = MAE(MAEConfig(**SMALL)).eval()
    model.name = "vision/mae-test"
    model.save_pretrained(tmp_path / "m")
    again = MAE.from_pretrained(tmp_path / "m")
    assert again.config == model.config and again.name == "vision/mae-test"
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
    assert not again.pos_embed.requires_grad and not again.training
    batch = {"image": torch.randn(2, 3, 16, 16)}
    assert torch.equal(again.embed(batch), model.embed(batch))


def test_a_checkpoint_of_another_width_is_refused(tmp_path):
    MAE(MAEConfig(**SMALL)).save_pretrained(tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"pos_embed \(1, 17, 24\) instead of \(1, 17, 48\)"):
        MAE.from_pretrained(tmp_path / "m", embed_dim=48)


def test_weights_with_nan_are_refused(tmp_path):
    model = MAE(MAEConfig(**SMALL))
    state = {**model.state_dict(), "norm.bias": torch.full((24,), torch.nan)}
    with pytest.raises(CheckpointError, match="NaN or infinity in norm.bias"):
        MAE.from_state(model.config, state, "here")


def test_the_objective_learns_a_batch():
    torch.manual_seed(0)
    objective = MAEObjectiveConfig(norm_pix_loss=False, mask_ratio=0.5).build(MAE(MAEConfig(**SMALL)))
    batch, noise = {"image": torch.randn(2, 3, 16, 16)}, torch.rand(2, 16)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = objective(batch, noise).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert objective.export() is objective.model


def test_wrong_pictures_are_named():
    model = MAE(MAEConfig(**SMALL))
    with pytest.raises(ModelError, match=r"takes inputs of shape \(B, 3, 16, 16\).*found \(2, 3, 32, 32\)"):
        model.embed({"image": torch.zeros(2, 3, 32, 32)})
