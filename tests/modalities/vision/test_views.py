"""Sheets of attention and of neighbours that training draws."""

import pytest
import torch
from PIL import Image

import zoo
from modalities import registry
from modalities.common.evaluation import AsItIs
from modalities.vision.views import POOL, most_alike
from tests.small import pictures
from tests.modalities.vision.test_self_distillation import TINY
from trainer.config import replace


def test_the_nearest_come_first():
    known = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    cosine, nearest = most_alike(known, torch.tensor([[0.1, 5.0]]), 2)
    assert nearest.tolist() == [[1, 2]] and cosine[0, 0] > 0.99 and cosine[0, 1] == pytest.approx(0.72, abs=0.01)


def test_sheets_of_the_digits(tmp_path):
    recipe = registry.find_recipe("vision/mae-tiny-digits")
    source, objective = recipe.build()
    views = recipe.views(objective, source)
    assert views.keys() == {"attention", "neighbours"} and POOL < len(source.held_out)
    model = zoo.from_pretrained("vision/mae-tiny-digits").train()
    for name, draw in views.items():
        draw(AsItIs(model), tmp_path / f"{name}.png", "now")
        with Image.open(tmp_path / f"{name}.png") as sheet:
            assert sheet.width > 5 * 128 and sheet.height > 6 * 128
    assert model.training  # as it was


def test_the_pictures_of_several_sets_and_of_crops(tmp_path):
    """A mixture has no raw samples of its own; of several crops the first large one is drawn."""
    places = [str(pictures(tmp_path / name)) for name in "ab"]
    recipe = replace(registry.find_recipe("vision/poa-tiny"), {**TINY, "data.path": places[0], "data.also": (places[1],)})
    source, objective = recipe.build()
    for name, draw in recipe.views(objective, source).items():
        draw(objective, tmp_path / f"{name}.png", "now")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_what_cannot_be_drawn():
    recipe = replace(registry.find_recipe("vision/spark-tiny"), {"data.scenes.views": 1, "data.scenes.canvas": 32, "data.scenes.digit_size": (20.0, 24.0)})
    source, objective = recipe.build()
    assert recipe.views(objective, source) == {}
