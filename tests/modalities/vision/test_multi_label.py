"""Several labels per image: reading them, the loss, the mean AUC, the thorax recipe, the whole way."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from modalities.common.evaluation import MeanAUC
from modalities.common.run import run
from modalities.vision import tasks
from modalities.vision.data import LabelledImages
from modalities.vision.files import open_images
from modalities.vision.finetune import default_recipe, main
from modalities.vision.models.mae import MAE, MAEConfig
from modalities.vision.models.vit import ViTClassifier, ViTClassifierConfig
from modalities.vision.objectives.classification import ClassificationConfig, MultiLabel
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.recipes.thorax import mae_base_thorax, mae_small_thorax
from trainer.config import read_yaml, replace
from trainer.errors import ConfigError, DataError

P = ImagePreprocess(size=(16, 16), crop_pct=1.0)
MODEL = dict(input_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2)
COLUMNS = ("bright", "striped", "never")


@pytest.fixture
def table(tmp_path):
    """24 pictures: bright or dark, striped or not; some labels are not known, nobody ever has the third."""
    rng, rows = np.random.default_rng(0), ["path,bright,striped,never,age"]
    for i in range(24):
        bright, striped = i % 2, i // 2 % 2
        pixels = rng.integers(0, 60, (20, 20)) + 150 * bright
        pixels[::4] += 40 * striped
        Image.fromarray(pixels.astype("uint8")).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{'' if i == 3 else bright},{-1 if i == 4 else striped},0,{i}")
    path = tmp_path / "table.csv"
    path.write_text("\n".join(rows))
    return path


def encoder(folder):
    torch.manual_seed(0)
    model = MAE(MAEConfig(**MODEL, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2))
    model.preprocess = P
    model.save_pretrained(folder)
    return str(folder)


def classifier(labels=3):
    torch.manual_seed(0)
    model = ViTClassifier(ViTClassifierConfig(**MODEL, num_classes=labels, multi_label=True))
    torch.nn.init.normal_(model.head.weight)
    return model


def test_columns_of_a_table_are_labels(table):
    source = open_images(table, P, columns=COLUMNS)
    assert source.classes == COLUMNS and source.labels.shape == (24, 3) and source.labels.dtype == torch.float32
    assert source.labels[3, 0].isnan() and source.labels[4, 1].isnan() and source.labels.isnan().sum() == 2
    assert source[5]["label"].tolist() == [1.0, 0.0, 0.0]
    train, test = LabelledImages(str(table), label_columns=("striped", "bright"), test_fraction=0.25).build(P)
    assert (len(train), len(test)) == (18, 6) and train.classes == ("striped", "bright") and test.labels.shape == (6, 2)


def test_tables_of_lines_of_json_too(table):
    rows = [{"path": "0.png", "a": True, "b": None}, {"path": "1.png", "a": 0, "b": "yes"}]
    path = table.with_name("t.jsonl")
    path.write_text("\n".join(map(json.dumps, rows)))
    labels = open_images(path, P, columns=("a", "b")).labels
    assert labels[:, 0].tolist() == [1.0, 0.0] and math.isnan(labels[0, 1]) and labels[1, 1] == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("bright", "stripes"), "no column 'stripes'. Did you mean 'striped'.*Columns: bright, striped, never, age"),
        (("age",), "Row 3 of .*table.csv has '2' in the column 'age'; expected 1, 0, or nothing"),
    ],
)
def test_wrong_columns(table, columns, message):
    with pytest.raises(DataError, match=message):
        open_images(table, P, columns=columns)


def test_a_column_that_says_nothing(table):
    path = table.with_name("empty.csv")
    path.write_text("path,a\n0.png,\n1.png,-1\n")
    with pytest.raises(DataError, match="column 'a' of .* says of no image"):
        open_images(path, P, columns=("a",))


def test_where_columns_cannot_be(table, tmp_path):
    with pytest.raises(ConfigError, match="columns of a table.*is none"):
        open_images(tmp_path, P, columns=("a",))
    with pytest.raises(ConfigError, match="built in"):
        LabelledImages("digits", label_columns=("a",)).build(P)
    with pytest.raises(ConfigError, match="per_class counts pictures of one class"):
        LabelledImages(str(table), label_columns=("a",), per_class=2)
    with pytest.raises(ConfigError, match="names a column twice"):
        LabelledImages(str(table), label_columns=("a", "a"))


def test_the_loss_is_the_mean_over_known_labels():
    model = classifier()
    objective = ClassificationConfig.plain().build(model)
    assert isinstance(objective, MultiLabel) and objective.export() is model
    label = torch.tensor([[1.0, 0.0, math.nan], [math.nan, math.nan, 1.0]])
    batch = {"image": torch.randn(2, 3, 16, 16), "label": label}
    losses, logits = objective(batch), model(batch)
    pairs = [(0, 0), (0, 1), (1, 2)]
    expected = sum(F.binary_cross_entropy_with_logits(logits[i, k], label[i, k]) for i, k in pairs) / 3
    torch.testing.assert_close(losses.loss, expected)
    assert losses.count == 3
    nothing = objective({**batch, "label": torch.full((2, 3), math.nan)})
    nothing.loss.backward()
    assert nothing.loss == 0 and nothing.count == 0 and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("label", [None, torch.zeros(2, dtype=torch.long), torch.zeros(2, 4), torch.zeros(2, 3, dtype=torch.long)])
def test_wrong_labels(label):
    batch = {"image": torch.zeros(2, 3, 16, 16)} | ({} if label is None else {"label": label})
    with pytest.raises(DataError, match=r"shape \(2, 3\) with 1, 0 and NaN, found"):
        ClassificationConfig.plain().build(classifier())(batch)


def test_mixing_is_refused():
    with pytest.raises(ConfigError, match="--objective.mixup 0.*found 0.8, 1 and 0.1"):
        ClassificationConfig().build(classifier())


def test_mean_auc_leaves_out_what_is_not_known(table):
    source = open_images(table, P, columns=COLUMNS)
    measure = MeanAUC(source, "image-classification")
    said = torch.randn(24, 3, generator=torch.Generator().manual_seed(1))
    found, at = ClassificationConfig.plain().build(classifier()), iter([0])
    found.model.forward = lambda batch: said[next(at) : len(batch["image"])]
    expected = []
    for k in (0, 1):  # the share of (yes, no) pairs that are in the right order
        yes, no = (said[source.labels[:, k] == v, k] for v in (1, 0))
        expected.append((yes[:, None] > no[None]).float().mean().item())
    auc = measure(found)["auc"]
    assert auc == pytest.approx(sum(expected) / 2)
    row = measure.row("auc", auc)
    assert row["metric"] == "roc_auc" and row["unit"] == "%" and "2 of 3 labels" in row["detail"]


def test_the_thorax_recipes_have_the_papers_numbers():
    for recipe in (mae_small_thorax(), mae_base_thorax()):
        assert recipe.objective.mask_ratio == 0.9 and not recipe.objective.norm_pix_loss and recipe.data.augment.crop_scale == (0.5, 1.0)
        assert recipe.train.batch_size == 2048 and recipe.train.optim.base_lr == 1.5e-4 and recipe.train.epochs == 800 and recipe.train.schedule.warmup * 800 == 40
    assert (mae_small_thorax().model.embed_dim, mae_small_thorax().model.decoder_depth, mae_base_thorax().model.decoder_depth) == (384, 2, 8)
    tuned = default_recipe("vision/mae-small-thorax", preset="thorax")
    train, augment = tuned.train, tuned.data.augment
    assert (train.epochs, train.optim.base_lr, train.optim.layer_decay, tuned.drop_path, augment.auto_augment) == (75, 2.5e-4, 0.55, 0.2, "rand-m6-mstd0.5-inc1")
    assert tuned.objective == ClassificationConfig.plain() and augment.erase_prob == 0 and (tuned.head, tuned.pool) == ("linear", None)
    assert train.schedule.lr(10**5 - 1, 10**5, 1e-3, 1024) == pytest.approx(1e-3 * 1e-5 / 2.5e-4, rel=1e-3)


def test_the_whole_way_by_the_preset(table, tmp_path, capsys):
    start = encoder(tmp_path / "start")
    options = ["--data.label_columns", *COLUMNS, "--train.epochs", "None", "--train.steps", "6", "--train.batch_size", "8", "--train.workers", "0", "--train.pictures", "1"]
    assert main([str(table), "--model", start, "--preset", "thorax", *options, "--to", str(tmp_path / "run")]) == 0
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert [(row["metric"], row["unit"]) for row in record["evaluations"]] == [("roc_auc", "%"), ("loss", "")]
    assert read_yaml(tmp_path / "run" / "recipe.yaml")["train"]["optim"]["layer_decay"] == 0.55
    model = ViTClassifier.from_pretrained(tmp_path / "run")
    assert model.config.class_names == COLUMNS and model.config.multi_label
    rows = tasks.evaluate(model, str(table))
    assert rows[0]["value"] == record["evaluations"][0]["value"]
    assert tasks.judge(model, str(table)).value == "auc"
    said = tasks.predict(model, [tmp_path / "0.png"], None)
    shares = model.eval()(model.preprocess([str(tmp_path / "0.png")])).sigmoid()[0]
    assert all(f"{name} {100 * share:.1f} %" in said for name, share in zip(COLUMNS, shares.tolist()))
    capsys.readouterr()
    assert main([str(table), "--model", start, "--preset", "torax"]) == 1
    assert "Did you mean 'thorax'" in capsys.readouterr().err


def test_it_learns_what_can_be_seen(table, tmp_path):
    recipe = default_recipe(encoder(tmp_path / "start"), preset="thorax")
    few = {"train.epochs": None, "train.steps": 60, "train.batch_size": 16, "train.workers": 0, "train.pictures": 0, "drop_path": 0.0}
    data = {"data.path": str(table), "data.label_columns": ("bright",), "train.optim.lr": 3e-3, "train.optim.layer_decay": None, "data.augment.auto_augment": None}
    run(replace(recipe, {**few, **data}), tmp_path / "run")
    auc = json.loads((tmp_path / "run" / "record.json").read_text())["evaluations"][0]
    assert auc["metric"] == "roc_auc" and auc["value"] > 90
