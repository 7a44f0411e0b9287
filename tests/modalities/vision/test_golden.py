"""Golden files of the official code, and of timm and transformers in many other configurations."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from modalities.common.golden import Golden
from modalities.vision import golden as vision
from tests.modalities.vision.references import timm_vit, transformers_mae, write_mae_golden, write_vit_golden
from trainer.errors import CheckpointError, UnknownNameError

FILES = sorted((Path(__file__).parents[2] / "golden" / "vision").glob("mae_*.safetensors"))


def largest_error(path):
    """Largest error of a file relative to max(1, magnitude), with every stored tensor compared."""
    golden = Golden.read(path)
    computed = vision.run(golden)
    assert computed.keys() == golden.expected.keys()
    for name, stored in golden.expected.items():
        assert computed[name].shape == stored.shape, name
    return max((computed[n] - s).abs().max().item() / max(1, s.abs().max().item()) for n, s in golden.expected.items())


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_official_outputs(path):
    assert largest_error(path) < 5e-6


def test_all_three_files_are_there():
    assert [p.stem for p in FILES] == ["mae_finetune", "mae_official", "mae_transformers"]


MAE_CASES = {
    "plain": {},
    "wide_patches": {"hidden_size": 32, "num_attention_heads": 8, "intermediate_size": 64, "decoder_intermediate_size": 32, "image_size": 32, "patch_size": 16},
    "ratio": {"mask_ratio": 0.6, "norm_pix_loss": False},
    "grey": {"num_channels": 1, "decoder_num_hidden_layers": 2},
    "no_qkv_bias": {"qkv_bias": False},
    "large_eps": {"layer_norm_eps": 1e-2},
    "deep": {"num_hidden_layers": 5, "patch_size": 2, "mask_ratio": 0.9},
    "one_visible": {"mask_ratio": 0.9375},
    "none_visible": {"mask_ratio": 0.95},
}
TRANSFORMERS_CASES = {
    **MAE_CASES,
    "own_sizes": {"intermediate_size": 50, "decoder_intermediate_size": 23},
    "tiny_eps": {"layer_norm_eps": 1e-12, "hidden_act": "gelu_new"},
    "relu": {"hidden_act": "relu", "num_channels": 4},
    "default_heads": {"hidden_size": 48, "num_attention_heads": 12, "decoder_hidden_size": 32, "decoder_num_attention_heads": 16},
}


@pytest.mark.parametrize("case", MAE_CASES)
def test_other_masked_autoencoders_in_the_official_layout(case, tmp_path):
    write_mae_golden(tmp_path / "x.safetensors", transformers_mae(**MAE_CASES[case]), tmp_path, "official", grad="output.grad")
    assert largest_error(tmp_path / "x.safetensors") < 1e-5


@pytest.mark.parametrize("layout", ["transformers", "transformers-5"])
@pytest.mark.parametrize("case", TRANSFORMERS_CASES)
def test_other_masked_autoencoders_of_transformers(case, layout, tmp_path):
    write_mae_golden(tmp_path / "x.safetensors", transformers_mae(**TRANSFORMERS_CASES[case]), tmp_path, layout)
    assert largest_error(tmp_path / "x.safetensors") < 1e-5


@pytest.mark.parametrize(
    ("layout", "changes", "drop"),
    [
        ("official", {"num_attention_heads": 16, "hidden_size": 64, "decoder_num_attention_heads": 16, "decoder_hidden_size": 32, "norm_pix_loss": False,
                      "intermediate_size": 256, "decoder_intermediate_size": 128, "layer_norm_eps": 1e-5},
         ("num_heads", "decoder_num_heads", "norm_pix_loss", "mask_ratio", "norm_eps", "mlp_ratio", "in_chans", "depth", "img_size")),
        ("transformers", {"num_attention_heads": 12, "decoder_num_attention_heads": 16, "norm_pix_loss": False, "layer_norm_eps": 1e-12},
         ("num_attention_heads", "decoder_num_attention_heads", "norm_pix_loss", "mask_ratio", "layer_norm_eps", "qkv_bias", "hidden_act",
          "intermediate_size", "num_channels")),
    ],
)  # fmt: skip
def test_what_the_config_leaves_out_takes_the_class_defaults(layout, changes, drop, tmp_path):
    write_mae_golden(tmp_path / "x.safetensors", transformers_mae(**changes), tmp_path, layout, drop=drop)
    assert largest_error(tmp_path / "x.safetensors") < 1e-5


VIT_CASES = {
    "plain": {},
    "token": {"global_pool": "token"},
    "no_bias": {"qkv_bias": False, "depth": 3},
    "grey": {"in_chans": 1, "mlp_ratio": 2.5, "patch_size": 8},
    "bands": {"in_chans": 4, "embed_dim": 40, "num_heads": 5},
    "features": {"num_classes": 0},
    "features_token": {"num_classes": 0, "global_pool": "token"},
    "eps": {"norm_eps": 1e-3},
}


@pytest.mark.parametrize("case", VIT_CASES)
def test_other_classifiers(case, tmp_path):
    arguments = VIT_CASES[case]
    network = {k: v for k, v in arguments.items() if k != "norm_eps"}
    model = timm_vit(norm_layer=partial(nn.LayerNorm, eps=arguments.get("norm_eps", 1e-6)), **network)
    write_vit_golden(tmp_path / "x.safetensors", model, arguments, old_side=5, decay=0.8)
    assert largest_error(tmp_path / "x.safetensors") < 1e-5


def test_a_classifier_without_optional_fields(tmp_path):
    arguments = {"num_heads": 12, "global_pool": "token"}
    drop = ("num_heads", "in_chans", "mlp_ratio", "qkv_bias", "norm_eps", "global_pool", "num_classes")
    write_vit_golden(tmp_path / "x.safetensors", timm_vit(**arguments), arguments, drop=drop)
    assert largest_error(tmp_path / "x.safetensors") < 1e-5


def test_a_file_that_contradicts_itself_is_refused(tmp_path):
    write_vit_golden(tmp_path / "x.safetensors", timm_vit(), {"global_pool": "token"})
    with pytest.raises(CheckpointError, match="norm.weight"):
        vision.run(Golden.read(tmp_path / "x.safetensors"))


def test_an_unknown_model_names_the_nearest():
    golden = Golden.read(FILES[0])
    object.__setattr__(golden, "model", "vision/mae_vits")
    with pytest.raises(UnknownNameError, match="Did you mean 'vision/mae_vit'"):
        vision.run(golden)


def test_a_missing_input_is_named():
    golden = Golden.read(FILES[1])
    del golden.inputs["noise"]
    with pytest.raises(CheckpointError, match="no input.noise"):
        vision.run(golden)


def test_same_result_twice():
    first, second = (vision.run(Golden.read(FILES[1])) for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)
