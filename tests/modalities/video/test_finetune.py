"""The whole way on videos: pre-train, fine-tune, evaluate, predict; and the pictures on the way."""

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from modalities import registry
from modalities.common.classification import ClassificationConfig
from modalities.common.run import run
from modalities.video.data import LabelledVideos
from modalities.video.evaluation import MultiView
from modalities.video.finetune import FinetuneRecipe, default_recipe
from modalities.video.models.vit import VideoClassifier, VideoClassifierConfig
from modalities.video.pictures import animation, clip_sheet, strip_sheet
from modalities.video.preprocess import VideoPreprocess
from modalities.video.sources import open_videos
from modalities.video.tasks import draw_confusion, evaluate, predict
from tests.modalities.video.references import moving
from trainer.config import replace
from trainer.errors import ConfigError, DataError, ModelError
from zoo.cli import main

SMALL = {
    "model.input_size": (4, 16, 16), "model.patch_size": (2, 8, 8), "model.depth": 1, "model.embed_dim": 16, "model.num_heads": 2, "model.decoder_embed_dim": 16,
    "model.decoder_num_heads": 2,
}  # fmt: skip
QUICK = {"train.steps": 4, "train.epochs": None, "train.batch_size": 4, "train.log_every": 1, "train.pictures": 1, "train.workers": 0}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, step in (("forth", 1), ("back", -1)):
        (folder / name).mkdir()
        for i in range(4):
            np.save(folder / name / f"{i}.npy", moving(10 + i)[::step])
    return folder


@pytest.fixture(scope="module")
def pretrained_run(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "r"
    recipe = registry.find_recipe("video/videomae-tiny")
    run(replace(recipe, {**SMALL, **QUICK, "data.path": str(videos), "data.stride": 2, "objective.mask_ratio": 0.5, "probe.path": str(videos)}), folder)
    return folder


def test_pretraining_draws_and_measures(pretrained_run):
    with Image.open(next((pretrained_run / "pictures").glob("*.gif"))) as gif:
        assert gif.n_frames == 4
    assert list((pretrained_run / "pictures").glob("*.png"))
    model = zoo.from_pretrained(pretrained_run)
    assert model.preprocess.stride == 2 and model.name == "video/videomae-tiny"


def test_finetuning_and_what_follows(pretrained_run, videos, tmp_path, capsys):
    arguments = [str(videos), "--train.steps", "4", "--train.batch_size", "4", "--train.pictures", "1", "--train.workers", "0", "--data.stride", "2", "--test_clips", "2"]
    assert main(["finetune", str(pretrained_run), "--data.path", *arguments, "--to", str(tmp_path / "f")]) == 0
    model = zoo.from_pretrained(tmp_path / "f")
    assert model.system == "video/videomae-vit" and model.config.class_names == ("back", "forth") and list((tmp_path / "f" / "pictures").glob("*.png"))
    assert "confusion.png" in (tmp_path / "f" / "export" / "README.md").read_text() and "confusion, step 4" in (tmp_path / "f" / "report.html").read_text()
    details = [row["detail"] for row in evaluate(model, str(videos))]
    assert "mean over 5 clips x 3 crops" in details
    draw_confusion(model, str(videos), tmp_path / "c.png")
    with pytest.raises(ModelError, match="needs a classifier, and this is a video/videomae"):
        draw_confusion(zoo.from_pretrained(pretrained_run), str(videos), tmp_path / "d.png")
    said = predict(model, [videos / "forth" / "0.npy"], None)
    assert "forth" in said and "back" in said and "%" in said
    assert main(["predict", str(pretrained_run), str(videos / "forth" / "0.npy"), "--to", str(tmp_path / "p.png")]) == 0
    assert (tmp_path / "p.png").exists() and (tmp_path / "p.gif").exists() and "reconstructed" in capsys.readouterr().out


def test_probe_and_scratch(pretrained_run, videos, tmp_path):
    recipe = default_recipe(str(pretrained_run), "probe", str(videos))
    run(replace(recipe, {**QUICK, "test_clips": 1, "test_crops": 1}), tmp_path / "p")
    frozen, start = zoo.from_pretrained(tmp_path / "p"), zoo.from_pretrained(pretrained_run)
    assert frozen.blocks[0].attn.qkv.weight.equal(start.blocks[0].attn.qkv.weight)
    source, objective = FinetuneRecipe(model=str(pretrained_run), scratch=True, data=LabelledVideos(str(videos))).build()
    assert not objective.model.blocks[0].attn.qkv.weight.equal(start.blocks[0].attn.qkv.weight) and source.rows == 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"head": "probe"}, "probe"), ({"test_clips": 0}, "test_clips"), ({"drop_path": 0.0}, "Say which encoder")],
)
def test_recipes_that_cannot_be_are_refused(fields, words):
    with pytest.raises(ConfigError, match=words):
        FinetuneRecipe(**fields).build()


def test_an_encoder_of_images_is_refused(videos):
    with pytest.raises(ModelError, match="reads image, and nothing makes a model for classification of videos"):
        FinetuneRecipe(model="vision/mae-tiny", scratch=True, data=LabelledVideos(str(videos))).build()


def test_views_are_averaged(videos):
    preprocess = VideoPreprocess(frames=4, stride=2, size=(16, 16))
    test = open_videos(videos, preprocess)
    torch.manual_seed(0)
    model = VideoClassifier(VideoClassifierConfig(input_size=(4, 16, 16), patch_size=(2, 8, 8), embed_dim=16, depth=1, num_heads=2, num_classes=2)).eval()
    torch.nn.init.normal_(model.head.weight)
    objective = ClassificationConfig().build(model)
    found = MultiView(test, 2, 3)(objective)["multiview"]
    shares = [model({"video": preprocess.views(test.item(i), 2, 3)}).softmax(1).mean(0).argmax() for i in range(len(test))]
    assert found == (torch.stack(shares) == test.labels).float().mean().item()
    assert MultiView(test, 1, 1)(objective)["multiview"] == sum(int(model({"video": test[i]["video"][None]}).argmax()) == test.labels[i] for i in range(8)) / 8
    with pytest.raises(ConfigError, match="at least one clip"):
        MultiView(test, 0)


def test_the_default_recipe_is_the_papers():
    recipe = default_recipe("video/videomae-large")
    assert recipe.train.optim.base_lr == 2e-3 and recipe.train.epochs == 35 and recipe.train.optim.layer_decay == 0.75
    base = registry.find_recipe("video/videomae-base")
    peak = base.train.optim.peak_lr(2048)
    assert peak == pytest.approx(1.2e-3) and base.train.schedule.floor * peak == pytest.approx(8e-5) and base.objective.mask_ratio == 0.9


def test_pictures(tmp_path):
    clips = torch.rand(2, 3, 16, 10, 12)
    clips[0, :, 0] = torch.nan
    with Image.open(strip_sheet({"original": clips, "masked": clips}, tmp_path / "a.png", "a title")) as sheet:
        assert sheet.width > 8 * 128 and sheet.height > 4 * 100
    with Image.open(clip_sheet(clips, ["one", "two"], tmp_path / "b.png")) as sheet:
        assert sheet.height > 2 * 100
    with Image.open(animation({"x": clips[:, :1]}, tmp_path / "c.gif")) as gif:
        assert gif.n_frames == 16
    with pytest.raises(DataError, match="one label per clip"):
        clip_sheet(clips, ["one"], tmp_path / "d.png")
    with pytest.raises(DataError, match="Clips must be"):
        strip_sheet({"x": clips[0]}, tmp_path / "d.png")
