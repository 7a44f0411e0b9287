"""The demo of time series with a few steps and one real set: every part of it runs."""

import json

import pytest

from modalities import registry
from modalities.time_series import demo
from modalities.time_series.finetune import default_recipe
from trainer.config import replace
from zoo import demo as runner

pytest.importorskip("statsmodels")
FEW = {"train.steps": 4, "train.batch_size": 16, "train.log_every": 2, "train.pictures": 0}


def test_the_demo_runs_with_few_steps(tmp_path, monkeypatch, capsys):
    recipe = registry.find_recipe(demo.PRETRAINING)
    recipe.build()[1].export().save_pretrained(tmp_path / "bundled")
    monkeypatch.setattr(runner.registry, "find_recipe", lambda name: replace(recipe, FEW))
    monkeypatch.setattr(demo, "BUNDLED", str(tmp_path / "bundled"))
    monkeypatch.setattr(demo, "TUNED", {"elnino": 12})
    monkeypatch.setattr(demo, "real_sets", lambda: [data for data in demo_sets() if data.name == "elnino"])
    few = {**FEW, "train.evaluate.every": 2}
    monkeypatch.setattr(demo, "tuning", lambda name, horizon, scratch: replace(default_recipe(demo.BUNDLED, "linear", f"statsmodels:{name}"), {**few, "horizon": horizon, "scratch": scratch}))
    results = runner.run_demo("time_series", tmp_path / "d")
    assert results["zero_shot"].keys() == {"seasonal_naive", "bundled", "a minute"} and results["finetune"]["elnino"].keys() == {"zero-shot", "fine-tuned", "from scratch"}
    said = capsys.readouterr().out
    assert "geometric mean of ratios to seasonal naive" in said and "elnino" in said
    assert (tmp_path / "d" / "forecasts.png").stat().st_size > 10_000 and json.loads((tmp_path / "d" / "results.json").read_text()) == results


demo_sets = demo.real_sets
