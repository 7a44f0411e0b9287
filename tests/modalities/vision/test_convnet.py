"""Convolutional backbones and classifiers: the same as timm's, fine-tuned, probed, measured and exported."""

import json

import pytest
import timm
import torch

import zoo
from modalities import registry
from modalities.common import pretrained
from modalities.common.run import run
from modalities.vision import finetune, tasks
from modalities.vision.interop.spark import to_backbone, to_timm
from modalities.vision.models.convnet import ConvNet, ConvNetClassifier, ConvNetClassifierConfig, ConvNetConfig
from modalities.vision.models.spark import SparK, SparKConfig
from tests.modalities.vision.spark_reference import dense_twin, lively, maps_of
from tests.small import pictures
from trainer.config import replace
from trainer.errors import CheckpointError, ConfigError, DataError, ModelError
from trainer.optim import parameter_groups
from zoo.export import export

SMALL = dict(input_size=64, depths=(1, 2, 1, 1), widths=(4, 6, 8, 10))
BLOCKS = ("basic", "bottleneck", "convnext")
each_block = pytest.mark.parametrize("block", BLOCKS)


def labelled(folder, classes=2, count=6):
    for name in "abc"[:classes]:
        (folder / name).mkdir(parents=True)
        for i, picture in enumerate(sorted(pictures(folder / f"{name}-raw").iterdir())[:count]):
            picture.rename(folder / name / f"{i}.png")
        for rest in (folder / f"{name}-raw").iterdir():
            rest.unlink()
        (folder / f"{name}-raw").rmdir()
    return folder


@each_block
def test_a_backbone_is_timms(block):
    model = lively(ConvNet(ConvNetConfig(block=block, **SMALL))).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = model.maps({"image": x}), maps_of(dense_twin(model), x)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs)) and [m.shape[1] for m in ours] == list(model.config.channels)
        tokens = model.tokens({"image": x})
        assert tokens.equal(theirs[-1].flatten(2).transpose(1, 2)) and model.embed({"image": x}).shape == (2, model.config.embed_dim)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "convnext_small"])
def test_a_published_size_has_timms_names(name):
    """Strictly, without a head; the parameters are all there."""
    sizes = {"resnet18": dict(block="basic", depths=(2, 2, 2, 2)), "resnet50": {}, "convnext_small": dict(block="convnext", depths=(3, 3, 27, 3), widths=(96, 192, 384, 768))}
    with torch.device("meta"):
        model, theirs = ConvNet(ConvNetConfig(**sizes[name])), timm.create_model(name, num_classes=0)
        theirs.load_state_dict(to_timm(model), strict=True, assign=True)
    assert to_backbone(model).keys() <= theirs.state_dict().keys()


@each_block
@pytest.mark.parametrize("kind", ["spark", "backbone", "classifier", "probe"])
def test_timm_loads_what_is_exported(block, kind, tmp_path):
    head = dict(num_classes=3, class_names=("a", "b", "c"), head="probe" if kind == "probe" else "linear")
    made = {
        "spark": lambda: SparK(SparKConfig(block=block, decoder_width=32, **SMALL)),
        "backbone": lambda: ConvNet(ConvNetConfig(block=block, **SMALL)),
    }.get(kind, lambda: ConvNetClassifier(ConvNetClassifierConfig(block=block, **SMALL, **head)))
    model = lively(made()).eval()
    model.name, model.preprocess = "vision/x", model.default_preprocess()
    model.save_pretrained(tmp_path / "model")
    export(str(tmp_path / "model"), "timm", tmp_path / "out")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted = model.outputs({"image": x})
        assert torch.allclose(theirs(x), wanted.get("logits", wanted["features"]), atol=1e-5)
        assert torch.allclose(theirs.forward_features(x), model.maps({"image": x})[-1], atol=1e-5)
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert said["architecture"] == {"basic": "resnet18", "bottleneck": "resnet50", "convnext": "convnext_tiny"}[block]
    again = zoo.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        assert torch.allclose(again.embed({"image": x}), wanted["features"], atol=1e-5) and again.preprocess == model.preprocess


@each_block
def test_layer_decay_goes_by_timms_groups(block):
    model = ConvNetClassifier(ConvNetClassifierConfig(block=block, **SMALL, num_classes=3))
    scales = {name: g["lr_scale"] for g in parameter_groups(model, 0.05, 0.5) for name in g["names"]}
    stem = "backbone.stem.0.weight" if block == "convnext" else "backbone.conv1.weight"
    first, last = (f"backbone.{'stages.0.blocks.0.conv_dw' if block == 'convnext' else 'layer1.0.conv1'}.weight", "head.weight")
    layers = [stem, first, *(f"backbone.stages.1.blocks.{i}.conv_dw.weight" if block == "convnext" else f"backbone.layer2.{i}.conv1.weight" for i in (0, 1)), last]
    found = [scales[name] for name in layers]
    assert found == sorted(found) and len(set(found)) == 5 and found[-1] == 1.0
    assert scales[stem] == min(scales.values())


@each_block
def test_a_spark_model_becomes_a_classifier(block, tmp_path):
    spark = lively(SparK(SparKConfig(block=block, decoder_width=32, **SMALL)))
    spark.preprocess = spark.default_preprocess()
    spark.save_pretrained(tmp_path / "m")
    model = zoo.from_pretrained(tmp_path / "m", task="classification", num_outputs=4, input_size=(96, 64), in_chans=1)
    words = model.load_report.words()
    assert isinstance(model, ConvNetClassifier) and "encoder complete" in words and "decoder left out" in words and "classification head new" in words
    assert model(model.preprocess(torch.rand(1, 70, 70))).shape == (1, 4) and all(p.requires_grad for p in model.parameters())
    same = zoo.from_pretrained(tmp_path / "m", task="classification", num_outputs=4)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(same.embed({"image": x}), spark.eval().embed({"image": x}), atol=1e-5)  # the new norm changes nothing yet


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"input_size": 100}, r"multiples of 32 pixels.*found \(100, 100\)"), ({"depths": (1, 2, 3)}, r"depths must be 4 numbers.*found \(1, 2, 3\)"),
     ({"widths": (0, 1, 1, 1)}, "widths must be 4 numbers of at least 1"), ({"drop_path": 1.0}, "drop_path is a rate"), ({"in_chans": 0}, "in_chans must be at least 1")],
)  # fmt: skip
def test_a_network_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        ConvNetConfig(**fields)


def test_wrong_input_is_named():
    model = ConvNet(ConvNetConfig(**SMALL))
    with pytest.raises(ModelError, match=r"of shape \(B, 3, 64, 64\).*found \(1, 3, 32, 32\)"):
        model.embed({"image": torch.zeros(1, 3, 32, 32)})
    with pytest.raises(DataError, match=r"reads batch\['image'\]; this batch holds: video"):
        model.embed({"video": torch.zeros(1)})


@pytest.mark.parametrize(
    ("architecture", "arguments", "message"),
    [("resnet50d", {}, "its blocks, norms, pools or activations"), ("seresnet50", {}, "no layout"), ("convnext_tiny", {"conv_mlp": True}, "arguments of timm.*'conv_mlp'"),
     ("resnet1000", {}, "does not know it"), ("convnext_tiny_hnf", {}, "its blocks, norms or activations")],
)  # fmt: skip
def test_networks_of_timm_that_compute_something_else_are_refused(architecture, arguments, message):
    state = dict(ConvNet(ConvNetConfig(**SMALL)).backbone.state_dict())
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        pretrained.from_tensors(state, {"architecture": architecture, "model_args": arguments}, "here")


@pytest.mark.parametrize("head", ["linear", "probe"])
def test_fine_tuning_takes_a_convolutional_network(head, tmp_path):
    """From a SparK export, by the paper's recipe cut short; what comes out is measured, names files and is read back."""
    spark = SparK(SparKConfig(block="convnext", decoder_width=32, **SMALL))
    spark.name, spark.preprocess = "vision/x", spark.default_preprocess()
    spark.save_pretrained(tmp_path / "m")
    data = labelled(tmp_path / "data")
    recipe = finetune.default_recipe(str(tmp_path / "m"), head, str(data))
    assert recipe.pool is None and (head == "probe" or (recipe.train.optim.layer_decay, recipe.train.ema, recipe.drop_path) == (0.7, 0.9999, 0.3))
    short = {"train.steps": 2, "train.epochs": None, "train.batch_size": 4, "train.workers": 0, "train.pictures": 1, "data.augment.auto_augment": None}
    place = run(replace(recipe, short), tmp_path / "run")
    model = zoo.from_pretrained(place)
    assert (model.system, model.config.head, model.config.class_names) == ("vision/convnet-classifier", head, ("a", "b"))
    rows = {row["metric"] for row in tasks.evaluate(model, str(data))}
    assert rows == {"accuracy", "loss"} and "a" in tasks.predict(model, [data / "a" / "0.png"], None)
    if head == "probe":
        start, end = spark.backbone.state_dict(), model.backbone.state_dict()
        assert all(start[name].equal(end[name]) for name in start)


def test_a_pool_is_for_transformers(tmp_path):
    recipe = replace(finetune.default_recipe("vision/spark-tiny", data=str(labelled(tmp_path / "data"))), {"pool": "avg", "scratch": True})
    with pytest.raises(ConfigError, match="pool='avg' is for vision transformers, and vision/spark-tiny is a vision/spark"):
        recipe.build()


def test_backbones_and_spark_are_measured(tmp_path):
    data = str(labelled(tmp_path / "data"))
    spark = SparK(SparKConfig(block="basic", decoder_width=32, **SMALL)).eval()
    metrics = [(row["metric"], row["detail"].partition(" on")[0]) for row in tasks.evaluate(spark, data)]
    assert metrics == [("accuracy", "linear probe"), ("accuracy", "5-NN"), ("loss", "mean squared error of normalised pixels, 60 % hidden")]
    backbone = ConvNet(ConvNetConfig(**SMALL)).eval()
    assert [row["metric"] for row in tasks.evaluate(backbone, data)] == ["accuracy", "accuracy"] and 0 <= tasks.judge(backbone, data).score(backbone) <= 1
    spark.preprocess = backbone.preprocess = spark.default_preprocess()
    files = [tmp_path / "data" / "a" / "0.png"]
    assert "60 % of each hidden and reconstructed" in tasks.predict(spark, files, tmp_path / "x.png") and (tmp_path / "x.png").exists()
    with pytest.raises(ModelError, match="A vision/convnet has neither classes nor a decoder"):
        tasks.predict(backbone, files, None)


def test_the_registered_sizes():
    for name in registry.list_models("*spark*") + registry.list_models("*look*") + registry.list_models("*selfie*"):
        assert registry.find_recipe(name).model == replace(
            replace(registry.system_class(registry.find(name).system).config_class(), registry.find(name).fields), {"drop_path": registry.find_recipe(name).model.drop_path}
        )
