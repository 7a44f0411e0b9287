"""Semantic segmentation: heads, loss, mean IoU, fine-tuning of MAE's and MultiMAE's encoders."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from modalities.vision.augment import PretrainAugment
from modalities.vision.data_segmentation import SegmentationPairs
from modalities.common.confusion import confusion
from modalities.vision.evaluation import mean_iou
from modalities.vision.finetune import default_recipe
from modalities.vision.maps import read_labels
from modalities.vision.masks import whole_mask
from modalities.vision.models.convnet import ConvNet, ConvNetClassifier, ConvNetClassifierConfig, ConvNetConfig
from modalities.vision.models.mae import MAE, MAEConfig
from modalities.vision.models.multimae import MultiMAE, MultiMAEConfig
from modalities.vision.models.segmenters import (
    ConvNetSegmenter,
    ConvNetSegmenterConfig,
    MultiSegmenter,
    MultiSegmenterConfig,
    ViTSegmenter,
    ViTSegmenterConfig,
)
from modalities.vision.models.spark import SparK, SparKConfig
from modalities.vision.models.vit import ViTClassifier, ViTClassifierConfig
from modalities.vision.objectives.segmentation import SegmentationConfig
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.segment import SegmentationRecipe, tiny_recipe
from modalities.vision.tasks import predict, write_example
from tests.modalities.vision.references import randomise
from tests.modalities.vision.test_paired import write_scenes
from trainer.errors import ConfigError, DataError, ModelError
from zoo.cards import snippet
from zoo.cli import main

VIT = dict(input_size=16, patch_size=4, embed_dim=24, depth=3, num_heads=3)
MULTI = dict(input_size=16, patch_size=4, embed_dim=24, depth=3, num_heads=3, semseg_stride=2, semseg_classes=7, dim_class_emb=8)
CONV = dict(input_size=64, depths=(1, 1, 1, 1), widths=(8, 12, 16, 20))
DECODER = dict(decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)


@pytest.mark.parametrize("head", ["linear", "upernet"])
def test_logits_for_every_pixel_and_gradients_everywhere(head):
    image, depth = torch.randn(1, 3, 16, 16), torch.randn(1, 1, 16, 16)
    for model in (
        ViTSegmenter(ViTSegmenterConfig(**VIT, num_classes=5, head=head, head_dim=8)),
        MultiSegmenter(MultiSegmenterConfig(**MULTI, in_domains=("rgb", "depth"), num_classes=5, head=head, head_dim=8)),
    ):
        model.train()  # a batch of one must do
        logits = model({"image": image, "depth": depth})
        assert logits.shape == (1, 5, 16, 16)
        logits.square().mean().backward()
        frozen = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
        assert all(name.endswith(("pos_emb", "scales.1.bias", "scales.0.2.bias")) or ".qkv.bias" in name for name in frozen), frozen


@pytest.mark.parametrize("block", ["basic", "convnext"])
def test_a_convolutional_network_gives_its_pyramid(block):
    model = ConvNetSegmenter(ConvNetSegmenterConfig(**CONV, block=block, num_classes=5, head="upernet", head_dim=8)).train()
    batch = {"image": torch.randn(2, 3, 64, 64)}
    assert [tuple(x.shape[1:]) for x in model.maps(batch)] == [(8, 16, 16), (12, 8, 8), (16, 4, 4), (20, 2, 2)]
    logits = model(batch)
    assert logits.shape == (2, 5, 64, 64)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    linear = ConvNetSegmenter(ConvNetSegmenterConfig(**CONV, block=block, num_classes=5))
    assert linear(batch).shape == (2, 5, 64, 64) and set(linear.head.state_dict()) == {"norm.weight", "norm.bias", "classifier.weight", "classifier.bias"}


def test_the_linear_head_is_a_norm_and_a_layer_on_the_last_tokens():
    model = randomise(ViTSegmenter(ViTSegmenterConfig(**VIT, num_classes=5)))
    batch = {"image": torch.randn(2, 3, 16, 16)}
    small = model.head.classifier(model.head.norm(model.tokens(batch)[:, 1:])).transpose(1, 2).unflatten(2, (4, 4))
    assert torch.allclose(model(batch), torch.nn.functional.interpolate(small, size=16, mode="bilinear"), atol=1e-5)


def test_any_encoder_becomes_a_segmenter(tmp_path):
    starts = {
        "mae": (randomise(MAE(MAEConfig(**VIT, **DECODER))), ViTSegmenter, {}),
        "avg": (randomise(ViTClassifier(ViTClassifierConfig(**VIT, num_classes=3))), ViTSegmenter, {}),
        "token": (randomise(ViTClassifier(ViTClassifierConfig(**VIT, num_classes=0, pool="token"))), ViTSegmenter, {}),
        "spark": (randomise(SparK(SparKConfig(**CONV, block="convnext", densify_norm="ln", decoder_width=32))), ConvNetSegmenter, {"head": "upernet", "head_dim": 8}),
        "convnet": (randomise(ConvNet(ConvNetConfig(**CONV, block="basic"))), ConvNetSegmenter, {}),
        "convnext": (randomise(ConvNetClassifier(ConvNetClassifierConfig(**CONV, block="convnext", num_classes=3))), ConvNetSegmenter, {}),
        "multi": (randomise(MultiMAE(MultiMAEConfig(**MULTI, decoder_dim=16, decoder_num_heads=2))), MultiSegmenter, {"in_domains": ("rgb",)}),
    }
    for name, (start, cls, options) in starts.items():
        start.save_pretrained(tmp_path / name)
        model = zoo.from_pretrained(tmp_path / name, task="segmentation", num_outputs=4, **options)
        assert type(model) is cls and "encoder complete" in model.load_report.words() and "segmentation head new" in model.load_report.words()
        in_memory = cls.from_encoder(start, 4, **options)
        assert in_memory.state_dict().keys() == model.state_dict().keys()
        kept = [n for n in model.state_dict() if not n.startswith("head.")]
        assert all(model.state_dict()[n].equal(in_memory.state_dict()[n]) for n in kept)
        model.save_pretrained(tmp_path / f"{name}-seg")
        again = zoo.from_pretrained(tmp_path / f"{name}-seg")
        batch = {"image": torch.randn(1, 3, *start.config.input_size)}
        assert again(batch).equal(model.eval()(batch))
        assert zoo.from_pretrained(tmp_path / f"{name}-seg", task="segmentation", num_outputs=9)(batch).shape == (1, 9, *start.config.input_size)
    with pytest.raises(ConfigError, match="needs a head: say num_outputs"):
        zoo.from_pretrained(tmp_path / "mae", task="segmentation")


def test_unlabelled_pixels_count_for_nothing():
    model = randomise(ViTSegmenter(ViTSegmenterConfig(**VIT, num_classes=5)))
    objective = SegmentationConfig().build(model)
    batch = {"image": torch.randn(2, 3, 16, 16), "segmentation": torch.randint(5, (2, 16, 16))}
    batch["segmentation"][1] = 255
    half = objective({k: v[:1] for k, v in batch.items()})
    whole = objective(batch)
    assert torch.allclose(whole.loss, half.loss) and whole.count == 256 and whole.parts["accuracy"] == half.parts["accuracy"]
    nothing = objective({**batch, "segmentation": torch.full((2, 16, 16), 255)})
    assert nothing.loss == 0 and nothing.count == 0
    with pytest.raises(DataError, match="found none, only image"):
        objective({"image": batch["image"]})
    with pytest.raises(DataError, match=r"must be \(B, H, W\) = \(2, 16, 16\), found \(2, 4, 4\)"):
        objective({**batch, "segmentation": torch.zeros(2, 4, 4, dtype=torch.long)})


def test_mean_iou_by_hand():
    labels = torch.tensor([0, 0, 0, 1, 1, 255])
    said = torch.tensor([0, 0, 1, 1, 1, 2])
    counts = confusion(labels, said, 4, 255)
    assert counts.tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert mean_iou(counts) == pytest.approx((2 / 3 + 2 / 3) / 2)  # classes 2 and 3 do not occur
    # against a library's own
    torchmetrics = pytest.importorskip("torchmetrics.classification")
    generator = torch.Generator().manual_seed(0)
    labels, said = (torch.randint(4, (500,), generator=generator) for _ in range(2))
    theirs = torchmetrics.MulticlassJaccardIndex(4)(said, labels)
    assert mean_iou(confusion(labels, said, 4, 255)) == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("size", [(32, 32), (40, 64), (99, 33), (16, 16), (7, 700)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
def test_a_mask_lies_where_the_model_looked(size, crop_pct):
    """The picture's own columns, as far as they are seen, come back as the mask."""
    preprocess = replace(ImagePreprocess.default(32), crop_pct=crop_pct)
    columns = torch.linspace(0, 1, size[1]).expand(3, *size).contiguous()
    seen = preprocess.fit(columns)[0]  # (32, 32)
    logits = torch.stack([(seen > 0.5).float(), (seen <= 0.5).float()])
    mask = whole_mask(logits, preprocess, *size)
    top, left, rows, width = preprocess.seen(*size)
    inside = np.zeros(size, bool)
    inside[top : top + rows, left : left + width] = True
    assert mask.shape == size and (mask[~inside] == 255).all() and inside.any()
    wanted = (columns[0] <= 0.5).int().numpy()
    assert (mask[inside] != wanted[inside]).mean() < 0.04
    if size[0] == size[1] and crop_pct == 1:
        assert inside.all()


def quick(recipe: SegmentationRecipe, **changes) -> SegmentationRecipe:
    return replace(recipe, train=replace(recipe.train, steps=4, batch_size=8, pictures=1), **changes)


def test_few_labelled_scenes_and_what_is_measured(tmp_path):
    from modalities.common.run import run

    data = SegmentationPairs("digits-cluttered", samples=20, augment=PretrainAugment.none())
    export = run(quick(tiny_recipe("vision/mae-tiny-digits", data, 0)), tmp_path / "run")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert [row["metric"] for row in record["evaluations"]] == ["mean IoU", "accuracy", "loss"] and record["samples"] == 20
    model = zoo.from_pretrained(export)
    assert model.config.class_names == ("background", "digit", "fragment") and model.preprocess.size == (20, 20)
    assert next((tmp_path / "run" / "pictures").glob("*.png")).stat().st_size > 5000


def test_the_scripts_on_files_with_two_inputs(tmp_path, capsys, monkeypatch):
    """Pre-train MultiMAE on files, fine-tune it on depth and colour, segment with it, evaluate and predict: by the commands."""
    names = [f"{c}/{i}" for c in "ab" for i in range(6)]
    root = write_scenes(tmp_path / "scenes", names)
    small = ["--model.embed_dim", "16", "--model.depth", "1", "--model.num_heads", "2", "--model.decoder_dim", "16", "--model.decoder_depth", "0",
             "--model.decoder_num_heads", "2", "--model.semseg_classes", "7", "--model.input_size", "16", "16"]  # fmt: skip
    quick = ["--train.steps", "2", "--train.batch_size", "4", "--train.pictures", "1", "--train.workers", "0"]
    assert main(["pretrain", "vision/multimae-tiny", "--data.path", str(root), "--to", str(tmp_path / "pre"), *small, *quick]) == 0
    augment = ["--data.augment.auto_augment", "None", "--data.augment.erase_prob", "0"]
    inputs = ["--inputs", "rgb", "depth"]
    assert main(["finetune", str(tmp_path / "pre"), "--data.path", str(root), "--to", str(tmp_path / "cls"), *inputs, *augment, *quick]) == 0
    classifier = zoo.from_pretrained(tmp_path / "cls")
    assert classifier.config.in_domains == ("rgb", "depth") and classifier.preprocess.domains == ("rgb", "depth")
    segment = ["--task", "segmentation", "--data.class_names", *"0123456", "--data.test_fraction", "0.3"]
    assert main(["finetune", str(tmp_path / "pre"), "--data.path", str(root), "--to", str(tmp_path / "seg"), *segment, *inputs, *quick]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "seg"), "--data", str(root)]) == 0
    assert "mean IoU" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "pre"), "--data", str(root)]) == 0
    with pytest.raises(ModelError, match="reads rgb, depth, and here are pictures alone"):
        predict(zoo.from_pretrained(tmp_path / "seg"), [root / "rgb" / "a" / "0.jpg"], None)
    assert main(["predict", str(tmp_path / "pre"), str(root / "rgb" / "a" / "0.jpg"), "--to", str(tmp_path / "p.png")]) == 0
    with Image.open(tmp_path / "p.png") as sheet:
        assert np.asarray(sheet).std() > 5
    write_example(classifier, tmp_path)
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(compile(snippet(classifier, str(tmp_path / "cls")), "the card's lines", "exec"), found)
    assert found["logits"].shape == (1, 2)
    card = (tmp_path / "pre" / "export" / "README.md").read_text()
    assert "`image`: 3 channel(s), 16 x 16; `depth`: 1 channel(s), 16 x 16; `semseg`: class ids, 8 x 8" in card


def test_a_convolutional_network_by_the_commands(tmp_path, capsys):
    """SparK's backbone with the pyramid's head, on files of several sizes: train, measure, write masks that can be labels again."""
    root = write_scenes(tmp_path / "scenes", [str(i) for i in range(6)])
    ConvNet(ConvNetConfig(**CONV, block="convnext")).save_pretrained(tmp_path / "net")
    options = ["--task", "segmentation", "--head", "upernet", "--head_dim", "8", "--data.class_names", *"0123456", "--data.test_fraction", "0.3"]
    quick = ["--train.steps", "2", "--train.batch_size", "4", "--train.pictures", "1", "--train.workers", "0"]
    assert main(["finetune", str(tmp_path / "net"), "--data.path", str(root), "--to", str(tmp_path / "seg"), *options, *quick]) == 0
    assert isinstance(zoo.from_pretrained(tmp_path / "seg"), ConvNetSegmenter)
    Image.new("RGB", (90, 50), "red").save(tmp_path / "0.jpg")
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "seg"), str(root / "rgb" / "0.jpg"), str(tmp_path / "0.jpg"), "--to", str(tmp_path / "out" / "s.png")]) == 0
    assert f"{tmp_path / '0.jpg'}: {tmp_path / 'out' / 's-0-1.png'}" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "s-0.png") as mask, Image.open(tmp_path / "out" / "s-0-1.png") as wide:
        assert mask.mode == wide.mode == "P" and mask.size == (32, 24) and wide.size == (90, 50)
        assert set(np.unique(wide)) <= {*range(7), 255} and (np.asarray(wide)[:, :15] == 255).all()
    read_labels(tmp_path / "out" / "s-0.png", 7, ignored=True)
    assert (tmp_path / "out" / "s.png").stat().st_size > 3000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "segmentatoin"], "Did you mean 'segmentation'"),
        (["--task", "segmentation", "--head", "probe"], "--head must be one of linear, upernet"),
        (["--task", "segmentation"], "Say what the labels 0, 1, ... of .* are called"),
        (["--task", "segmentation", "--data.class_names", "x", "y"], r"has the label\(s\) .*and the classes are 0 to 1"),
        (["--inputs", "rgb", "depth"], "inputs has 'depth'; known are rgb"),
    ],
)
def test_mistakes_are_told(arguments, words, tmp_path, capsys):
    import re

    root = write_scenes(tmp_path / "scenes", ["a/0", "a/1", "b/0", "b/1"])
    assert main(["finetune", "vision/mae-tiny-digits", "--data.path", str(root), "--to", str(tmp_path / "x"), *arguments]) == 1
    assert re.search(words, capsys.readouterr().err) and not (tmp_path / "x").exists()


def test_classes_of_the_data_are_known_before_training():
    with pytest.raises(ConfigError, match="those of 'digits-cluttered' are background, digit, fragment"):
        SegmentationPairs("digits-cluttered", class_names=("a", "b", "c")).classes()
    with pytest.raises(ConfigError, match="inputs has semseg"):
        SegmentationRecipe(inputs=("rgb", "semseg"))
    with pytest.raises(DataError, match="5000 labelled pictures were asked for"):
        tiny_recipe("vision/mae-tiny-digits", SegmentationPairs("digits-cluttered", samples=5000), 0).build()
    recipe = default_recipe("vision/mae-base", data="x", task="segmentation")
    assert isinstance(recipe, SegmentationRecipe) and recipe.head == "linear" and recipe.data.path == "x"
