import json

import pytest
import torch

import zoo
from modalities import registry
from modalities.common.model import Model
from trainer.errors import CheckpointError, ConfigError, UnknownNameError, ZooError


def test_list_models_with_wildcards():
    names = zoo.list_models()
    assert {"vision/mae-tiny", "vision/mae-small", "vision/mae-base", "vision/mae-large", "vision/mae-huge"} <= set(names)
    assert zoo.list_models("vision") == [n for n in names if n.startswith("vision/")]
    assert zoo.list_models("*/mae-base") == ["vision/mae-base"]
    assert zoo.list_models("mae-base") == zoo.list_models("*mae-base*") == [n for n in names if "mae-base" in n]
    assert zoo.list_models("nothing*") == []
    assert zoo.list_models(pretrained=True) == ["vision/mae-tiny-digits", "time_series/ttm-tiny-synth"]


@pytest.mark.parametrize("name", registry.entries())
def test_parameter_counts_are_true(name):
    with torch.device("meta"):
        model = zoo.create(name)
    assert sum(p.numel() for p in model.parameters()) == registry.find(name).parameters


def test_create():
    model = zoo.create("vision/mae-tiny", in_chans=1, input_size=16)
    assert model.config.in_chans == 1 and model.config.grid == (4, 4) and model.name == "vision/mae-tiny"
    assert model.embed({"image": torch.rand(2, 1, 16, 16)}).shape == (2, model.config.embed_dim)
    assert model.tokens({"image": torch.rand(2, 1, 16, 16)}).shape == (2, 17, model.config.embed_dim)


def test_unknown_names():
    with pytest.raises(UnknownNameError, match="Did you mean 'vision/mae-base'"):
        zoo.create("vision/mae-bse")
    with pytest.raises(ConfigError, match="Did you mean 'in_chans'"):
        zoo.create("vision/mae-tiny", in_chan=1)
    with pytest.raises(UnknownNameError, match="neither a folder nor a model"):
        zoo.from_pretrained("vision/mae-tny")
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set, and .* holds no copy of facebook.some-thing at main"):
        zoo.from_pretrained("facebook/some-thing")
    with pytest.raises(CheckpointError, match="no weights come with it"):
        zoo.from_pretrained("vision/mae-base")


def test_bundled_weights_and_their_card():
    for name in zoo.list_models(pretrained=True):
        model = zoo.from_pretrained(name)
        assert model.name == name and not model.training and model.preprocess is not None


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = zoo.create("vision/mae-tiny-digits")
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model", model


def test_round_trip(saved):
    folder, model = saved
    again = zoo.from_pretrained(folder)
    batch = {"image": torch.rand(2, 1, 20, 20)}
    assert again.embed(batch).equal(model.embed(batch)) and again.config == model.config
    assert {n: p.requires_grad for n, p in again.named_parameters()} == {n: p.requires_grad for n, p in model.named_parameters()}
    again.save_pretrained(folder)  # over itself
    assert zoo.from_pretrained(folder).embed(batch).equal(model.embed(batch))
    assert not list(folder.parent.glob(".tmp*"))


@pytest.mark.parametrize("size", ["5GB", "300KB"])
def test_the_same_model_gives_the_same_bytes(saved, tmp_path, size):
    _, model = saved
    model.preprocess = model.default_preprocess()
    for i in range(8):  # the order of metadata is random in the library that writes them
        model.save_pretrained(tmp_path / str(i), max_shard_size=size)
        for path in (tmp_path / "0").iterdir():
            assert (tmp_path / str(i) / path.name).read_bytes() == path.read_bytes(), path.name


def test_shards(saved):
    folder, model = saved
    model.save_pretrained(folder, max_shard_size="300KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    batch = {"image": torch.rand(2, 1, 20, 20)}
    assert zoo.from_pretrained(folder).embed(batch).equal(model.embed(batch))
    index = folder / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    values["weight_map"]["norm.bias"] = "../secret.safetensors"
    index.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="plain"):
        zoo.from_pretrained(folder)


def change(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    config["config"].update(fields)
    (folder / "config.json").write_text(json.dumps(config))


def damage(folder, kind):
    weights = folder / "model.safetensors"
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif kind == "lfs":
        weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n")
    elif kind == "html":
        weights.write_text("<!DOCTYPE html><html></html>")
    elif kind == "missing":
        weights.unlink()
    elif kind == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    elif kind == "other model":
        change(folder, depth=5)
    elif kind == "other width":
        change(folder, embed_dim=32)
    elif kind == "unknown field":
        change(folder, dept=5)
    elif kind == "code":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model": "os:system"}))
    elif kind == "no config":
        (folder / "config.json").unlink()
    elif kind == "bad config":
        (folder / "config.json").write_text("{")
    elif kind == "config is a list":
        (folder / "config.json").write_text("[]")
    elif kind == "newer format":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "format_version": 99}))
    elif kind == "bad preprocessing":
        (folder / "preprocessor_config.json").write_text('{"type": "os.system"}')


@pytest.mark.parametrize(
    "kind, words",
    [
        ("truncated", "truncated"),
        ("lfs", "git lfs pull"),
        ("html", "HTML page"),
        ("missing", "model.safetensors"),
        ("pickle", "model.safetensors"),
        ("other model", "blocks.4"),
        ("other width", "other shape"),
        ("unknown field", "Did you mean 'depth'"),
        ("code", "os:system"),
        ("bad config", "not valid JSON"),
        ("config is a list", "config"),
        ("newer format", "Update modality-zoo"),
        ("bad preprocessing", "os.system"),
    ],
)
def test_damaged_folders_say_what_is_wrong(saved, kind, words):
    folder, _ = saved
    damage(folder, kind)
    with pytest.raises(ZooError) as error:
        zoo.from_pretrained(folder)
    assert words in str(error.value)


def test_wrong_class_and_wrong_path(saved, tmp_path):
    folder, _ = saved
    from modalities.vision.models.vit import ViTClassifier

    with pytest.raises(CheckpointError, match="not a vision/mae-vit"):
        ViTClassifier.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="is a file without weights"):
        zoo.from_pretrained(folder / "config.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no model.safetensors"):
        zoo.from_pretrained(tmp_path / "empty")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(CheckpointError, match="other files"):
        saved[1].save_pretrained(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_nan_weights_are_never_written_or_used(saved):
    folder, model = saved
    model.norm.bias.data[0] = float("nan")
    with pytest.raises(CheckpointError, match="NaN.*norm.bias"):
        model.save_pretrained(folder)
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="norm.bias"):
        zoo.from_pretrained(folder)


def test_full_disk_leaves_the_old_model(saved, full_disk):
    folder, model = saved
    before = model.norm.bias.detach().clone()
    model.norm.bias.data += 1
    full_disk(100_000)
    with pytest.raises(CheckpointError, match="Cannot write"):
        model.save_pretrained(folder)
    full_disk(10**9)
    assert zoo.from_pretrained(folder).norm.bias.equal(before) and not list(folder.parent.glob(".tmp*"))


def test_hub_mixin_is_there():
    from huggingface_hub import PyTorchModelHubMixin

    assert issubclass(Model, PyTorchModelHubMixin) and callable(Model.push_to_hub)
