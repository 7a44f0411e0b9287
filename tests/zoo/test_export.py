"""What `zoo export` writes, read by the libraries that it is for."""

import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from PIL import Image

import zoo
from modalities.common.exporting import Export, example
from modalities.vision.models.mae import MAE, MAEConfig
from modalities.vision.models.vit import ViTClassifier, ViTClassifierConfig
from tests.modalities.vision.references import randomise
from trainer.errors import ModelError
from zoo.cli import main
from zoo.export import export

SMALL = dict(input_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3)
DECODER = dict(decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
NAMES = ("a", "b", "c", "d", "e")
MODELS = {
    "mae": lambda **c: MAE(MAEConfig(**{**SMALL, **DECODER, **c})),
    "classifier": lambda **c: ViTClassifier(ViTClassifierConfig(**{**SMALL, "num_classes": 5, "class_names": NAMES, **c})),
    "encoder": lambda **c: ViTClassifier(ViTClassifierConfig(**{**SMALL, "num_classes": 0, "pool": "token", **c})),
}
ODD = dict(activation="quick_gelu", qkv_bias=False, mlp_ratio=2.7)
onnx = pytest.mark.skipif(find_spec("onnx") is None or find_spec("onnxscript") is None, reason="needs onnx and onnxscript: modality-zoo[onnx]")
TARGETS = ("timm", "transformers", "torch-export", pytest.param("onnx", marks=onnx))


@pytest.fixture
def save(tmp_path):
    """`save(kind, **config)`: a model with random weights everywhere, in a folder."""

    def save(kind, **config):
        model = randomise(MODELS[kind](**config))
        for name, buffer in model.named_buffers():
            buffer.copy_(torch.rand_like(buffer.float()) + 0.5)
        model.name, model.preprocess = f"vision/{kind}", model.default_preprocess()
        model.save_pretrained(tmp_path / "model")
        return model

    return save


def embedded(model, samples=5):
    x = example(model, samples, seed=7)
    with torch.no_grad():
        return x, model.outputs({"image": x})


def close(found, wanted):
    assert found.shape == wanted.shape and (found - wanted).abs().max() < 1e-5


@pytest.mark.parametrize(
    "kind, config",
    [
        ("mae", {}),
        ("mae", {"class_token": False, "activation": "gelu_new", "norm_eps": 1e-7}),
        ("mae", {"input_size": (8, 16), "patch_size": (2, 4), "in_chans": 5}),
        ("classifier", ODD),
        ("classifier", {"pool": "token", "drop_path": 0.2}),
        ("classifier", {"pool": "token", "head": "probe"}),
        ("encoder", {"activation": "silu"}),
    ],
)
def test_timm_loads_it(kind, config, save, tmp_path):
    model = save(kind, **config)
    export(str(tmp_path / "model"), "timm", tmp_path / "out")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    x, wanted = embedded(model)
    with torch.no_grad():
        tokens = theirs.forward_features(x)
        close(tokens, wanted["tokens"])
        close(theirs.forward_head(tokens, pre_logits=True), wanted["features"])
        close(theirs(x), wanted.get("logits", wanted["features"]))
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert said.get("label_names") == (list(NAMES) if kind == "classifier" else None)
    assert said["model_args"].get("drop_path_rate", 0.0) == config.get("drop_path", 0.0)
    assert ModelCard.load(tmp_path / "out" / "README.md").data.library_name == "timm"


def test_what_timm_gets_comes_back(save, tmp_path):
    model = save("classifier")
    export(str(tmp_path / "model"), "timm", tmp_path / "out")
    again = zoo.from_pretrained(tmp_path / "out")
    x, wanted = embedded(model)
    assert again({"image": x}).equal(wanted["logits"]) and again.preprocess == model.preprocess


@pytest.mark.parametrize("eps, outcome", [(1e-12, "norms add 1e-06 to the variance instead of 1e-12"), (1e-5, "norm_eps=1e-05, so it cannot hold it")])
def test_timm_has_one_epsilon(eps, outcome, save, tmp_path, capsys):
    save("classifier", norm_eps=eps)
    code = main(["export", str(tmp_path / "model"), "--to", "timm", "--output", str(tmp_path / "out")])
    said = capsys.readouterr()
    assert outcome in (said.err if code else said.out) and (code == 0) == (eps < 1e-6) == (tmp_path / "out").exists()


def test_transformers_loads_a_mae(save, tmp_path):
    """Encoder and decoder, from one folder, by the Auto classes."""
    from transformers import AutoModel, AutoModelForPreTraining, ViTMAEForPreTraining, ViTMAEModel

    model = save("mae", **ODD)
    export(str(tmp_path / "model"), "transformers", tmp_path / "out")
    encoder = AutoModel.from_pretrained(tmp_path / "out", mask_ratio=0.0).eval()
    x, wanted = embedded(model)
    noise = torch.rand(5, 16)
    with torch.no_grad():
        assert isinstance(encoder, ViTMAEModel)
        close(encoder(x).last_hidden_state[:, 1:].mean(dim=1), wanted["features"])
        whole = AutoModelForPreTraining.from_pretrained(tmp_path / "out").eval()
        assert isinstance(whole, ViTMAEForPreTraining)
        close(whole(x, noise=noise).logits, model({"image": x}, noise).prediction)


def test_the_objective_goes_with_it(save, tmp_path):
    """transformers computes the loss as well, so it has to know the mask and the targets that the model was trained with."""
    model = save("mae")
    recipe = "objective:\n  mask_ratio: 0.6\n  norm_pix_loss: true\n"
    model.save_pretrained(tmp_path / "model", files={"origin.json": json.dumps({"kind": "training", "record": {"data": {}, "final": {}, "command": "x", "steps": 1, "batch_size": 1, "seconds": 1, "hardware": "x"}, "recipe": recipe})})
    export(str(tmp_path / "model"), "transformers", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["mask_ratio"] == 0.6 and config["norm_pix_loss"] is True


@pytest.mark.parametrize(
    "kind, config, architecture",
    [
        ("classifier", {"pool": "token"}, "ViTForImageClassification"),
        ("classifier", {"pool": "token", "head": "probe", "norm_eps": 1e-5}, "ViTForImageClassification"),
        ("classifier", {}, "BeitForImageClassification"),
        ("classifier", ODD, "BeitForImageClassification"),
        ("encoder", ODD, "ViTModel"),
        ("encoder", {"pool": "avg", "in_chans": 1}, "BeitModel"),
    ],
)
def test_transformers_loads_a_vit(kind, config, architecture, save, tmp_path):
    from transformers import AutoModel, AutoModelForImageClassification

    model = save(kind, **config)
    export(str(tmp_path / "model"), "transformers", tmp_path / "out")
    x, wanted = embedded(model)
    with torch.no_grad():
        if kind == "classifier":
            theirs = AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
            close(theirs(x).logits, wanted["logits"])
            assert theirs.config.id2label == dict(enumerate(NAMES))
        else:
            theirs = AutoModel.from_pretrained(tmp_path / "out", **({"add_pooling_layer": False} if architecture == "ViTModel" else {})).eval()
            found = theirs(x)
            close(found.last_hidden_state[:, 0] if model.config.pool == "token" else found.pooler_output, wanted["features"])
    assert type(theirs).__name__ == architecture


def test_pictures_are_read_as_here(save, tmp_path):
    """The transform of timm and the processor of transformers give what `model.preprocess` gives."""
    from transformers import AutoImageProcessor

    model = save("classifier", input_size=72, patch_size=12)
    assert model.preprocess.crop_pct < 1
    pixels = np.random.default_rng(0).integers(0, 255, (97, 150, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    wanted = model.preprocess([picture])["image"][0]
    export(str(tmp_path / "model"), "timm", tmp_path / "timm")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True)
    close(timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))(picture), wanted)
    export(str(tmp_path / "model"), "transformers", tmp_path / "transformers")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "transformers", backend="pil")
    close(processor(picture, return_tensors="pt")["pixel_values"][0], wanted)


def test_torch_export(save, tmp_path, capsys):
    model = save("mae")
    assert main(["export", str(tmp_path / "model"), "--to", "torch-export", "--output", str(tmp_path / "out")]) == 0
    assert "Left out: the decoder (20 tensors)" in capsys.readouterr().out
    extra = {"preprocess": "", "input": ""}
    program = torch.export.load(tmp_path / "out" / "model.pt2", extra_files=extra)
    for samples in (1, 2, 7):
        x, wanted = embedded(model, samples)
        for found, value in zip(program.module()(x), wanted.values(), strict=True):
            close(found, value)
    assert json.loads(extra["preprocess"]) == model.preprocess.values() and extra["input"] == "(B, 3, 16, 16)"
    assert not [name for name in program.state_dict if "decoder" in name or "mask_token" in name]


@onnx
@pytest.mark.parametrize("runtime", ["onnxruntime", "reference"])
@pytest.mark.parametrize("kind", ["mae", "classifier"])
def test_onnx(kind, runtime, save, tmp_path, monkeypatch):
    import onnx

    if runtime == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    else:
        monkeypatch.setattr("zoo.graphs.find_spec", lambda name: None if name == "onnxruntime" else find_spec(name))
    model = save(kind)
    export(str(tmp_path / "model"), "onnx", tmp_path / "out")
    onnx.checker.check_model(str(tmp_path / "out" / "model.onnx"), full_check=True)
    loaded = onnx.load(tmp_path / "out" / "model.onnx")
    facts = {entry.key: entry.value for entry in loaded.metadata_props}
    assert json.loads(facts["preprocess"]) == model.preprocess.values()
    assert loaded.graph.input[0].name == "image" and loaded.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    from zoo.graphs import _runtime

    x, wanted = embedded(model, 7)
    assert [output.name for output in loaded.graph.output] == list(wanted)
    for found, value in zip(_runtime(tmp_path / "out" / "model.onnx")(x), wanted.values(), strict=True):
        close(torch.from_numpy(found), value)


@pytest.mark.parametrize("target", TARGETS)
def test_the_card_of_an_export(target, save, tmp_path, monkeypatch):
    """Its snippet runs, its licence is that of the weights, a person's words and files stay."""
    model = save("classifier")
    model.licence = "cc-by-nc-4.0"
    model.save_pretrained(tmp_path / "model")
    out = tmp_path / "path/to/this/folder"
    for _ in range(2):
        export(str(tmp_path / "model"), target, out)
        text = (out / "README.md").read_text()
        card = ModelCard(text)
        assert card.data.license == "cc-by-nc-4.0" and f"Written for {target} from" in text and "forbids commercial use" in text
        if _ == 0:
            (out / "README.md").write_text(text + "\nMine.\n")
            (out / "notes.txt").write_text("mine")
    assert text.endswith("\nMine.\n") and (out / "notes.txt").exists()
    monkeypatch.chdir(tmp_path)
    if target != "onnx" or find_spec("onnxruntime") is not None:
        found = {"image": example(model, 2) if target != "onnx" else example(model, 2).numpy()}
        exec(compile(re.search(r"```python\n(.*?)```", text, re.S)[1], "snippet", "exec"), found)
    assert main(["card", str(out)]) == 1 and main(["publish", str(out), "--to", str(tmp_path / "x")]) == 1


def test_another_target_into_the_same_folder(save, tmp_path):
    save("classifier")
    export(str(tmp_path / "model"), "timm", tmp_path / "out")
    export(str(tmp_path / "model"), "torch-export", tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"model.pt2", "README.md", "origin.json"}


@pytest.mark.parametrize(
    "kind, config, target, words",
    [
        ("mae", {"class_token": False}, "transformers", "it has no class token"),
        ("mae", {"input_size": (8, 16)}, "transformers", "is not square"),
        ("classifier", {"class_token": False}, "transformers", "BeitForImageClassification cannot hold this model: it has no class token"),
        ("encoder", {"input_size": (8, 16)}, "transformers", "ViTModel cannot hold this model: its input (8, 16) is not square"),
        ("classifier", {"patch_size": (2, 4)}, "transformers", "its patch (2, 4) is not square"),
        ("classifier", {}, "tim", "Did you mean 'timm'"),
        ("classifier", {}, "tensorflow", "Targets: timm, transformers, official, onnx, torch-export"),
    ],
)
def test_refusals(kind, config, target, words, save, tmp_path, capsys):
    save(kind, **config)
    before = sorted(tmp_path.rglob("*"))
    assert main(["export", str(tmp_path / "model"), "--to", target, "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("place", ["model", "other", "file"])
def test_nothing_else_is_replaced(place, save, tmp_path, capsys):
    save("classifier")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years")
    (tmp_path / "file").write_text("x")
    assert main(["export", str(tmp_path / "model"), "--to", "timm", "--output", str(tmp_path / place)]) == 1
    assert "holds other things than an earlier export" in capsys.readouterr().err
    assert (tmp_path / "model" / "model.safetensors").exists() and (tmp_path / "other" / "thesis.txt").exists()


@pytest.mark.parametrize("target", ["timm", "transformers", "torch-export"])
def test_what_computes_something_else_does_not_appear(target, save, tmp_path, monkeypatch):
    save("classifier")
    export(str(tmp_path / "model"), target, tmp_path / "out")
    before = {p: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    original = Export.__init__

    def wrong(self, library, write, load, *rest, **named):
        original(self, library, write, lambda folder: lambda x: {k: v * (1.1 if k == "logits" else 1) for k, v in load(folder)(x).items()}, *rest, **named)

    monkeypatch.setattr(Export, "__init__", wrong)
    with pytest.raises(ModelError, match="logits .* differs .* Nothing was written"):
        export(str(tmp_path / "model"), target, tmp_path / "out")
    assert {p: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before and not list(tmp_path.glob(".tmp*"))


def test_without_onnx(save, tmp_path, monkeypatch, capsys):
    save("classifier")
    monkeypatch.setattr("zoo.graphs.find_spec", lambda name: None)
    assert main(["export", str(tmp_path / "model"), "--to", "onnx", "--output", str(tmp_path / "out")]) == 1
    assert "pip install 'modality-zoo[onnx]'" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_registered_name(tmp_path, capsys):
    assert main(["export", "vision/mae-tiny-digits", "--to", "timm", "--output", str(tmp_path / "out")]) == 0
    text = Path(tmp_path / "out" / "README.md").read_text()
    assert "digits-cluttered" in text and "CC BY 4.0" in text and ModelCard(text).data.eval_results
    assert main(["export", "vision/mae-base", "--to", "timm", "--output", str(tmp_path / "base")]) == 1
    assert "no weights come with it" in capsys.readouterr().err
