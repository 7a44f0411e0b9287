"""Anomalies and gaps, judged and filled by a forecaster."""

from dataclasses import dataclass

import pytest
import torch

from modalities.time_series.models.forecaster import Forecast, Forecaster
from modalities.time_series.repairing import LEAST, anomaly_scores, imputed
from trainer.errors import ConfigError


@dataclass(frozen=True)
class LineConfig:
    """Config of `Line`."""


class Line(Forecaster):
    """Goes on with the mean slope of the last observed points; the interval is 1 to each side."""

    system = "time_series/line"
    config_class = LineConfig
    context_length, direct_horizon, levels = 64, 8, (0.1, 0.5, 0.9)

    def __init__(self, levels=(0.1, 0.5, 0.9)):
        super().__init__(LineConfig())
        self.levels = levels

    @property
    def device(self):
        return torch.device("cpu")

    def direct(self, batch, horizon):
        rows = [[channel[seen] for channel, seen in zip(*pair)] for pair in zip(batch["series"], batch["observed"])]
        ahead = torch.arange(1, horizon + 1)
        point = torch.stack([torch.stack([r[-1] + (r[-1] - r[0]) / (len(r) - 1) * ahead for r in one]) for one in rows])
        return Forecast(point, torch.stack([point - 1, point, point + 1], 1), self.levels)


def test_what_does_not_follow_is_unusual():
    series = torch.arange(60.0).repeat(1, 2, 1)
    series[0, 1, 40] += 5
    scores = anomaly_scores(Line(), {"series": series}, step=1)
    assert scores[..., :LEAST].isnan().all() and scores[0, 0, LEAST:].max() < 1e-4
    assert scores[0, 1, 40].item() == pytest.approx(5, abs=1e-3)
    assert anomaly_scores(Line(), {"series": series})[0, 1, 40].item() == pytest.approx(5, abs=1e-3)
    series[0, 0, 30] = torch.nan
    assert anomaly_scores(Line(), {"series": series})[0, 0].isnan().sum() == LEAST + 1


def test_gaps_are_filled_from_both_sides():
    series = torch.arange(80.0).view(1, 1, 80).repeat(1, 3, 1)
    series[0, 0, 30:42] = torch.nan
    series[0, 1, :3], series[0, 1, 77:] = torch.nan, torch.nan
    series[0, 2] = torch.nan
    filled = imputed(Line(), {"series": series, "frequency": torch.tensor([7])})
    assert filled[0, :2].allclose(torch.arange(80.0).repeat(2, 1), atol=1e-3) and filled[0, 2].isnan().all()
    assert imputed(Line(), {"series": torch.tensor([[[torch.nan, 1.0, torch.nan, 3.0]]])}).tolist() == [[[1, 1, 1, 3]]]


def test_what_cannot_be_judged():
    with pytest.raises(ConfigError, match="forecasts none"):
        anomaly_scores(Line(levels=()), {"series": torch.ones(1, 1, 40)})
    with pytest.raises(ConfigError, match="step must be 1 to 8"):
        anomaly_scores(Line(), {"series": torch.ones(1, 1, 40)}, step=9)
