"""The classifier: pooling, probe, heads, and the way from a pre-trained encoder."""

import math

import pytest
import torch

from modalities.common.positions import resize_positions
from modalities.vision.models.mae import MAE, MAEConfig
from modalities.vision.models.vit import ViTClassifier, ViTClassifierConfig
from modalities.vision.preprocess import ImagePreprocess
from tests.modalities.vision.references import randomise
from trainer.errors import ConfigError, DataError, ModelError
from trainer.optim import parameter_groups

SMALL = dict(input_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3, num_classes=5)
IMAGE = {"image": torch.randn(4, 3, 16, 16)}


def encoder(**changes):
    return randomise(MAE(MAEConfig(**{**{k: v for k, v in SMALL.items() if k != "num_classes"}, "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2, **changes})))


@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize("classes", [0, 5])
def test_shapes(pool, classes):
    model = ViTClassifier(ViTClassifierConfig(**SMALL | {"num_classes": classes}, pool=pool)).eval()
    assert model(IMAGE).shape == (4, classes or 24)
    assert model.embed(IMAGE).shape == (4, 24) and model.tokens(IMAGE).shape == (4, 17, 24)
    names = set(model.state_dict())
    assert ("fc_norm.weight" in names, "norm.weight" in names) == (pool == "avg", pool == "token")


def test_average_pooling_leaves_the_class_token_out():
    model = randomise(ViTClassifier(ViTClassifierConfig(**SMALL)))
    tokens = model.blocks(model.prepend_class_token(model.embed_patches(IMAGE["image"])))
    torch.testing.assert_close(model.embed(IMAGE), model.fc_norm(tokens[:, 1:].mean(1)))


def test_head_starts_as_in_the_official_code():
    torch.manual_seed(0)
    for kind, std in (("linear", 2e-5), ("probe", 0.01)):
        model = ViTClassifier(ViTClassifierConfig(**SMALL | {"num_classes": 200}, head=kind))
        linear = model.head if kind == "linear" else model.head[1]
        assert 0.9 * std < linear.weight.std() < 1.1 * std and not linear.bias.any()


def test_what_trains():
    assert all(p.requires_grad for p in ViTClassifier(ViTClassifierConfig(**SMALL)).parameters())
    probe = ViTClassifier(ViTClassifierConfig(**SMALL, head="probe", pool="token"))
    assert [n for n, p in probe.named_parameters() if p.requires_grad] == ["head.1.weight", "head.1.bias"]


def test_a_probe_keeps_its_trunk_in_evaluation_mode():
    probe = ViTClassifier(ViTClassifierConfig(**SMALL, head="probe", pool="token", drop_path=0.5)).train()
    assert probe.head[0].training and not probe.blocks.training and not probe.norm.training
    features = probe.embed(IMAGE)
    assert torch.equal(features, probe.embed(IMAGE))
    probe(IMAGE).sum().backward()
    torch.testing.assert_close(probe.head[0].running_mean, 0.1 * features.mean(0))
    assert not probe.eval().head[0].training
    with pytest.raises(DataError, match="at least 2 samples, found 1"):
        probe.train()({"image": IMAGE["image"][:1]})


def test_positions_and_class_token_are_not_decayed_in_fine_tuning():
    groups = parameter_groups(ViTClassifier(ViTClassifierConfig(**SMALL)), 0.05, 0.5)
    rule = {n: (g["lr_scale"], g["weight_decay"]) for g in groups for n in g["names"]}
    assert rule["cls_token"] == rule["pos_embed"] == (0.125, 0.0)
    assert rule["blocks.0.attn.qkv.weight"] == (0.25, 0.05) and rule["blocks.1.mlp.fc2.bias"] == (0.5, 0.0)
    assert rule["head.weight"] == (1.0, 0.05) and rule["fc_norm.weight"] == (1.0, 0.0)


def test_from_encoder_takes_the_trunk():
    source = encoder()
    source.preprocess = ImagePreprocess.default((16, 16))
    model = ViTClassifier.from_encoder(source, 5, "token", class_names=tuple("abcde")).eval()
    torch.testing.assert_close(model.embed(IMAGE), source.tokens(IMAGE)[:, 0])
    assert model.preprocess == source.preprocess and model.config.class_names == tuple("abcde")
    assert model.pos_embed.requires_grad
    average = ViTClassifier.from_encoder(source, 5).eval()
    assert torch.equal(average.blocks[1].mlp.fc2.weight, source.blocks[1].mlp.fc2.weight)
    assert average.fc_norm.weight.eq(1).all()
    with torch.no_grad():  # a copy: training the classifier leaves the encoder as it was
        average.cls_token.zero_()
    assert source.cls_token.any()


def test_from_encoder_resizes_the_positions():
    source = encoder()
    source.preprocess = ImagePreprocess.default((16, 16))
    model = ViTClassifier.from_encoder(source, 5, input_size=(24, 32))
    assert torch.equal(model.pos_embed, resize_positions(source.pos_embed, (4, 4), (6, 8)))
    assert model.preprocess.size == (24, 32)
    assert model({"image": torch.randn(1, 3, 24, 32)}).shape == (1, 5)


def test_from_encoder_refuses_what_does_not_fit():
    with pytest.raises(ModelError, match=r"(?s)missing in the checkpoint.*blocks.2.attn.proj.bias"):
        ViTClassifier.from_encoder(encoder(), 5, depth=3)
    fine_tuned = ViTClassifier.from_encoder(encoder(), 5)
    with pytest.raises(ModelError, match="(?s)norm.bias, norm.weight.*fc_norm.bias.*pool='avg'"):
        ViTClassifier.from_encoder(fine_tuned, 3, "token")
    assert ViTClassifier.from_encoder(fine_tuned, 3).fc_norm.weight is not fine_tuned.fc_norm.weight


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_classes": -1}, "found -1"),
        ({"class_names": ("a", "b")}, "2 names for num_classes=5"),
        ({"pool": "token", "class_token": False}, "class_token=True"),
        ({"head": "probe", "num_classes": 0}, "found 0"),
    ],
)
def test_bad_configs(fields, message):
    with pytest.raises(ConfigError, match=message):
        ViTClassifierConfig(**{**SMALL, **fields})


def test_base_classifier_has_the_shapes_of_timm():
    import timm

    with torch.device("meta"):
        ours = ViTClassifier(ViTClassifierConfig(pool="token")).state_dict()
    theirs = timm.create_model("vit_base_patch16_224").state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    assert sum(math.prod(v.shape) for v in ours.values()) == 86_567_656
