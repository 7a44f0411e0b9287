"""Checkpoints of other libraries, there and back: names, values and outputs."""

import json

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from modalities.common import pretrained
from modalities.vision.interop import mae as interop
from modalities.vision.models.mae import MAE, MAEConfig
from modalities.vision.models.vit import ViTClassifier, ViTClassifierConfig
from tests.modalities.vision.references import hub_names, images, official_names, randomise, saved_by_transformers, timm_vit, transformers_mae
from trainer.config import from_dict
from trainer.errors import CheckpointError, ModelError

SMALL = dict(
    input_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2, mlp_ratio=2.5
)


def small_mae(**changes):
    return randomise(MAE(MAEConfig(**{**SMALL, **changes})))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("changes", [{}, {"qkv_bias": False, "num_channels": 1, "norm_pix_loss": False, "mask_ratio": 0.5, "intermediate_size": 50}])
def test_every_spelling_of_transformers_is_read(changes, tmp_path):
    theirs = transformers_mae(**changes)
    written, config = saved_by_transformers(theirs, tmp_path)
    spellings = {"transformers-5": written, "transformers": hub_names(written), "transformers-memory": theirs.state_dict()}
    image, noise = images(theirs.config)
    with torch.no_grad():
        wanted = theirs(pixel_values=image, noise=noise)
    for layout, state in spellings.items():
        assert interop.recognise(state.keys(), config) == layout
        assert interop.recognise(state.keys(), None) == layout
        system, fields, objective, ours = interop.from_layout(state, config, layout)
        assert system == "vision/mae" and same(ours, official_names(theirs.state_dict()))
        assert objective == {"mask_ratio": theirs.config.mask_ratio, "norm_pix_loss": theirs.config.norm_pix_loss}
        model = MAE.from_state(from_dict(MAEConfig, fields), ours, "test")
        assert model.config.norm_eps == theirs.config.layer_norm_eps
        with torch.no_grad():
            out = model({"image": image}, noise, theirs.config.mask_ratio)
        torch.testing.assert_close(out.prediction, wanted.logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", ["transformers", "transformers-5"])
@pytest.mark.parametrize("changes", [{}, {"qkv_bias": False, "in_chans": 1, "norm_eps": 1e-3, "activation": "gelu_new", "decoder_mlp_ratio": 1.5}])
def test_transformers_itself_reads_what_we_write(variant, changes, tmp_path):
    from transformers import ViTMAEForPreTraining

    model = small_mae(**changes)
    state, config = interop.to_transformers(model, {"mask_ratio": 0.5}, variant)
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs, report = ViTMAEForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert same(official_names(theirs.state_dict()), dict(model.state_dict()))
    image, noise = images(theirs.config)
    with torch.no_grad():
        ours = model({"image": image}, noise, 0.5)
        torch.testing.assert_close(theirs(pixel_values=image, noise=noise).logits, ours.prediction, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", interop.LAYOUTS)
def test_round_trip_of_a_mae(layout):
    model = small_mae()
    if layout == "timm":
        encoder = interop.to_timm(model)
        config = {"architecture": "vit_x", "model_args": {"num_heads": 3}}
        system, fields, _, state = interop.from_layout(encoder, config, layout)
        assert system == "vision/mae-vit" and (fields["num_classes"], fields["pool"]) == (0, "token")
        assert same(state, encoder)
        return
    if layout == "official":
        state, config = interop.to_official(model), {"num_heads": 3, "decoder_num_heads": 2}
    else:
        state, config = interop.to_transformers(model, variant=layout)
    system, fields, _, back = interop.from_layout(state, config, layout)
    assert from_dict(MAEConfig, fields) == model.config
    assert system == "vision/mae" and same(back, dict(model.state_dict()))


def test_an_encoder_that_transformers_saved_alone(tmp_path):
    theirs = transformers_mae().vit
    state, config = saved_by_transformers(theirs, tmp_path)
    assert "embeddings.cls_token" in state
    model = pretrained.from_tensors(state, config, "test")
    image, _ = images(theirs.config)
    theirs.config.mask_ratio = 0.0
    with torch.no_grad():
        wanted = theirs(pixel_values=image, noise=torch.arange(16.0).expand(2, -1)).last_hidden_state
        torch.testing.assert_close(model.tokens({"image": image}), wanted, atol=1e-5, rtol=0)
    assert isinstance(model, ViTClassifier)


@pytest.mark.parametrize("changes", [{}, {"patch_size": 2, "in_chans": 1, "qkv_bias": False}])
def test_timm_computes_the_same_features_from_our_encoder(changes):
    model = small_mae(**changes)
    c = model.config
    theirs = VisionTransformer(img_size=16, patch_size=c.patch_size, in_chans=c.in_chans, num_classes=0, global_pool="token",
                               embed_dim=24, depth=2, num_heads=3, mlp_ratio=2.5, qkv_bias=c.qkv_bias).eval()  # fmt: skip
    theirs.load_state_dict(interop.to_timm(model), strict=True)
    image = torch.randn(2, c.in_chans, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(theirs.forward_features(image), model.tokens({"image": image}), atol=1e-5, rtol=0)
        assert torch.equal(theirs(image), theirs.forward_features(image)[:, 0])


def test_timm_vit_base_takes_our_base_encoder():
    import timm

    torch.manual_seed(0)
    model = MAE(MAEConfig(decoder_depth=1)).eval()
    with torch.device("meta"):
        theirs = timm.create_model("vit_base_patch16_224", num_classes=0).eval()
    theirs.load_state_dict(interop.to_timm(model), strict=True, assign=True)
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(theirs.forward_features(image), model.tokens({"image": image}), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_a_classifier_of_timm_there_and_back(pool):
    theirs = timm_vit(global_pool=pool, in_chans=1)
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 5, "global_pool": pool, "model_args": {"num_heads": 3},
              "pretrained_cfg": {"mean": [0.1], "std": [0.2], "crop_pct": 0.9, "interpolation": "bilinear"}}  # fmt: skip
    assert interop.recognise(theirs.state_dict().keys(), config) == "timm"
    model = pretrained.from_tensors(theirs.state_dict(), config, "test")
    assert (model.preprocess.mean, model.preprocess.crop_pct, model.preprocess.size) == ((0.1,), 0.9, (16, 16))
    assert same(interop.to_timm(model), dict(theirs.state_dict()))
    image = torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model({"image": image}), theirs(image), atol=1e-5, rtol=0)


def test_official_files_of_the_published_sizes_need_no_config():
    for width, heads in ((768, 12), (1024, 16), (1280, 16)):  # huge has heads of width 80
        with torch.device("meta"):
            state = MAE(MAEConfig(embed_dim=width, num_heads=heads, depth=2)).state_dict()
        assert interop.recognise(state.keys(), None) == "official"
        system, fields, _, _ = interop.from_layout(state, None, "official")
        assert (system, fields["num_heads"], fields["decoder_num_heads"], fields["input_size"]) == ("vision/mae", heads, 16, (224, 224))


def test_a_width_that_nobody_published_asks_for_the_heads():
    with pytest.raises(CheckpointError, match="embed_dim=24 is no published size.*num_heads"):
        interop.from_layout(dict(small_mae().state_dict()), None, "official")


def test_what_is_not_ours_is_not_recognised():
    state = small_mae().state_dict()
    assert interop.recognise(state.keys(), {"model_type": "vit"}) is None
    assert interop.recognise(state.keys(), {"architecture": "beit_base_patch16_224"}) is None
    assert interop.recognise(state.keys(), ["a", "list"]) is None
    assert interop.recognise(["conv1.weight"], None) is None
    assert interop.recognise(["vit.embeddings.cls_token", "classifier.weight"], None) is None


@pytest.mark.parametrize("layout", ["official", "transformers", "transformers-5"])
def test_missing_extra_and_misshaped_tensors_are_all_listed(layout):
    model = small_mae()
    state = dict(interop.to_layout(model.state_dict(), layout))
    config = {"num_heads": 3, "decoder_num_heads": 2} if layout == "official" else interop.to_transformers(model)[1]
    missing = [interop.names_in(n, layout)[0] for n in ("blocks.1.norm2.bias", "mask_token", "cls_token")]
    for name in missing:
        del state[name]
    state["stranger"], state[interop.names_in("norm.bias", layout)[0]] = torch.zeros(1), torch.zeros(3)
    with pytest.raises(CheckpointError) as caught:
        interop.from_layout(state, config, layout, "some/folder")
    text = str(caught.value)
    assert text.startswith("some/folder does not fit")
    assert f"missing in the file (3): {', '.join(sorted(missing))}" in text
    assert "not in the model (1): stranger" in text
    assert "other shape (1)" in text and "norm.bias (3,) instead of (24,)" in text


def test_a_lost_query_is_named_as_the_file_names_it():
    state, config = interop.to_transformers(small_mae())
    del state["vit.encoder.layer.1.attention.attention.key.weight"]
    with pytest.raises(CheckpointError, match=r"missing in the file \(1\): vit.encoder.layer.1.attention.attention.key.weight\n"):
        interop.from_layout(state, config, "transformers")


def test_a_config_that_contradicts_the_weights_is_refused():
    state, config = interop.to_transformers(small_mae())
    with pytest.raises(CheckpointError, match="position_embeddings"):
        interop.from_layout(state, {**config, "image_size": 32}, "transformers")
    with pytest.raises(CheckpointError, match="layer.2"):
        interop.from_layout(state, {**config, "num_hidden_layers": 3}, "transformers")
    with pytest.raises(CheckpointError, match="global_pool"):
        interop.from_layout(dict(timm_vit().state_dict()), {"architecture": "vit_x", "global_pool": "max", "num_heads": 3}, "timm")
    with pytest.raises(CheckpointError, match="act_layer"):
        interop.from_layout(dict(timm_vit().state_dict()), {"architecture": "vit_x", "model_args": {"act_layer": "relu"}}, "timm")


def test_broken_weights_are_refused():
    state = dict(small_mae().state_dict())
    config = {"num_heads": 3, "decoder_num_heads": 2}
    with pytest.raises(CheckpointError, match="NaN"):
        pretrained.from_tensors({**state, "norm.bias": torch.full((24,), torch.nan)}, config, "here")
    with pytest.raises(CheckpointError, match=r"patch_embed.proj.weight \(24, 48\) instead of 4 axes"):
        interop.from_layout({**state, "patch_embed.proj.weight": torch.zeros(24, 48)}, config, "official")
    with pytest.raises(CheckpointError, match="no square grid"):
        interop.from_layout({**state, "pos_embed": torch.zeros(1, 9, 24)}, config, "official")


def test_weights_in_half_precision_become_single():
    state = {k: v.half() for k, v in small_mae().state_dict().items()}
    model = pretrained.from_tensors(state, {"num_heads": 3, "decoder_num_heads": 2}, "here")
    assert {p.dtype for p in model.parameters()} == {torch.float32} and model.preprocess.size == (16, 16)
    assert model.embed({"image": torch.randn(1, 3, 16, 16)}).isfinite().all()


def test_models_that_a_layout_cannot_hold():
    with pytest.raises(ModelError, match=r"input \(16, 32\) is not square"):
        interop.to_transformers(small_mae(input_size=(16, 32)))
    with pytest.raises(ModelError, match="no class token"):
        interop.to_transformers(small_mae(class_token=False))
    with pytest.raises(ModelError, match="class token"):
        interop.to_official(small_mae(class_token=False))
    probe = ViTClassifier(ViTClassifierConfig(input_size=16, patch_size=4, embed_dim=24, depth=1, num_heads=3, head="probe"))
    with pytest.raises(ModelError, match="no MAE"):
        interop.to_transformers(probe)
    with pytest.raises(ModelError, match="batch norm"):
        interop.to_timm(probe)
    assert interop.from_layout(interop.to_official(probe), {"num_heads": 3}, "official")[1]["head"] == "probe"
