"""MR-MAE: what the visible tokens are compared with, which teachers do, and where the teacher's tensors are not."""

import copy

import pytest
import timm
import torch
from torch.nn import functional as F

from modalities.vision.models.mae import MAE, MAEConfig
from modalities.vision.objectives.mae import MAEObjectiveConfig
from modalities.vision.objectives.mimic import MimicConfig
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.sources import ImageArray
from modalities.vision.teachers import open_encoder
from trainer.errors import CheckpointError, ConfigError, ModelError, UnknownNameError
from trainer.flops import flops_per_sample
from trainer.optim import parameter_groups

SMALL = dict(input_size=16, patch_size=4, embed_dim=24, depth=1, num_heads=3, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
OWN = ImagePreprocess((16, 16), 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), crop_pct=1.0)


def student(preprocess=OWN, **changes):
    torch.manual_seed(0)
    model = MAE(MAEConfig(**{**SMALL, "in_chans": preprocess.channels, **changes}))
    model.preprocess = preprocess
    return model


@pytest.fixture(scope="module")
def zoo_teacher(tmp_path_factory):
    """A ViT of another width whose images are normalised otherwise."""
    torch.manual_seed(1)
    teacher = MAE(MAEConfig(**SMALL | {"embed_dim": 36}))
    teacher.preprocess = ImagePreprocess((16, 16), 3, crop_pct=1.0)
    place = tmp_path_factory.mktemp("teacher") / "zoo"
    teacher.save_pretrained(place)
    return str(place)


def stored(folder, name, data, **arguments):
    """`timm:local-dir:FOLDER` of a network with random weights."""
    torch.manual_seed(2)
    network = timm.create_model(name, num_classes=0, **arguments)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.02 * torch.randn_like(p))  # no norm or bias is as it begins
    timm.models.save_for_hf(network, folder, model_args=arguments, safe_serialization=True, data_config=data)
    return f"timm:local-dir:{folder}"


@pytest.fixture(scope="module")
def timm_teacher(tmp_path_factory):
    """A ViT with a class token at twice the student's size, 8 x 8 patches."""
    data = {"input_size": (3, 32, 32), "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    return stored(
        tmp_path_factory.mktemp("timm") / "vit", "vit_tiny_patch16_224", data, img_size=32, patch_size=4, embed_dim=20, depth=2, num_heads=2
    )


def objective(teacher, model=None, **fields):
    torch.manual_seed(3)
    return MAEObjectiveConfig(mask_ratio=0.5, mimic=MimicConfig(teacher, **fields)).build(model or student())


def run(objective, images=2):
    torch.manual_seed(4)
    channels = objective.model.config.in_chans
    batch, noise = {"image": torch.randn(images, channels, 16, 16)}, torch.rand(images, 16)
    return batch, objective.model(batch, noise, 0.5), objective.train()(batch, noise)


@pytest.mark.parametrize("loss", ["mse", "cosine", "smooth_l1"])
@pytest.mark.parametrize("norm", ["none", "layernorm"])
def test_the_visible_tokens_are_compared_with_the_teachers_at_their_places(zoo_teacher, loss, norm):
    built = objective(zoo_teacher, loss=loss, target_norm=norm, weight=0.5)
    batch, out, losses = run(built)
    teacher = MAE.from_pretrained(zoo_teacher).eval()
    pixels = batch["image"] * torch.tensor(OWN.std).view(3, 1, 1) + torch.tensor(OWN.mean).view(3, 1, 1)
    with torch.no_grad():
        tokens = teacher.tokens({"image": teacher.preprocess.normalise(pixels)})[:, 1:]
    distances = []
    for b in range(2):
        for k, place in enumerate(out.masking.ids_keep[b].tolist()):
            said, target = built.terms["mimic"].head(out.latent[b, 1 + k]), tokens[b, place]
            target = (target - target.mean()) / (target.var(unbiased=False) + 1e-5).sqrt() if norm == "layernorm" else target
            distances.append({"mse": (said - target).square().mean(), "cosine": 1 - F.cosine_similarity(said, target, dim=0), "smooth_l1": F.smooth_l1_loss(said, target)}[loss])
    expected = torch.stack(distances).mean()
    torch.testing.assert_close(losses.parts["mimic"], expected.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(losses.loss, losses.parts["reconstruction"] + 0.5 * losses.parts["mimic"])


def test_hidden_tokens_and_the_decoder_are_left_alone(zoo_teacher):
    built = objective(zoo_teacher)
    batch, out, _ = run(built)
    built.terms["mimic"](built.model, batch, out).backward()
    moved = {name for name, p in built.named_parameters() if p.grad is not None}
    assert "terms.mimic.head.weight" in moved and "model.blocks.0.attn.qkv.weight" in moved
    assert not any(name.startswith(("model.decoder_", "model.mask_token")) for name in moved)


def test_without_training_the_loss_is_the_reconstructions(zoo_teacher):
    built, plain = objective(zoo_teacher).eval(), MAEObjectiveConfig(mask_ratio=0.5).build(student()).eval()
    batch, noise = {"image": torch.randn(2, 3, 16, 16)}, torch.rand(2, 16)
    assert torch.equal(built(batch, noise).loss, plain(batch, noise).loss) and built(batch, noise).parts == {}


def test_the_teacher_is_in_no_state_and_in_no_export(zoo_teacher):
    built = objective(zoo_teacher)
    own = {f"model.{name}" for name in student().state_dict()}
    assert set(built.state_dict()) == own | {"terms.mimic.head.weight", "terms.mimic.head.bias"}
    assert set(built.export().state_dict()) == set(student().state_dict())
    trained = {name for group in parameter_groups(built, 0.05) for name in group["names"]}
    assert {name for name in trained if not name.startswith("model.")} == {"terms.mimic.head.weight", "terms.mimic.head.bias"}
    built.train()
    teacher = built.terms["mimic"].teacher.on(torch.device("cpu"))
    assert not any(m.training for m in teacher.modules()) and not any(p.requires_grad for p in teacher.parameters())


def test_a_timm_teacher_sees_its_own_size_and_its_class_token_is_not_counted(timm_teacher):
    built = objective(timm_teacher, target_norm="none")
    batch, out, losses = run(built)
    teacher = timm.create_model(timm_teacher.removeprefix("timm:"), pretrained=True).eval()
    pixels = batch["image"] * torch.tensor(OWN.std).view(3, 1, 1) + torch.tensor(OWN.mean).view(3, 1, 1)
    seen = F.interpolate((pixels - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1), (32, 32), mode="bicubic", antialias=True)
    with torch.no_grad():
        tokens = teacher.forward_features(seen)[:, 1:]  # (2, 64, 20)
        grid = F.interpolate(tokens.transpose(1, 2).unflatten(2, (8, 8)), (4, 4), mode="bicubic").flatten(2).transpose(1, 2)
    visible = torch.stack([grid[b, out.masking.ids_keep[b]] for b in range(2)])
    torch.testing.assert_close(losses.parts["mimic"], F.mse_loss(built.terms["mimic"].head(out.latent[:, 1:]), visible).detach(), atol=1e-5, rtol=1e-4)


def test_the_class_token_on_request(timm_teacher):
    built = objective(timm_teacher, target_norm="none", class_token=True)
    batch, out, losses = run(built)
    term = built.terms["mimic"]
    target = term.target(batch["image"], (4, 4), out.masking.ids_keep)
    assert target.shape == (2, 9, 20)
    first = term.teacher.on(torch.device("cpu")).features(batch["image"], OWN, (4, 4))[1]
    assert torch.equal(target[:, 0], first)
    torch.testing.assert_close(losses.parts["mimic"], F.mse_loss(term.head(out.latent), target).detach())
    with pytest.raises(ConfigError, match="the student has none"):
        objective(timm_teacher, student(class_token=False), class_token=True)


def test_a_convnet_teaches_too_and_grey_students_may_have_coloured_teachers(tmp_path):
    name = stored(tmp_path / "net", "resnet10t", {"input_size": (3, 64, 64)})
    grey = student(ImagePreprocess((16, 16), 1, (0.5,), (0.5,), crop_pct=1.0))
    built = objective(name, grey)
    _, _, losses = run(built)
    losses.loss.backward()
    assert built.terms["mimic"].head.out_features == 512 and losses.loss.isfinite()
    with pytest.raises(ConfigError, match="class token on both sides"):
        objective(name, grey, class_token=True)


def test_teachers_that_cannot_be(tmp_path, zoo_teacher, timm_teacher):
    with pytest.raises(UnknownNameError, match="vit_base_patch16_clip_22x.*Did you mean 'vit_base_patch16_clip_224'"):
        open_encoder("timm:vit_base_patch16_clip_22x.openai")
    with pytest.raises(UnknownNameError, match="vision/mae-tiny-digit"):
        open_encoder("vision/mae-tiny-digit")
    with pytest.raises(CheckpointError, match="local-dir"):
        open_encoder(f"timm:local-dir:{tmp_path / 'nothing'}")
    with pytest.raises(CheckpointError, match="no weights come with it"):
        open_encoder("vision/mae-base")
    grey = MAE(MAEConfig(**SMALL | {"in_chans": 1}))
    grey.preprocess = ImagePreprocess((16, 16), 1, (0.5,), (0.5,), crop_pct=1.0)
    grey.save_pretrained(tmp_path / "grey")
    with pytest.raises(ModelError, match="teacher takes 1 channel.*student 3"):
        run(objective(str(tmp_path / "grey")))


@pytest.mark.parametrize("fields", [{"weight": 2.0}, {"loss": "cosine"}, {"class_token": True}, {"target_norm": "none"}])
def test_settings_without_a_teacher_are_refused(fields):
    with pytest.raises(ConfigError, match=rf"mimic\.{next(iter(fields))} is set, and nothing would use it: mimic\.teacher is not"):
        MimicConfig(**fields)


def test_a_weight_must_be_above_zero(zoo_teacher):
    with pytest.raises(ConfigError, match="mimic.weight.*above 0, found 0"):
        MimicConfig(zoo_teacher, weight=0.0)


def test_the_teachers_arithmetic_is_counted_without_moving_it(zoo_teacher):
    images = ImageArray(torch.randint(0, 255, (4, 3, 16, 16), dtype=torch.uint8), OWN)
    built = objective(zoo_teacher)
    assert flops_per_sample(built, images, 0) > flops_per_sample(MAEObjectiveConfig(mask_ratio=0.5).build(student()), images, 0)
    assert next(built.terms["mimic"].teacher.on(torch.device("cpu")).parameters()).device.type == "cpu"
    assert copy.deepcopy(built).terms["mimic"].teacher is built.terms["mimic"].teacher
