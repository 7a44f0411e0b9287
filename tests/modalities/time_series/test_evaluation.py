"""Scores, baselines, the built-in series, and the runner."""

import json

import numpy as np
import pytest
import torch

from modalities.time_series import baselines, metrics
from modalities.time_series.evaluation import Protocol, evaluate, evaluate_set, from_baseline, from_model, main
from modalities.time_series.models.ttm import TTM, TTMConfig
from modalities.time_series.objectives.relative import RelativeConfig, step_share
from modalities.time_series.real import SETS, real_sets
from modalities.time_series.scoreboard import as_json, overall, rows, table
from modalities.time_series.series import Item, SeriesSet
from modalities.time_series.sets import open_sets
from trainer.errors import ConfigError, DataError, UnknownNameError
from zoo.cli import main as zoo_main

TINY = TTMConfig(context_length=32, prediction_length=6, patch_length=8, d_model=16, num_layers=1, adaptive_patching_levels=1, decoder_d_model=8, decoder_num_layers=1, multi_quantile_head=True)


def test_scores_are_those_of_their_definitions():
    history, truth = np.array([1.0, 2, 4, 7]), np.array([8.0, np.nan, 10])
    assert metrics.seasonal_error(history, 1) == 2 and metrics.seasonal_error(history, 2) == 4 and metrics.seasonal_error(history, 9) == 2
    point = np.array([9.0, 5, 8])
    assert metrics.mase(truth, point, 2.0) == 0.75 and metrics.squared_error(truth, point) == 2.5
    quantiles = np.repeat(point[None], 9, 0)
    assert metrics.weighted_quantile_loss(truth, quantiles) == pytest.approx((2 * (1 * 0.5) + 2 * (2 * 0.5)) / 18)  # of one value: mean over levels of q or 1 - q is 1/2
    low, high = np.array([8.0, 0, 11]), np.array([9.0, 0, 12])
    assert metrics.coverage(truth, low, high) == 0.5
    assert metrics.geometric_mean([2.0, 0.5, np.nan]) == pytest.approx(1) and np.isnan(metrics.geometric_mean([]))
    assert np.isnan(metrics.mase(truth, point, 0.0))


def test_seasonal_naive_repeats_the_newest_value_of_each_phase():
    history = np.array([[np.nan, 1, 2, 3, 4, np.nan, 6], [np.nan] * 6 + [5]])
    np.testing.assert_array_equal(baselines.seasonal_naive(history, 5, 3), [[4, 2, 6, 4, 2], [5] * 5])
    np.testing.assert_array_equal(baselines.seasonal_naive(history[0], 2, 1), [6, 6])
    np.testing.assert_array_equal(baselines.seasonal_naive(np.array([1.0, 2]), 3, 12), [1, 2, 1])  # shorter than a season: all there is
    with pytest.raises(DataError, match="without a single observed value"):
        baselines.seasonal_naive(np.array([np.nan, np.nan]), 2, 1)
    wide = baselines.naive_intervals(np.arange(20.0) % 4 + np.arange(20) * 0.5, 8, 4)
    assert (np.diff(wide, axis=0) > 0).all() and wide[-1, 7] - wide[0, 7] > wide[-1, 0] - wide[0, 0]
    with pytest.raises(UnknownNameError, match="theta"):
        baselines.baseline("thet")


def test_fitted_baselines_follow_trend_and_season():
    pytest.importorskip("statsmodels")
    time, noise = np.arange(68), np.random.default_rng(0).normal(0, 0.1, 68)
    for forecast, series in ((baselines.auto_ets, 10 + 0.5 * time + 3 * np.sin(time * np.pi / 2)), (baselines.auto_theta, (10 + 0.5 * time) * (1 + 0.2 * np.sin(time * np.pi / 2)))):
        history, truth = (series + noise)[:60], series[60:]
        quantiles = forecast(history, 8, 4)
        assert quantiles.shape == (9, 8) and (np.diff(quantiles, axis=0) >= 0).all()
        assert metrics.absolute_error(truth, quantiles[4]) < 0.5 * metrics.absolute_error(truth, baselines.seasonal_naive(history, 8, 4))


def test_windows_come_one_after_another_at_the_end_and_nothing_of_them_is_seen():
    seen = []

    def spy(items, ends, horizon):
        seen.extend((item.name, end) for item, end in zip(items, ends))
        return [np.repeat(item.values[None, :, end : end + horizon], 9, 0) for item, end in zip(items, ends)]

    data = SeriesSet("s", (Item("a", np.arange(40.0)[None], frequency="ME"), Item("b", np.arange(80.0).reshape(2, 40)), Item("short", np.ones((1, 9)))), horizon=4)
    found = evaluate_set(data, {"oracle": spy}, Protocol(windows=3))
    assert seen == [("a", 28), ("a", 32), ("a", 36), ("b", 28), ("b", 32), ("b", 36)]
    assert found.series == 3 and found.left_out == 1 and found.scores["oracle"]["MASE"] == 0 and found.scores["seasonal_naive"]["MASE"] == pytest.approx(2.5)
    assert [one["name"] for one in found.each] == ["a", "b/0", "b/1"]
    with pytest.raises(DataError, match="No series of s is long enough"):
        evaluate_set(data, {}, Protocol(horizon=50))
    with pytest.raises(ConfigError, match="windows"):
        Protocol(windows=0)


def test_a_model_is_measured_with_missing_values_and_short_histories():
    torch.manual_seed(0)
    values = np.random.default_rng(0).normal(size=(2, 30)).cumsum(1)
    values[0, 3:9] = np.nan
    data = SeriesSet("walk", (Item("a", values, ("x", "y"), frequency="D"), Item("b", np.arange(14.0)[None])), horizon=6)
    results = evaluate(TTM(TINY), [data], ["naive_intervals"], label="ttm")
    assert set(results[0].scores) == {"seasonal_naive", "ttm", "naive_intervals"} and np.isfinite(list(results[0].scores["ttm"].values())).all()
    assert overall(results)["seasonal_naive"]["MASE"] == 1
    assert "walk" in table(results) and "geometric mean" in table(results)
    assert json.dumps(as_json(results), allow_nan=False)
    assert [row["metric"] for row in rows(results, "ttm", "walk")] == ["MASE ratio", "WQL ratio", "coverage"]


def test_items_of_several_channels_are_forecast_like_one_by_one():
    torch.manual_seed(0)
    model = TTM(TINY).eval()
    values = np.random.default_rng(0).normal(size=(3, 40)).cumsum(1)
    together = from_model(model)([Item("a", values)], [40], 6)[0]
    alone = [from_model(model)([Item("a", values[[c]])], [40], 6)[0][:, 0] for c in range(3)]
    np.testing.assert_allclose(together, np.stack(alone, 1), atol=1e-4)


def test_the_runner_takes_a_folder_and_writes_json(tmp_path, capsys):
    torch.manual_seed(0)
    TTM(TINY).save_pretrained(tmp_path / "model")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("date,v\n" + "\n".join(f"2020-01-{d:02d},{d % 7}" for d in range(1, 31)))
    main(str(tmp_path / "model"), data=str(tmp_path / "data"), horizon=6, to=tmp_path / "scores.json")
    assert "geometric mean of ratios" in capsys.readouterr().out
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["sets"][0]["name"] == "a" and scores["sets"][0]["frequency"] == "D"


def test_zoo_evaluate_prints_the_table_and_zoo_average_what_it_cannot(tmp_path, capsys):
    for name in "ab":
        TTM(TINY).save_pretrained(tmp_path / name)
    (tmp_path / "data.csv").write_text("date,v\n" + "\n".join(f"{1920 + year},{year % 7}" for year in range(60)))
    assert zoo_main(["evaluate", str(tmp_path / "a"), "--data", str(tmp_path / "data.csv")]) == 0
    said = capsys.readouterr().out
    assert "naive MASE" in said and "geometric mean of ratios to seasonal naive" in said and "WQL ratio on 1 samples" in said
    models = [str(tmp_path / "a"), str(tmp_path / "b"), "--to", str(tmp_path / "mean")]
    assert zoo_main(["average", *models, "--greedy", "--data", str(tmp_path / "data.csv")]) == 1
    assert "Measuring the models of an average on data (--data, --greedy) is not there for time_series" in capsys.readouterr().err
    assert zoo_main(["average", *models]) == 0 and (tmp_path / "mean" / "model.safetensors").exists()


def test_the_built_in_series_are_there():
    pytest.importorskip("statsmodels")
    found = {data.name: data for data in real_sets()}
    assert len(found) == len(SETS) >= 25
    assert found["sunspots"].items[0].length == 309 and found["co2"].frequency == "W" and found["elnino"].items[0].length == 732
    assert len(found["grunfeld"].items) == 33 and found["macrodata"].season == 4
    assert all(np.isfinite(item.values).sum() > 15 and len(item.times) == item.length for data in found.values() for item in data.items)
    assert [data.name for data in open_sets("statsmodels:nile,co2")] == ["nile", "co2"]
    with pytest.raises(UnknownNameError, match="nile"):
        open_sets("statsmodels:nil")
    scores = evaluate_set(found["nile"], {"naive_intervals": from_baseline(baselines.naive_intervals, 1)})
    assert scores.windows == 2 and 0.5 < scores.scores["naive_intervals"]["coverage"] <= 1


def test_errors_count_relative_to_the_steps_of_a_series():
    batch = {"series": torch.tensor([[[0.0, 1, 2, 3]], [[5.0, 0, 5, 0]]]), "observed": torch.tensor([[[True, True, True, False]], [[True] * 4]])}
    torch.testing.assert_close(step_share(batch, torch.tensor([[[2.0]], [[2.5]]])), torch.tensor([[[0.5]], [[2.0]]]))
    torch.manual_seed(0)
    model = TTM(TINY)
    series = torch.randn(2, 1, 32)
    batch = {"series": series, "observed": torch.ones(2, 1, 32, dtype=torch.bool), "target": torch.randn(2, 1, 6), "target_observed": torch.ones(2, 1, 6, dtype=torch.bool)}
    rough = RelativeConfig(loss="pinball").build(model)(batch).loss
    batch["series"] = series.cumsum(2)
    batch["series"] = batch["series"] / batch["series"].std(2, keepdim=True)
    share = step_share(batch, torch.ones(2, 1, 1))
    assert (share < 0.8).all() and torch.isfinite(rough)
    with pytest.raises(ConfigError, match="least"):
        RelativeConfig(least=0)


def test_intervals_of_the_step_wise_quantile_head_differ_from_step_to_step():
    torch.manual_seed(0)
    config = TTMConfig(**{**vars(TINY), "mq_use_decoder_pool": True, "mq_cond_path": "steps"})
    said = TTM(config).forecast({"series": torch.randn(1, 1, 32), "observed": torch.ones(1, 1, 32, dtype=torch.bool)}, 4)
    widths = said.quantiles[0, -1, 0] - said.quantiles[0, 0, 0]
    assert widths.shape == (4,) and len(widths.unique()) == 4 and (widths > 0).all()
