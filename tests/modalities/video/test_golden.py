"""Golden files of the official code, and of transformers in many other configurations."""

from pathlib import Path

import pytest

from modalities.common.golden import Golden
from modalities.video import golden as video
from modalities.video.interop import videomae as interop
from tests.modalities.video.references import transformers_videomae, write_golden
from trainer.errors import CheckpointError, UnknownNameError

FILES = sorted((Path(__file__).parents[2] / "golden" / "video").glob("videomae_*.safetensors"))


def largest_error(path):
    """Largest error of a file relative to max(1, magnitude), with every stored tensor compared."""
    golden = Golden.read(path)
    computed = video.run(golden)
    assert computed.keys() == golden.expected.keys()
    for name, stored in golden.expected.items():
        assert computed[name].shape == stored.shape, name
    return max((computed[n] - s).abs().max().item() / max(1, s.abs().max().item()) for n, s in golden.expected.items())


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_official_outputs(path):
    assert largest_error(path) < 5e-6


def test_all_four_files_are_there():
    assert [p.stem for p in FILES] == ["videomae_finetune", "videomae_official", "videomae_transformers", "videomae_transformers_cls"]


PRETRAINING = {
    "plain": {},
    "long": {"num_frames": 6, "tubelet_size": 3, "image_size": 24},
    "one_place": {"image_size": 16, "patch_size": 4, "num_frames": 2, "tubelet_size": 1},
    "no_biases": {"qv_bias": False},
    "no_encoder_norm": {"use_mean_pooling": True},
    "pixels": {"norm_pix_loss": False},
    "grey": {"num_channels": 1},
    "deep": {"num_hidden_layers": 4, "decoder_num_hidden_layers": 3, "hidden_act": "relu"},
    "wide": {"image_size": [16, 32]},
    "tall": {"image_size": [24, 8], "num_frames": 2},
    "own_widths": {"intermediate_size": 50, "decoder_intermediate_size": 23, "layer_norm_eps": 1e-3},
}
CLASSIFIERS = {
    "mean": {"use_mean_pooling": True, "num_labels": 5},
    "first_token": {"num_labels": 3},
    "no_biases": {"use_mean_pooling": True, "qv_bias": False, "num_frames": 2},
    "wide": {"use_mean_pooling": True, "image_size": [8, 24]},
    "named": {"use_mean_pooling": True, "id2label": {0: "walk", 1: "run", 2: "jump"}, "label2id": {"walk": 0, "run": 1, "jump": 2}},
}


@pytest.mark.parametrize("layout", ["transformers", "transformers-memory"])
@pytest.mark.parametrize("case", PRETRAINING)
def test_other_masked_autoencoders_of_transformers(case, layout, tmp_path):
    model = transformers_videomae(**PRETRAINING[case])
    state = dict(model.state_dict())
    if layout == "transformers":
        state = {k.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): v for k, v in state.items()}
    assert largest_error(write_golden(tmp_path / "x.safetensors", model, state, layout, model.config.to_dict())) < 1e-5


@pytest.mark.parametrize("hidden", [1, 11])
def test_nearly_nothing_and_nearly_everything_hidden(hidden, tmp_path):
    """One place of 12 hidden, or one visible."""
    model = transformers_videomae(image_size=[24, 32])
    path = write_golden(tmp_path / "x.safetensors", model, dict(model.state_dict()), "transformers", model.config.to_dict(), hidden=hidden)
    assert largest_error(path) < 1e-5


@pytest.mark.parametrize("case", CLASSIFIERS)
def test_other_classifiers_of_transformers(case, tmp_path):
    model = transformers_videomae(classifier=True, **CLASSIFIERS[case])
    assert largest_error(write_golden(tmp_path / "x.safetensors", model, dict(model.state_dict()), "transformers", model.config.to_dict())) < 1e-5


@pytest.mark.parametrize("case", ["plain", "long", "no_biases", "pixels"])
def test_the_official_layout_with_other_options(case, tmp_path):
    """transformers computes what the official code computes, but for the epsilon of the last norm."""
    model = transformers_videomae(**PRETRAINING[case])
    model.decoder.norm.eps = c_eps = 1e-6
    model.videomae.layernorm.eps = c_eps
    for module in model.modules():
        if type(module).__name__ == "LayerNorm":
            module.eps = c_eps
    c = model.config
    _, _, _, ours = interop.from_layout(dict(model.state_dict()), c.to_dict(), "transformers-memory")
    config = {
        "img_size": c.image_size, "patch_size": c.patch_size, "encoder_num_heads": c.num_attention_heads, "decoder_num_heads": c.decoder_num_attention_heads,
        "norm_eps": c_eps, "num_frames": c.num_frames, "tubelet_size": c.tubelet_size, "mask_ratio": 0.5, "normlize_target": c.norm_pix_loss,
    }  # fmt: skip
    path = write_golden(tmp_path / "x.safetensors", model, interop.to_layout(ours, "official", decoder=True), "official", config)
    assert largest_error(path) < 1e-5


def test_files_that_do_not_fit_are_named(tmp_path):
    model = transformers_videomae()
    state = dict(model.state_dict())
    path = write_golden(tmp_path / "x.safetensors", model, {**state, "extra": state["mask_token"]}, "transformers", model.config.to_dict())
    with pytest.raises(CheckpointError, match=r"not in the model \(1\): extra"):
        largest_error(path)
    path = write_golden(tmp_path / "y.safetensors", model, state, "transformers", model.config.to_dict())
    golden = Golden.read(path)
    object.__setattr__(golden, "model", "video/videomaee")
    with pytest.raises(UnknownNameError, match="Did you mean 'video/videomae'"):
        video.run(golden)
