"""The encoder shared by all transformers: config, shapes, initialisation, layer ids, bad input."""

import pytest
import torch

from modalities.common.positions import sincos_table
from modalities.common.vit import ViTConfig, ViTEncoder
from trainer.config import from_dict, to_dict
from trainer.errors import ConfigError, DataError, ModelError

SMALL = dict(embed_dim=24, depth=2, num_heads=3)


class Encoder(ViTEncoder):
    system, input_key = "test/vit", "x"


CASES = {1: dict(input_size=(12,), patch_size=3), 2: dict(input_size=(8, 12), patch_size=4), 3: dict(input_size=(4, 8, 8), patch_size=(2, 4, 4))}


@pytest.mark.parametrize("axes", CASES)
@pytest.mark.parametrize("class_token", [True, False])
def test_tokens_and_features(axes, class_token):
    model = Encoder(ViTConfig(**CASES[axes], **SMALL, in_chans=2, class_token=class_token)).eval()
    batch = {"x": torch.randn(3, 2, *model.config.input_size)}
    tokens = model.tokens(batch)
    assert tokens.shape == (3, class_token + model.patch_embed.length, 24)
    assert torch.equal(model.embed(batch), tokens[:, int(class_token) :].mean(1))


def test_one_number_stands_for_all_axes():
    assert ViTConfig(input_size=32, patch_size=8).input_size == (32, 32)
    assert ViTConfig(input_size=32, patch_size=(2, 8, 8)).input_size == (32, 32, 32)
    assert ViTConfig(input_size=(64,), patch_size=8).patch_size == (8,)


def test_config_round_trip():
    config = ViTConfig(input_size=32, patch_size=8, position_layout="row-first")
    assert from_dict(ViTConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"embed_dim": 30, "num_heads": 4}, r"embed_dim=30 cannot be split into num_heads=4.*2, 3, 5"),
        ({"num_heads": 0}, "num_heads=0"),
        ({"activation": "gelo"}, "Did you mean 'gelu'"),
        ({"drop_path": 1.0}, "found 1.0"),
        ({"depth": 0}, "depth must be above 0, found 0"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio must be above 0"),
    ],
)
def test_bad_configs(fields, message):
    with pytest.raises(ConfigError, match=message):
        ViTConfig(**fields)


def test_a_size_that_does_not_fit_the_patch():
    with pytest.raises(ModelError, match=r"\(225, 225\) is not divisible.*224 or 240"):
        ViTConfig(input_size=225)


def test_wrong_input():
    model = Encoder(ViTConfig(input_size=8, patch_size=4, **SMALL))
    with pytest.raises(DataError, match=r"reads batch\['x'\]; this batch holds: image"):
        model.tokens({"image": torch.zeros(1, 3, 8, 8)})
    with pytest.raises(ModelError, match=r"\(B, 3, 8, 8\).*found \(1, 1, 8, 8\)"):
        model.tokens({"x": torch.zeros(1, 1, 8, 8)})
    with pytest.raises(ModelError, match="floating point.*torch.uint8"):
        model.tokens({"x": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)})


def test_initialisation_is_that_of_mae():
    torch.manual_seed(0)
    model = Encoder(ViTConfig(input_size=32, patch_size=8, embed_dim=96, depth=1, num_heads=3))
    qkv = model.blocks[0].attn.qkv
    bound = (6 / (96 + 3 * 96)) ** 0.5  # Xavier over the whole joint matrix
    assert 0.98 * bound < qkv.weight.abs().max() <= bound
    patch = model.patch_embed.proj
    assert patch.weight.abs().max() <= (6 / (96 + 3 * 8 * 8)) ** 0.5 and patch.bias.abs().max() > 0
    assert all(not p.any() for n, p in model.named_parameters() if n.endswith("bias") and n != "patch_embed.proj.bias")
    assert 0.01 < model.cls_token.std() < 0.03
    assert torch.equal(model.pos_embed, sincos_table(96, (4, 4), "column-first")) and not model.pos_embed.requires_grad


def test_stochastic_depth_grows_linearly():
    model = Encoder(ViTConfig(**SMALL | {"depth": 5}, drop_path=0.2))
    assert [getattr(b.drop_path1, "drop_prob", 0.0) for b in model.blocks] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_layer_ids_cover_every_parameter():
    model = Encoder(ViTConfig(**SMALL))
    ids = model.layer_ids()
    assert ids.keys() == {n for n, _ in model.named_parameters()}
    assert (ids["cls_token"], ids["pos_embed"], ids["patch_embed.proj.bias"], ids["blocks.1.mlp.fc1.weight"], ids["norm.bias"]) == (0, 0, 0, 2, 3)
