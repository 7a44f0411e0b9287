"""The recipes of GPHT, TimelyGPT and GPD train, draw, and give models that load back."""

import pytest
import torch

import zoo
from modalities import registry
from modalities.common.golden import gradients_of
from trainer.config import replace

TINY = {"train.steps": 2, "train.batch_size": 4, "train.pictures": 1}


@pytest.mark.parametrize("name", ["gpht-tiny", "timelygpt-tiny", "gpd-tiny"])
def test_forecasters_learn_and_are_drawn(name, tmp_path):
    changes = {"data.validation": 8, "data.samples": 8} | ({"model.steps": 3, "model.samples": 2} if name == "gpd-tiny" else {})
    recipe = replace(registry.find_recipe(f"time_series/{name}"), changes)
    source, objective = recipe.build()
    batch = {**source.held_out.fetch(range(4)), "sample_key": torch.arange(4)}
    gradients = gradients_of(objective(batch).loss, objective.model)
    assert all(gradient.isfinite().all() for gradient in gradients.values()) and (name == "gpd-tiny" or all(g.any() for g in gradients.values()))
    assert objective.model.name == f"time_series/{name}" and recipe.evaluators(source, objective)
    recipe.draw(objective, source)(objective.eval(), tmp_path / "x.png", "title")
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_codes_train_on_generated_visits(tmp_path):
    export = zoo.pretrain("time_series/timelygpt-codes-tiny", to=tmp_path / "run", changes={**TINY, "data.samples": 20})
    model = zoo.from_pretrained(export)
    assert model(model.preprocess({"code": [1, 3], "time": [0.0, 4.0]})).shape == (1, 2, 25)


@pytest.mark.parametrize("name", ["gpht-base", "timelygpt-base"])
def test_recipes_of_the_papers_are_of_their_models(name):
    recipe = registry.find_recipe(f"time_series/{name}")
    assert replace(type(recipe.model)(), registry.find(f"time_series/{name}").fields) == recipe.model
