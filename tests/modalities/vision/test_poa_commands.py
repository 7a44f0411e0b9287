"""An elastic model as a user meets it: parts by commands, measured, exported, looked at."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from modalities.vision.pictures import attention_sheet, neighbour_sheet
from tests.modalities.vision.test_poa import network
from trainer.errors import DataError
from zoo.cli import main


@pytest.fixture
def folder(tmp_path):
    """A small network for the built-in digits, as a model folder."""
    model = network(input_size=20, patch_size=5, in_chans=1)
    model.name, model.preprocess = "vision/poa-test", model.default_preprocess()
    model.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def test_extract_then_everything_as_with_any_model(folder, tmp_path, capsys):
    assert main(["extract", str(folder), "--size", "16_3", "--output", str(tmp_path / "part")]) == 0
    assert "size 16_3" in capsys.readouterr().out
    part = zoo.from_pretrained(tmp_path / "part")
    assert part.system == "vision/poa-vit" and part.config.embed_dim == 16
    assert "POA" in (tmp_path / "part" / "README.md").read_text()
    assert main(["evaluate", str(tmp_path / "part"), "--data", "digits", "--per_class", "5", "--to", str(tmp_path / "part.json")]) == 0
    assert main(["evaluate", str(folder), "--data", "digits", "--per_class", "5", "--size", "16_3", "--to", str(tmp_path / "size.json"), "--neighbours", str(tmp_path / "n.png")]) == 0
    values = [[row["value"] for row in json.loads((tmp_path / name).read_text())] for name in ("part.json", "size.json")]
    assert values[0] == values[1] and len(values[0]) == 2
    with Image.open(tmp_path / "n.png") as sheet:
        assert sheet.width > 8 * 128


def test_export_of_a_size(folder, tmp_path, capsys):
    import timm

    assert main(["export", str(folder), "--to", "timm", "--size", "24_2", "--output", str(tmp_path / "timm")]) == 0
    theirs = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    part, x = zoo.from_pretrained(folder, size="24_2"), torch.randn(2, 1, 20, 20)
    with torch.no_grad():
        assert torch.allclose(theirs(x), part.embed({"image": x}), atol=1e-5)
    again = zoo.from_pretrained(tmp_path / "timm")
    assert torch.allclose(again.embed({"image": x}), part.embed({"image": x}), atol=1e-6)
    capsys.readouterr()
    assert main(["export", str(folder), "--to", "timm", "--output", str(tmp_path / "whole")]) == 0
    assert "Left out: the heads (16 tensors) and the mask token" in capsys.readouterr().out
    assert main(["export", str(folder), "--to", "timm", "--size", "23_2", "--output", str(tmp_path / "no")]) == 1
    assert "no part of width 23" in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_transformers_hold_a_part_with_its_factors_folded(folder, tmp_path, capsys):
    pytest.importorskip("transformers")
    assert main(["export", str(folder), "--to", "transformers", "--size", "24_2", "--output", str(tmp_path / "hf")]) == 0
    assert "factors of LayerScale are part of the linear layers" in capsys.readouterr().out


def test_predict_draws_what_the_class_token_looks_at(folder, tmp_path, capsys):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 30), "uint8")).save(tmp_path / "a.png")
    for name, extra in ((str(folder), []), (str(folder), ["--size", "16_2"]), ("vision/mae-tiny-digits", ["--attention"])):
        to = tmp_path / "attention.png"
        assert main(["predict", name, str(tmp_path / "a.png"), "--to", str(to), *extra]) == 0
        with Image.open(to) as sheet:
            assert sheet.width > 3 * 128
        to.unlink()
    assert main(["predict", "vision/mae-tiny-digits", str(tmp_path / "a.png"), "--size", "16_2"]) == 1
    assert "one size only" in capsys.readouterr().err


def test_fine_tuning_a_part(folder, tmp_path):
    from modalities.common.run import run
    from modalities.vision.finetune import digits_recipe
    from modalities.vision.data import LabelledImages
    from modalities.vision.augment import FinetuneAugment
    from trainer.config import replace

    recipe = digits_recipe(str(folder), LabelledImages("digits", per_class=2, augment=FinetuneAugment.none()), 0)
    recipe = replace(recipe, {"size": "16_2", "train.steps": 2, "train.pictures": 0})
    model = zoo.from_pretrained(run(recipe, tmp_path / "run"))
    assert (model.system, model.config.embed_dim, model.config.num_classes) == ("vision/poa-vit", 16, 10)
    whole = replace(recipe, {"size": None, "scratch": True}).build()[1].model
    assert whole.config.embed_dim == 32


def test_sheets_say_what_they_need(tmp_path):
    images = torch.rand(2, 1, 8, 8)
    with pytest.raises(DataError, match="Attention must be"):
        attention_sheet(images, torch.rand(3, 2, 2, 2), tmp_path / "a.png")
    with pytest.raises(DataError, match="sheet of neighbours"):
        neighbour_sheet(images, torch.rand(2, 3, 1, 8, 8), ["a"], [["x"] * 3] * 2, None, tmp_path / "a.png")


def test_the_sheet_of_neighbours_frames_them(tmp_path):
    images = torch.full((1, 1, 8, 8), 0.5)
    path = neighbour_sheet(images, images[:, None].expand(-1, 2, -1, -1, -1), ["q"], [["a", "b"]], [[True, False]], tmp_path / "n.png", "title")
    with Image.open(path) as sheet:
        colours = {colour for _, colour in sheet.getcolors(100_000)}
    assert {(40, 160, 60), (200, 50, 40), (128, 128, 128)} <= colours


def test_pictures_that_another_modality_does_not_have_are_refused(tmp_path, capsys):
    name = next(name for name in zoo.list_models("video"))
    assert main(["predict", name, "clip.mp4", "--attention"]) == 1
    assert "(--attention) is not there for video" in capsys.readouterr().err
    assert main(["evaluate", name, "--data", "clips", "--neighbours", str(tmp_path / "n.png")]) == 1
    assert "(--neighbours) is not there for video" in capsys.readouterr().err
