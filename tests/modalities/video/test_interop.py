"""VideoMAE checkpoints of other libraries, there and back, and `zoo export`."""

import json

import pytest
import torch

import zoo
from modalities.common import pretrained
from modalities.common.exporting import example
from modalities.video.interop import videomae as interop
from modalities.video.models.videomae import VideoMAE, VideoMAEConfig
from modalities.video.models.vit import VideoClassifier, VideoClassifierConfig
from tests.modalities.video.references import randomise, transformers_videomae
from trainer.config import from_dict
from trainer.errors import CheckpointError, ModelError
from zoo.export import export

SMALL = dict(input_size=(4, 16, 16), patch_size=(2, 8, 8), embed_dim=24, depth=2, num_heads=3, mlp_ratio=2.5, last_norm_eps=1e-5)
DECODER = dict(decoder_mlp_ratio=2.5, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
MODELS = {
    "videomae": lambda **c: VideoMAE(VideoMAEConfig(**{**SMALL, **DECODER, **c})),
    "classifier": lambda **c: VideoClassifier(VideoClassifierConfig(**{**SMALL, "num_classes": 3, "class_names": ("a", "b", "c"), **c})),
}
CASES = [("videomae", {}), ("videomae", {"encoder_norm": False, "in_chans": 1, "qkv_bias": False}), ("classifier", {}), ("classifier", {"pool": "token", "norm_eps": 1e-3, "activation": "relu"})]
ids = [f"{kind}-{'-'.join(changes) or 'plain'}" for kind, changes in CASES]


def small(kind, **changes):
    return randomise(MODELS[kind](**changes))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(("kind", "changes"), CASES, ids=ids)
def test_transformers_loads_what_zoo_export_writes(kind, changes, tmp_path):
    """Strictly, by its own Auto class; export itself compares the outputs, and here once more by hand."""
    import transformers

    model = small(kind, **changes)
    model.preprocess = model.default_preprocess()
    model.save_pretrained(tmp_path / "model")
    folder = export(str(tmp_path / "model"), "transformers", tmp_path / "out")
    x = example(model, 2, seed=3)
    with torch.no_grad():
        if kind == "classifier":
            theirs = transformers.AutoModelForVideoClassification.from_pretrained(folder).eval()
            found, wanted = theirs(x.transpose(1, 2)).logits, model({"video": x})
            assert theirs.config.id2label == {0: "a", 1: "b", 2: "c"}
        else:
            theirs = transformers.AutoModelForPreTraining.from_pretrained(folder).eval()
            theirs.config.norm_pix_loss = True
            masking = model.mask(torch.rand(2, model.noise_length), 0.5)
            found = theirs(x.transpose(1, 2), bool_masked_pos=masking.mask.bool()).logits
            wanted = model.decode(model.encode(x, masking), masking, everywhere=False)
    assert (found - wanted).abs().max() < 1e-5
    back = zoo.from_pretrained(folder)
    assert same(back.state_dict(), model.state_dict())
    if not (kind == "classifier" and changes):
        assert back.config.grid == model.config.grid and back.config.last_norm_eps == 1e-5


@pytest.mark.parametrize("classifier", [False, True])
def test_what_transformers_writes_is_read(classifier, tmp_path):
    theirs = transformers_videomae(classifier, **({"use_mean_pooling": True, "num_labels": 3} if classifier else {}))
    theirs.save_pretrained(tmp_path / "theirs")
    model = zoo.from_pretrained(tmp_path / "theirs")
    assert model.load_report.layout == "transformers" and isinstance(model, VideoClassifier if classifier else VideoMAE)
    x = torch.randn(2, 3, 4, 16, 16)
    with torch.no_grad():
        tokens = theirs.videomae(x.transpose(1, 2)).last_hidden_state
    assert (model.tokens({"video": x}) - tokens).abs().max() < 1e-5


@pytest.mark.parametrize(("kind", "changes"), [CASES[0], CASES[2], CASES[3]], ids=[ids[0], ids[2], ids[3]])
def test_the_official_layout_there_and_back(kind, changes):
    changes = {**changes, "last_norm_eps": changes.get("norm_eps", 1e-6)}
    model = small(kind, **changes)
    state = interop.to_official(model)
    assert "pos_embed" not in str(state.keys()) and any(name.endswith("attn.q_bias") for name in state)
    assert any(name.startswith("encoder.") for name in state) == (kind == "videomae")
    c = model.config
    prefix = "encoder_" if kind == "videomae" else ""
    config = {
        "img_size": 16, "tubelet_size": 2, f"{prefix}num_heads": 3, "decoder_num_heads": 2, "norm_eps": c.norm_eps, "mlp_ratio": 2.5,
        "all_frames" if kind == "classifier" else "num_frames": 4, **({"use_mean_pooling": c.pool == "avg"} if kind == "classifier" else {}),
    }  # fmt: skip
    back = pretrained.from_tensors(state, config, "here", "official")
    assert same(back.state_dict(), model.state_dict()) and back.licence == "cc-by-nc-4.0"
    expected = {**vars(c), "class_names": (), "num_classes": 3} if kind == "classifier" else vars(c)
    found = {**vars(back.config), "activation": c.activation}
    assert found == expected


def test_a_published_file_without_a_word_takes_published_heads_and_sizes():
    model = VideoMAE(VideoMAEConfig(input_size=(16, 224, 224), embed_dim=384, depth=1, num_heads=6, decoder_embed_dim=192, decoder_depth=1, decoder_num_heads=3))
    described = interop.describe(interop.to_official(model), None, "official", "here")
    assert from_dict(VideoMAEConfig, described.fields) == model.config


@pytest.mark.parametrize(
    ("config", "words"),
    [({"img_siez": 16}, "Did you mean 'img_size'"), ({"img_size": "big"}, "one or two whole numbers"), ({}, "does not say its number of attention heads")],
)
def test_configs_that_do_not_help(config, words):
    with pytest.raises(CheckpointError, match=words):
        interop.describe(interop.to_official(small("videomae")), config, "official", "here")


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("videomae", {"class_token": True}, "has a class token"),
        ("videomae", {"input_size": (4, 16, 24)}, "not square"),
        ("videomae", {"position_layout": "column-first", "embed_dim": 36, "decoder_embed_dim": 36}, "positions are column-first"),
        ("classifier", {"head": "probe"}, "linear probe"),
    ],
)
def test_what_the_others_cannot_hold_is_refused(kind, changes, words):
    for convert in (interop.to_official, interop.to_transformers):
        with pytest.raises(ModelError, match=words):
            convert(small(kind, **changes))


def test_other_peoples_files_are_not_taken():
    assert interop.recognise(["cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"], None) is None
    assert interop.recognise(["blocks.0.attn.q_bias", "patch_embed.proj.weight"], {"architecture": "vit_base"}) is None
    assert interop.recognise(["videomae.x"], {"model_type": "vit_mae"}) is None
    assert json.dumps(interop.to_transformers(small("videomae"))[1])
