"""Evaluators on images: the same figures inside training, at the end of a run and alone."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from modalities.common import evaluation
from modalities.common.evaluation import ProbeConfig, features, percent, results
from modalities.common.pretrained import create, load
from modalities.common.run import run
from modalities.vision.recipes import mae as recipes
from modalities.vision.data import LabelledImages, UnlabelledImages
from modalities.vision.evaluation import probed, reconstructed, supervised
from modalities.vision.finetune import digits_recipe
from modalities.vision.models.vit import ViTClassifier
from modalities.vision.objectives.classification import ClassificationConfig
from modalities.vision.objectives.mae import MAEObjectiveConfig
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.tasks import evaluate
from trainer.config import replace
from trainer.errors import ConfigError
from trainer.evaluation import measure
from trainer.logs import read_lines

QUICK = {"train.steps": 6, "train.batch_size": 32, "train.log_every": 2, "train.pictures": 0, "train.evaluate.every": 2}
P = ImagePreprocess.default(32)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """train, val and test with the classes dark and light; 7, 5 and 3 pictures of each."""
    root, rng = tmp_path_factory.mktemp("data") / "photos", np.random.default_rng(0)
    for part, count in (("train", 7), ("val", 5), ("test", 3)):
        for label, base in (("dark", 90), ("light", 150)):
            (root / part / label).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(np.clip(rng.normal(base, 60, (40, 40, 3)), 0, 255).astype(np.uint8)).save(root / part / label / f"{i}.png")
    return root


@pytest.fixture
def tiny(photos):
    """A random MAE and the sources of `photos`."""
    torch.manual_seed(0)
    return create("vision/mae-tiny"), *LabelledImages(str(photos)).build_plain(P)


def at(run_folder, step):
    """The evaluated values of a step."""
    (line,) = [line for line in read_lines(run_folder / "metrics.jsonl") if line["step"] == step]
    return {name.removeprefix("eval/"): value for name, value in line.items() if name.startswith("eval/")}


def test_training_the_end_of_a_run_and_zoo_evaluate_say_the_same(tmp_path):
    small = {"data.scenes.views": 1, "probe.path": "digits-cluttered", "probe.per_class": 10, "train.evaluate.best": "eval/knn"}
    recipe = replace(recipes.mae_tiny_digits(), {**QUICK, **small})
    export = run(recipe, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    best = record["best"]
    alone = evaluate(load(export), "digits-cluttered", per_class=10)
    values = at(tmp_path / "run", best["step"])
    assert best["value"] == values["knn"] == max(at(tmp_path / "run", step)["knn"] for step in (2, 4, 6)) and best["exported"]
    expected = [("accuracy", percent(values["probe"])), ("accuracy", percent(values["knn"])), ("loss", round(values["loss"], 4))]
    assert [(row["metric"], row["value"]) for row in alone] == expected
    assert sorted(map(str, alone)) == sorted(map(str, record["evaluations"]))


def test_finetuning_builds_its_test_set_once_and_keeps_the_best(tmp_path, monkeypatch):
    built, original = [], LabelledImages._parts
    monkeypatch.setattr(LabelledImages, "_parts", lambda self, *args, **kwargs: built.append(self) or original(self, *args, **kwargs))
    recipe = digits_recipe("vision/mae-tiny-digits", LabelledImages("digits-cluttered", per_class=10), seed=0)
    export = run(replace(recipe, {**QUICK, "train.evaluate.best": "eval/accuracy", "train.pictures": 1}), tmp_path / "run")
    assert len(built) == 1
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    values = at(tmp_path / "run", record["best"]["step"])
    rows = evaluate(load(export), "digits-cluttered", per_class=10)
    assert rows == record["evaluations"] and [row["value"] for row in rows] == [percent(values["accuracy"]), round(values["loss"], 4)]


def test_figures_of_the_bundled_model():
    """The first column of docs/measurements.md."""
    probe, knn, _ = evaluate(load("vision/mae-tiny-digits"), "digits-cluttered", per_class=10)
    assert probe["value"] == pytest.approx(52.3, abs=0.3) and knn["value"] == pytest.approx(38.1, abs=0.3)
    assert probe["unit"] == "%" and probe["samples"] == 2000 and "linear probe" in probe["detail"] and "100 labelled" in probe["detail"]


def test_val_is_held_out_and_test_stays_unseen(photos):
    for data in (UnlabelledImages(str(photos)), LabelledImages(str(photos))):
        made = data.build(P)
        source = made[0] if isinstance(made, tuple) else made
        assert len(source) == 14 and len(source.held_out) == 10 and source.held_out.root.name == "val"
        assert source.held_out[0]["image"].equal(source.held_out[0]["image"])  # not augmented
    assert UnlabelledImages(str(photos / "train")).build(P).held_out is None
    digits = UnlabelledImages("digits").build(ImagePreprocess.default(8, 1))
    assert len(digits.held_out) == 500 and digits.held_out.labels is None


def test_the_validation_loss_has_fixed_masks(tiny, monkeypatch):
    model, _, test = tiny
    objective = MAEObjectiveConfig(mask_ratio=0.5).build(model).train()
    losses = {}
    for seed in (1, 2):
        torch.manual_seed(seed)
        losses[seed] = measure([reconstructed(test, objective)], objective)["loss"]
    assert losses[1] == losses[2] and objective.training
    monkeypatch.setattr(evaluation, "BATCH", 3)
    assert measure([reconstructed(test, objective)], objective)["loss"] == pytest.approx(losses[1], rel=1e-5)
    monkeypatch.undo()
    noise = torch.rand(10, model.patch_embed.length)
    with torch.no_grad():
        assert losses[1] == pytest.approx(float(objective(whole(test), noise).loss), rel=0.1)
        model.decoder_pred.bias += 1
    assert measure([reconstructed(test, objective)], objective)["loss"] != losses[1]
    assert "50 % hidden" in results([reconstructed(test, objective)], objective)[0]["detail"]


def whole(source):
    return {"image": torch.stack([source[i]["image"] for i in range(len(source))])}


@pytest.mark.parametrize("batch", [3, 4, 256])
def test_accuracy_and_cross_entropy_are_means_over_samples(tiny, monkeypatch, batch):
    encoder, _, test = tiny
    monkeypatch.setattr(evaluation, "BATCH", batch)
    classifier = ViTClassifier.from_encoder(encoder, 2)
    torch.nn.init.normal_(classifier.head.weight)
    values = measure([supervised(test)], ClassificationConfig(label_smoothing=0.5).build(classifier).train())
    with torch.no_grad():
        logits = classifier.eval()(whole(test))
    assert values["accuracy"] == int((logits.argmax(1) == test.labels).sum()) / 10  # exactly
    assert values["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, test.labels)), rel=1e-5)


def test_features_that_are_not_finite_are_left_out(tiny, caplog):
    model, train, test = tiny
    model.norm.bias.data[0] = float("nan")
    assert measure([probed(train, test)], MAEObjectiveConfig().build(model)) == {}
    assert "probe is nan and is left out" in caplog.text


def test_probes_see_the_features_of_every_sample(tiny, monkeypatch):
    model, train, test = tiny
    monkeypatch.setattr(evaluation, "BATCH", 4)
    vectors, labels = features(model.eval().requires_grad_(False), test)
    assert labels.tolist() == test.labels.tolist() and vectors.shape == (10, 64)
    np.testing.assert_allclose(vectors, model.embed(whole(test)).numpy(), atol=1e-5)
    values = measure([probed(test, test)], MAEObjectiveConfig().build(model))
    assert values["probe"] == 1.0 and 0 <= values["knn"] <= 1  # ten samples are linearly separable in 64 dimensions


def test_nothing_to_evaluate_is_refused_before_a_folder_is_made(photos, tmp_path):
    recipe = replace(recipes.mae_tiny(), {"data.path": str(photos / "train"), "train.epochs": 1.0, "train.evaluate.every": 1})
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        run(recipe, tmp_path / "run")
    with pytest.raises(ConfigError, match="'eval/accuracy'.*Measured: eval/loss"):
        run(replace(recipe, {"data.path": str(photos), "train.evaluate.best": "eval/accuracy"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("fields, words", [({"per_class": 3}, "needs probe.path"), ({"path": "x", "per_class": 0}, "at least 1")])
def test_wrong_probes(fields, words):
    with pytest.raises(ConfigError, match=words):
        ProbeConfig(**fields)
