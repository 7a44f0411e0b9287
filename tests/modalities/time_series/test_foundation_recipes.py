"""The recipes of Chronos-Bolt, Chronos-2, Time-MoE and FlowState: what they build learns, and is drawn."""

import pytest
import torch

import zoo
from modalities import registry
from modalities.time_series.models import chronos_bolt, flowstate, time_moe
from trainer.config import replace

NAMES = [name for name in registry.recipes() if name.startswith(("time_series/chronos", "time_series/time-moe", "time_series/flowstate"))]


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith("micro")])
def test_the_loss_falls_on_a_batch_seen_again_and_again(name, tmp_path):
    torch.manual_seed(0)
    recipe = replace(registry.find_recipe(name), {"data.validation": 8, "data.samples": 8})
    source, objective = recipe.build()
    batch = source.held_out.fetch(range(8))
    optimizer = torch.optim.Adam([p for p in objective.parameters() if p.requires_grad], 3e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        losses.append(objective(batch).loss)
        losses[-1].backward()
        optimizer.step()
    assert losses[-1].isfinite() and losses[-1] < 0.95 * losses[0]
    assert objective.model.name == name and recipe.evaluators(source, objective)
    recipe.draw(objective, source)(objective.eval(), tmp_path / "x.png", "title")
    assert (tmp_path / "x.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_that_of_its_model(name):
    recipe = registry.find_recipe(name)
    assert replace(type(recipe.model)(), registry.find(name).fields) == recipe.model and recipe.recipe == name


@pytest.mark.parametrize(("name", "module"), [("chronos-bolt-micro", chronos_bolt), ("flowstate-micro", flowstate), ("time-moe-micro", time_moe)])
def test_many_series_are_forecast_in_parts(name, module, monkeypatch):
    model, batch = zoo.create(f"time_series/{name}").eval(), {"series": torch.randn(1, 7, 40)}
    batch["series"][0, 2, :9] = torch.nan
    whole = model.forecast(batch, 70).point
    monkeypatch.setattr(module, "ROWS", 3)
    assert model.forecast(batch, 70).point.allclose(whole, atol=1e-4)


def test_every_model_has_its_recipe():
    systems = {"time_series/chronos-bolt", "time_series/chronos-2", "time_series/time-moe", "time_series/flowstate"}
    assert {name for name, entry in registry.entries().items() if entry.system in systems} == set(NAMES)
