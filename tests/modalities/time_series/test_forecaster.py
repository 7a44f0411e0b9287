"""The contract of the forecasting models: checks, roll-out, covariates, missing values."""

from dataclasses import dataclass

import pytest
import torch

from modalities.time_series.models.forecaster import LONGEST, Forecast, Forecaster, LossTerms
from modalities.time_series.objectives.forecasting import ForecastingConfig, huber, pinball
from trainer.errors import ConfigError, DataError


@dataclass(frozen=True)
class LastConfig:
    """Config of `Last`."""


class Last(Forecaster):
    """Forecasts the last value, plus one for each step; 3 steps at once, from 5 points; remembers what it was given."""

    system = "time_series/last"
    config_class = LastConfig
    context_length, direct_horizon, levels = 5, 3, (0.1, 0.5, 0.9)

    def __init__(self):
        super().__init__(LastConfig())
        self.seen = []

    def direct(self, batch, horizon):
        self.seen.append(batch)
        point = batch["series"][:, :, -1:] + torch.arange(1, horizon + 1)
        return Forecast(point, torch.stack([point - 1, point, point + 1], 1), self.levels)

    def loss_terms(self, batch):
        said = self.direct(batch, batch["target"].shape[2])
        return LossTerms(said.point, batch["target"], batch["target_observed"], said.quantiles, self.levels, scale=2.0)


def test_roll_out_goes_on_from_the_forecast_and_never_sees_more_than_the_context():
    model, series = Last(), torch.arange(14.0).view(1, 2, 7)
    said = model.forecast({"series": series}, 8)
    assert said.point.shape == (1, 2, 8) and said.quantiles.shape == (1, 3, 2, 8)
    assert said.point[0, 0].tolist() == list(range(7, 15)) and said.point[0, 1].tolist() == list(range(14, 22))
    assert [b["series"].shape[2] for b in model.seen] == [5, 5, 5] and model.seen[1]["series"][0, 0].tolist() == [5, 6, 7, 8, 9]
    assert said.quantile(0.3).allclose(said.point - 0.5) and said.quantile(0.5).equal(said.point)
    with pytest.raises(ConfigError, match="level 0.95. Known: 0.1 to 0.9"):
        said.quantile(0.95)


def test_a_short_context_and_a_short_horizon():
    model = Last()
    assert model.forecast({"series": torch.ones(1, 1, 1)}, 1).point.tolist() == [[[2.0]]]


def test_missing_values_are_zero_for_the_model_and_a_blank_channel_is_nan():
    model, series = Last(), torch.tensor([[[1.0, torch.nan, 3.0], [torch.nan] * 3]])
    said = model.forecast({"series": series}, 2)
    assert model.seen[0]["series"][0].tolist() == [[1, 0, 3], [0, 0, 0]] and model.seen[0]["observed"].dtype == torch.bool
    assert said.point[0, 0].tolist() == [4, 5] and said.point[0, 1].isnan().all() and said.quantiles[0, :, 1].isnan().all()
    hidden = model.forecast({"series": torch.tensor([[[1.0, 99.0]]]), "observed": torch.tensor([[[True, False]]])}, 1)
    assert hidden.point.item() == 1.0  # what is not observed does not count


def test_covariates_advance_with_the_roll_out():
    model = Last()
    batch = {"series": torch.zeros(1, 1, 6), "past_covariates": torch.arange(6.0).view(1, 1, 6), "future_covariates": torch.arange(10.0).view(1, 1, 10)}
    model.forecast(batch, 4)
    first, second = model.seen
    assert first["past_covariates"].flatten().tolist() == [1, 2, 3, 4, 5] and first["future_covariates"].flatten().tolist() == list(range(1, 9))
    assert second["past_covariates"].flatten().tolist() == [4, 5, 5, 5, 5] and second["future_covariates"].flatten().tolist() == list(range(4, 10))


@pytest.mark.parametrize("horizon", [0, -1, LONGEST + 1, 1_000_000, 2.0, True, None])
def test_a_horizon_that_is_none(horizon):
    with pytest.raises(ConfigError, match="whole number of steps from 1 to 100,000"):
        Last().forecast({"series": torch.ones(1, 1, 4)}, horizon)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({}, "found None"),
        ({"series": torch.ones(4)}, r"shape \(4,\)"),
        ({"series": torch.ones(1, 1, 0)}, "at least one point"),
        ({"series": torch.ones(1, 1, 4, dtype=torch.int64)}, "torch.int64"),
        ({"series": torch.tensor([[[1.0, torch.inf]]])}, "channel 0, point 1 of `series` is inf"),
        ({"series": torch.tensor([[[torch.nan, 1.0]]]), "observed": torch.ones(1, 1, 2, dtype=torch.bool)}, "point 0 of `series` is nan"),
        ({"series": torch.ones(1, 1, 4), "observed": torch.ones(1, 1, 3, dtype=torch.bool)}, "shape of `series`"),
        ({"series": torch.ones(1, 1, 4), "future_covariates": torch.ones(1, 1, 8)}, "end 1 steps before the end of the horizon of 5"),
        ({"series": torch.ones(1, 1, 4), "past_covariates": torch.ones(1, 1, 3)}, "3 points, expected 4"),
        ({"series": torch.ones(1, 1, 4), "past_covariates": torch.full((1, 1, 4), torch.nan)}, "NaN or infinity"),
        ({"series": torch.ones(2, 1, 4), "past_covariates": torch.ones(1, 1, 4)}, r"must have the shape \(2, covariates, 4\)"),
    ],
)
def test_a_batch_that_breaks_the_contract(batch, message):
    with pytest.raises(DataError, match=message):
        Last().forecast(batch, 5)


def training_batch():
    observed = torch.tensor([[[True, True, False]]])
    return {"series": torch.zeros(1, 1, 4), "target": torch.tensor([[[2.0, 1.0, torch.nan]]]), "target_observed": observed}  # forecast: 1, 2, 3


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (dict(loss="mse"), 1.0),
        (dict(loss="mse", units="user"), 4.0),
        (dict(loss="mae", units="user"), 2.0),
        (dict(loss="huber", huber_delta=0.5), 0.375),
        (dict(loss="huber", huber_delta=1.0, units="user"), 1.5),  # errors of 2, delta of 1: 1 * (2 - 0.5)
        (dict(loss="mae", clip=1.5), 0.75),
        (dict(loss="pinball"), ((0.2 + 0.5 + 0.0) / 3 + (0.0 + 0.5 + 0.2) / 3) / 2),
        (dict(loss="pinball", point_weight=0.5), ((0.2 + 0.5 + 0.0) / 3 + (0.0 + 0.5 + 0.2) / 3) / 2 + 0.5),
    ],
)
def test_losses_by_hand(config, expected):
    losses = ForecastingConfig(**config).build(Last())(training_batch())
    assert losses.loss.item() == pytest.approx(expected) and int(losses.count) == 2


def test_a_batch_without_any_target_has_the_loss_zero():
    batch = training_batch() | {"target_observed": torch.zeros(1, 1, 3, dtype=torch.bool)}
    assert ForecastingConfig().build(Last())(batch).loss.item() == 0


def test_huber_and_pinball_against_torch():
    error = torch.linspace(-3, 3, 13)
    assert huber(error, 0.7).allclose(torch.nn.functional.huber_loss(error, torch.zeros(13), reduction="none", delta=0.7))
    quantiles, target = torch.zeros(1, 2, 1, 2), torch.tensor([[[1.0, -1.0]]])
    assert pinball(quantiles, target, (0.25, 0.5))[0, :, 0].tolist() == [[0.25, 0.75], [0.5, 0.5]]


@pytest.mark.parametrize("config", [dict(huber_delta=0), dict(point_weight=1.0), dict(point_weight=-1.0, loss="pinball"), dict(clip=0.0)])
def test_settings_that_contradict(config):
    with pytest.raises(ConfigError):
        ForecastingConfig(**config)
