"""GPD, experimental: guided sampling keeps the history, forecasts have the units of the series, the loss is that of the noise."""

import pytest
import torch

from modalities.common.diffusion import STEPS
from modalities.time_series.models.gpd import GPD, GPDConfig, linear_signal
from modalities.time_series.objectives.denoising import DenoisingConfig
from tests.modalities.video.references import randomise
from trainer.errors import ConfigError, DataError

SMALL = dict(window=20, horizon=6, width=16, depth=3, samples=4, steps=5)


def small(**changes):
    torch.manual_seed(0)
    return GPD(GPDConfig(**{**SMALL, **changes})).eval()


def batch(length=14, horizon=None):
    series = torch.randn(2, 3, length + (horizon or 0), generator=torch.Generator().manual_seed(1)).cumsum(2)
    found = {"series": series[..., :length], "observed": torch.ones(2, 3, length, dtype=torch.bool)}
    if horizon:
        found |= {"target": series[..., length:], "target_observed": torch.ones(2, 3, horizon, dtype=torch.bool), "sample_key": torch.arange(2)}
    return found


def test_the_linear_schedule():
    signal = linear_signal()
    assert signal[0].item() == pytest.approx(1 - 1e-4) and signal[-1].item() == pytest.approx(4.04e-5, rel=0.01) and len(signal) == STEPS


class Perfect(GPD):
    """Knows that every window is a line through zero whose slope is 0.1, and so what the noise is."""

    def noise(self, window, time):
        line = 0.1 * torch.arange(20.0) - 0.65
        noising = self.noising
        return (window - noising.keep[time, None] * line) / noising.noise[time, None]


@pytest.mark.parametrize("guidance", ["replacement", "gradient"])
def test_a_perfect_network_continues_the_line(guidance):
    model = Perfect(GPDConfig(**{**SMALL, "steps": 30, "guidance": guidance, "pull": 0.1})).eval()
    known = (0.1 * torch.arange(20.0) - 0.65).expand(3, -1)
    seen = (torch.arange(20) < 14).expand(3, -1)
    drawn = model.draw(known * seen, seen)
    assert drawn[:, :14].equal(known[:, :14]) and (drawn - known).abs().max() < 0.3


@pytest.mark.parametrize("guidance", ["replacement", "gradient"])
def test_forecasts_in_the_units_of_the_series(guidance):
    model, x = randomise(small(guidance=guidance)), batch()
    said = model.forecast(x, 9)
    assert said.point.shape == (2, 3, 9) and said.quantiles.shape == (2, 9, 3, 9) and (said.quantiles.diff(dim=1) >= 0).all()
    assert said.point.equal(model.forecast(x, 9).point)
    moved = model.forecast({**x, "series": 1000 * x["series"] + 5}, 6).point
    assert torch.allclose(moved, 1000 * said.point[..., :6] + 5, rtol=1e-2, atol=5)
    x["observed"][..., 3:6] = False
    said = model.forecast(x, 2).point
    x["series"] = torch.where(x["observed"], x["series"], 99.0)
    assert model.forecast(x, 2).point.equal(said) and model.forecast(batch(3), 2).point.isfinite().all()
    assert model.tokens(x).shape == (2, 3, 16) and model.embed(x).shape == (2, 16)


def test_the_loss_is_that_of_the_noise():
    """A fresh network says nothing: the loss is the variance of the noise."""
    model = small(width=64)
    objective = DenoisingConfig().build(model)
    losses = objective(batch(14, 6))
    assert losses.loss.item() == pytest.approx(1.0, abs=0.3) and losses.count == 2 * 3 * 20
    windows, seen = objective.windows(batch(14, 6))
    assert windows.shape == (6, 20) and seen.all() and windows[:, :14].mean(1).abs().max() < 1e-5
    losses.loss.backward()
    assert model.outlet.weight.grad.any()
    with pytest.raises(DataError, match="future of 6 points, found a target of 5"):
        objective(batch(14, 5))
    with pytest.raises(ConfigError, match="horizon below its window"):
        GPDConfig(window=4, horizon=4)
