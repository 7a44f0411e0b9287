"""The long-horizon protocol: blocks, scaling, all windows of the test."""

import numpy as np
import pytest
import torch

from modalities.time_series.long_horizon import borders, evaluate_long, kind_of, standardised, windows_of_test
from modalities.time_series.models.forecaster import Forecast
from modalities.time_series.models.ttm import TTM, TTMConfig
from modalities.time_series.series import Item
from trainer.errors import DataError


def test_blocks_are_those_of_the_official_benchmarks():
    assert borders(17420, "ett_hourly") == (8640, 11520, 14400) and borders(69680, "ett_minutes") == (34560, 46080, 57600)
    assert borders(52696, "shares") == (36887, 42157, 52696)  # Weather
    assert [kind_of(f"/data/{name}.csv") for name in ("ETTh2", "ETTm1", "weather")] == ["ett_hourly", "ett_minutes", "shares"]
    with pytest.raises(DataError, match="14,400 steps"):
        borders(100, "ett_hourly")


def test_every_window_whose_future_is_in_the_test_block_counts_and_scaling_sees_training_only():
    values = np.stack([np.arange(100.0), np.arange(100.0) ** 2, np.full(100, 3.0)])
    scaled = standardised(values, 70)
    np.testing.assert_allclose(scaled[:2, :70].mean(1), 0, atol=1e-12)
    np.testing.assert_allclose(scaled[:2, :70].std(1), 1)
    assert (scaled[2] == 0).all()
    parts = list(windows_of_test(scaled, borders(100, "shares"), context=16, horizon=5, rows=9))
    past, future = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    assert len(past) == 20 - 5 + 1 and all(len(part[0]) == 3 for part in parts[:-1])  # none is dropped at the end
    np.testing.assert_array_equal(future[0], scaled[:, 80:85])
    np.testing.assert_array_equal(future[-1], scaled[:, 95:])
    np.testing.assert_array_equal(past[0], scaled[:, 64:80])
    assert np.shares_memory(parts[0][0], scaled)  # windows are views
    with pytest.raises(DataError, match="no window"):
        list(windows_of_test(scaled, borders(100, "shares"), context=16, horizon=21))


def test_scores_of_a_perfect_and_of_a_naive_forecast(monkeypatch):
    model = TTM(TTMConfig(context_length=24, prediction_length=6, patch_length=8, d_model=16, num_layers=1, adaptive_patching_levels=0, decoder_d_model=8, decoder_num_layers=1))
    ramp = np.arange(200.0)[None]
    step = 1 / ramp[0, :140].std()
    monkeypatch.setattr(TTM, "forecast", lambda self, batch, horizon: Forecast(batch["series"][..., -1:] + step * torch.arange(1, horizon + 1)))
    scores = evaluate_long(model, Item("ramp", ramp), 4, "shares")
    assert scores.mse < 1e-10 and scores.windows == 37
    assert scores.naive_mae == pytest.approx(2.5 * step) and scores.naive_mse == pytest.approx(7.5 * step**2)
