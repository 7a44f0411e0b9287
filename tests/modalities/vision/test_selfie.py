"""Selfie: what is picked, what is known of positions, learning, export."""

import pytest
import torch

from modalities import registry
from modalities.common.run import run
from modalities.vision.digits import SceneConfig
from modalities.vision.models.convnet import ConvNet, ConvNetConfig
from modalities.vision.objectives.selfie import Selfie, SelfieConfig
from tests.modalities.vision.spark_reference import lively
from tests.small import pictures
from trainer.config import replace, to_dict
from trainer.errors import ConfigError

SMALL = dict(input_size=64, block="basic", depths=(1, 1, 1, 1), widths=(8, 8, 16, 16))
POOL = dict(patch_size=16, hidden=0.25, depth=1, heads=4, mlp=32, dropout=0.0)


def built(**changes):
    torch.manual_seed(0)
    return Selfie(lively(ConvNet(ConvNetConfig(**SMALL))), SelfieConfig(**POOL | changes))


def test_positions_and_patches_are_in_one_order():
    """Moving the content of two held-out places moves the scores of these two patches, and nothing else."""
    objective = built().eval()
    image, noise = torch.randn(1, 3, 64, 64), torch.arange(16.0)[None]  # held out: the last row
    with torch.no_grad():
        before = objective.logits(image, noise)
        swapped = image.clone()
        swapped[..., 48:, 0:16], swapped[..., 48:, 32:48] = image[..., 48:, 32:48], image[..., 48:, 0:16]
        after = objective.logits(swapped, noise)
    assert before.shape == (1, 4, 4) and torch.allclose(after[..., [2, 1, 0, 3]], before, atol=1e-5) and not torch.allclose(after, before, atol=1e-3)


def test_patches_are_alone_and_keys_have_no_position():
    """The score of a patch for a position depends on the visible patches as a set: their order does not matter."""
    objective = built().eval()
    image, noise = torch.randn(1, 3, 64, 64), torch.arange(16.0)[None]
    turned = image.clone()
    turned[..., 0:16, 0:16], turned[..., 16:32, 16:32] = image[..., 16:32, 16:32], image[..., 0:16, 0:16]
    with torch.no_grad():
        assert torch.allclose(objective.logits(turned, noise), objective.logits(image, noise), atol=1e-4)


def test_only_three_stages_learn():
    objective = built().train()
    objective({"image": torch.randn(4, 3, 64, 64)}).loss.backward()
    last = objective.model.backbone.parts()[-1]
    assert all(p.grad is None for p in last.parameters())
    assert all(p.grad is not None for name, p in objective.named_parameters() if "layer4" not in name)


def test_it_learns_where_patches_belong():
    """Every picture is the same gradient with noise: a patch tells its place."""
    objective = built()
    ramp = torch.linspace(-2, 2, 64)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        image = (ramp[:, None] + 2 * ramp[None]).expand(8, 3, 64, 64) + 0.1 * torch.randn(8, 3, 64, 64, generator=generator)
        losses = objective({"image": image}, torch.rand(8, 16, generator=generator))
        optimizer.zero_grad()
        losses.loss.backward()
        optimizer.step()
    assert losses.parts["accuracy"] > 0.6  # by chance 0.25


def test_masks_follow_the_sample_keys():
    objective = built().eval()
    image, keys = torch.randn(3, 3, 64, 64), torch.tensor([4, 5, 6])
    with torch.no_grad():
        whole = objective({"image": image, "sample_key": keys}).loss
        parts = [objective({"image": image[i : i + 1], "sample_key": keys[i : i + 1]}).loss for i in range(3)]
    assert torch.allclose(whole, torch.stack(parts).mean(), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"patch_size": 24}, "multiple of 16"), ({"patch_size": 48}, "does not divide images of"), ({"hidden": 0.05}, "holds out 1; at least 2"),
     ({"heads": 3}, "width of 16 cannot be split into heads=3"), ({"hidden": 1.0}, "hidden must lie between 0 and 1"), ({"depth": 0}, "must be at least 1")],
)  # fmt: skip
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        built(**changes)


def test_the_recipe_runs_and_exports_a_backbone(tmp_path):
    small = {f"model.{name}": value if name != "input_size" else (64, 64) for name, value in SMALL.items()} | {"model.in_chans": 3}
    short = {"train.steps": 2, "train.batch_size": 4, "train.workers": 0, "data.path": str(pictures(tmp_path / "data")), "data.scenes": to_dict(SceneConfig())}
    place = run(replace(registry.find_recipe("vision/selfie-tiny"), {**small, **short, "objective.patch_size": 16}), tmp_path / "run")
    assert ConvNet.from_pretrained(place).name == "vision/selfie-tiny"
