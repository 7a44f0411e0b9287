"""SSLD: the divergence, what the teacher sees, students of timm, export to timm."""

import json

import pytest
import timm
import torch

import zoo
from modalities import registry
from modalities.common.run import run
from modalities.vision import tasks
from modalities.vision.models.timm_classifier import TimmClassifier, TimmClassifierConfig
from modalities.vision.models.vit import ViTClassifier, ViTClassifierConfig
from modalities.vision.objectives.ssld import SSLDConfig
from modalities.vision.preprocess import ImagePreprocess
from trainer.config import replace
from trainer.distillation import js_divergence
from trainer.errors import ConfigError, DataError, ModelError
from zoo.export import export

OWN = ImagePreprocess((20, 20), 1, (0.2,), (0.3,), crop_pct=1.0)
DIGITS = tuple("0123456789")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A classifier of digits (untrained) whose images are normalised otherwise."""
    torch.manual_seed(1)
    model = ViTClassifier(ViTClassifierConfig(input_size=20, patch_size=5, in_chans=1, embed_dim=16, depth=1, num_heads=2, num_classes=10, class_names=DIGITS))
    torch.nn.init.normal_(model.head.weight)
    model.preprocess = ImagePreprocess((20, 20), 1, (0.5,), (0.5,), crop_pct=1.0)
    place = tmp_path_factory.mktemp("teacher") / "vit"
    model.save_pretrained(place)
    return str(place)


def student(**fields):
    torch.manual_seed(0)
    model = TimmClassifier(TimmClassifierConfig(**{"architecture": "test_resnet", "input_size": (20, 20), "in_chans": 1, "num_classes": 10, **fields}))
    model.preprocess = OWN
    return model


def test_both_see_the_same_images_each_in_its_normalisation(teacher):
    objective = SSLDConfig(teacher).build(student()).train()
    torch.manual_seed(2)
    batch = {"image": torch.randn(4, 1, 20, 20)}
    losses = objective(batch)
    network = ViTClassifier.from_pretrained(teacher).eval()
    pixels = batch["image"] * 0.3 + 0.2
    objective = SSLDConfig(teacher).build(student()).train()  # batch norms as before
    expected = js_divergence(network({"image": (pixels - 0.5) / 0.5}), objective.model(batch))
    torch.testing.assert_close(losses.loss, expected, atol=1e-5, rtol=1e-4)
    assert objective.model.config.class_names == DIGITS
    assert {name.partition(".")[0] for name in objective.state_dict()} == {"model"}
    losses.loss.backward()
    assert not any(p.requires_grad for p in objective.teacher.on(torch.device("cpu")).parameters())


def test_a_student_of_a_network_of_timm(tmp_path):
    torch.manual_seed(3)
    network = timm.create_model("test_vit", num_classes=7)
    torch.nn.init.normal_(network.head.weight)
    timm.models.save_for_hf(network, tmp_path / "t", model_args={"num_classes": 7}, safe_serialization=True)
    model = student(num_classes=7)
    losses = SSLDConfig(f"timm:local-dir:{tmp_path / 't'}").build(model)({"image": torch.randn(2, 1, 20, 20)})
    assert losses.loss.isfinite() and 0 <= losses.parts["agreement"] <= 1
    with pytest.raises(ModelError, match="names 7 classes and the student 10. Set model.num_classes to 7"):
        SSLDConfig(f"timm:local-dir:{tmp_path / 't'}").build(student())


def test_what_is_no_teacher(teacher):
    with pytest.raises(ConfigError, match="Say which classifier"):
        SSLDConfig().build(student())
    with pytest.raises(ModelError, match="is a MAE and no classifier"):
        SSLDConfig("vision/mae-tiny-digits").build(student())


@pytest.mark.parametrize(("architecture", "size"), [("test_resnet", (24, 20)), ("test_vit", (32, 32)), ("test_convnext", (32, 32))])
def test_networks_of_timm_are_models(architecture, size, tmp_path):
    torch.manual_seed(0)
    model = TimmClassifier(TimmClassifierConfig(architecture, size, 3, 5)).eval()
    model.preprocess = ImagePreprocess.default(size)
    batch = {"image": torch.randn(2, 3, *size)}
    found = model.outputs(batch)
    assert torch.equal(found["logits"], model(batch)) and torch.equal(found["features"], model.embed(batch))
    assert torch.equal(found["tokens"], model.tokens(batch)) and found["tokens"].ndim == 3
    model.save_pretrained(tmp_path / "m")
    again = zoo.from_pretrained(tmp_path / "m")
    assert isinstance(again, TimmClassifier) and all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values()))
    torch.testing.assert_close(again(batch), model(batch))
    written = export(str(tmp_path / "m"), target="timm", output=tmp_path / "timm")
    theirs = timm.create_model(f"local-dir:{written}", pretrained=True).eval()
    torch.testing.assert_close(theirs(batch["image"]), model(batch))
    with pytest.raises(ModelError, match="takes inputs of shape"):
        model({"image": torch.randn(2, 3, 8, 8)})
    with pytest.raises(DataError, match="holds: nothing"):
        model({})


def test_wrong_students():
    with pytest.raises(ConfigError, match="timm has no network 'resnet50x'. Did you mean"):
        TimmClassifierConfig("resnet50x")
    with pytest.raises(ConfigError, match="class_names has 1 names for num_classes=2"):
        TimmClassifierConfig(num_classes=2, class_names=("a",))


def test_the_whole_way(teacher, tmp_path):
    recipe = replace(
        registry.find_recipe("vision/ssld-resnet10-digits"),
        {"objective.teacher": teacher, "model.architecture": "test_resnet", "train.steps": 30, "train.batch_size": 64, "train.log_every": 5, "data.scenes.views": 1, "data.scenes.test_views": 1},
    )  # fmt: skip
    run(recipe, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert [row["metric"] for row in record["evaluations"]] == ["agreement", "loss"]
    logged = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert logged[-1] < 0.8 * logged[0]
    model = zoo.from_pretrained(tmp_path / "run")
    assert model.config.class_names == DIGITS
    assert {row["metric"] for row in tasks.evaluate(model, "digits-cluttered")} == {"accuracy", "loss"}
    tasks.write_example(model, tmp_path)
    assert "image.png: " in tasks.predict(model, [tmp_path / "image.png"], None)
