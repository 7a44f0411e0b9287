"""FlowState: the scan, speeds, horizons and the official bug with them, missing values, its layout."""

import pytest
import torch

from modalities.common import pretrained
from modalities.time_series.frequency import TOKENS
from modalities.time_series.interop import flowstate as interop
from modalities.time_series.models.flowstate import FlowState, FlowStateConfig, basis, joined, patch_steps
from modalities.time_series.models.s5 import S5, scan
from modalities.time_series.objectives.forecasting import ForecastingConfig
from trainer.errors import ConfigError, DataError

SMALL = dict(context_length=64, embed_dim=12, depth=2, state_dim=8, hippo_blocks=2, patch_length=8, basis_dim=7, quantiles=(0.1, 0.5, 0.9))


def small(**changes):
    torch.manual_seed(0)
    return FlowState(FlowStateConfig(**{**SMALL, **changes})).eval()


@pytest.mark.parametrize("length", [1, 31, 32, 33, 1100])
def test_the_scan_against_the_recurrence(length):
    rate, inputs = torch.complex(-torch.rand(3) / 10, torch.randn(3)), torch.randn(3, 2, length, dtype=torch.complex64)
    state, expected = torch.zeros(3, 2, dtype=torch.complex64), []
    for k in range(length):
        state = rate.exp()[:, None] * state + inputs[..., k]
        expected.append(state)
    assert scan(inputs, rate).allclose(torch.stack(expected, dim=-1), atol=1e-3)


def test_the_last_state_alone_and_among_all():
    torch.manual_seed(0)
    layer, u = S5(6, 8, 2, gated=True), torch.randn(2, 70, 6)
    assert layer(u, 0.5)[:, -1:].allclose(layer(u, 0.5, 69), atol=1e-5)


@pytest.mark.parametrize(("length", "horizon"), [(1, 1), (20, 8), (20, 15), (70, 40), (30, 90)])
@pytest.mark.parametrize("changes", [{}, {"mlp": "transformer", "out_gating": True, "basis": "four", "point": "median"}, {"with_missing": False, "basis": "hlegs"}])
def test_any_context_and_any_horizon(length, horizon, changes):
    model, series = small(**changes), torch.randn(2, 3, length)
    said = model.forecast({"series": series}, horizon)
    assert said.point.shape == (2, 3, horizon) and said.quantiles.shape == (2, 3, 3, horizon)
    assert said.quantiles.isfinite().all() and (said.quantiles.diff(dim=1) >= 0).all()
    if length > 1:
        assert model.forecast({"series": 5 * series - 2}, horizon).point.allclose(5 * said.point - 2, atol=0.05)


def test_the_official_horizon_bug_is_there_on_demand():
    model, series, seen = small(), torch.randn(1, 30), torch.ones(1, 30, dtype=torch.bool)
    assert [model.quantiles(series, seen, h, 1.0, official=True).shape[-1] for h in (7, 8, 14, 15, 16, 23)] == [7, 8, 14, 8, 16, 16]
    assert model.quantiles(series, seen, 23, 1.0).shape[-1] == 23
    raw = torch.arange(6.0)[None, :, None, None] + torch.arange(1.0, 5.0)  # position p says p + 1 ... p + 4
    assert joined(raw)[0, 0].tolist() == list(range(1, 10))


def test_each_sample_has_the_speed_of_its_interval():
    model, series = small(), torch.randn(3, 1, 40)
    tokens = torch.tensor([TOKENS["h"], TOKENS["30min"], TOKENS["oov"]])
    together = model.forecast({"series": series, "frequency": tokens}, 20).point
    for i in range(3):
        assert together[i].allclose(model.forecast({"series": series[i : i + 1], "frequency": tokens[i : i + 1]}, 20).point[0], atol=1e-4)
    assert together[0].equal(model.forecast({"series": series}, 20).point[0]) and not together[1].allclose(model.forecast({"series": series}, 20).point[1], atol=1e-3)
    assert model.speeds({"series": series, "frequency": torch.tensor([TOKENS["D"], TOKENS["ME"], 0])}) == [24 / 365, 2.0, 1.0]
    assert [patch_steps(24, s) for s in (1, 0.25, 1 / 6, 2, 24)] == [24, 96, 144, 12, 1]


def test_missing_values():
    model, series = small(), torch.randn(2, 1, 30)
    observed = torch.rand(2, 1, 30) > 0.4
    observed[1] = False
    said = model.forecast({"series": series.masked_fill(~observed, 1e6), "observed": observed}, 20)
    assert said.point[0].equal(model.forecast({"series": series.masked_fill(~observed, torch.nan)}, 20).point[0]) and said.point[1].isnan().all()
    with pytest.raises(DataError, match="has some. Fill them first"):
        small(with_missing=False).forecast({"series": series, "observed": observed}, 4)


def test_a_past_does_not_see_its_future():
    model, series, seen = small(), torch.randn(1, 40), torch.ones(1, 40, dtype=torch.bool)
    changed = torch.cat([series[:, :25], torch.randn(1, 15)], dim=1)
    first, second = (model.encode(model.normalised(x, seen).values, seen, 1.0, 0)[-1][:, :25] for x in (series, changed))
    assert first.allclose(second, atol=1e-5)


def test_features_and_learning():
    model, batch = small(), {"series": torch.randn(2, 3, 10), "observed": torch.ones(2, 3, 10, dtype=torch.bool)}
    assert model.tokens(batch).shape == (2, 30, 12) and model.embed(batch).shape == (2, 12)
    batch |= {"target": torch.randn(2, 3, 20), "target_observed": torch.ones(2, 3, 20, dtype=torch.bool)}
    ForecastingConfig(loss="pinball").build(model)(batch).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_basis_functions():
    legendre = basis(FlowStateConfig(**SMALL), 8, 1.0, torch.device("cpu")) * 4
    t = -1 + torch.arange(1, 9) * 1.95 / 8
    assert legendre[:, 2].allclose((3 * t**2 - 1) / 2, atol=1e-5) and legendre[:, 3].allclose((5 * t**3 - 3 * t) / 2, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"mlp": "transformer", "out_gating": True, "basis": "four"}, {"with_missing": False, "point": "median", "speed": 0.5}])
def test_the_official_layout_there_and_back(changes):
    model = small(**changes)
    back = pretrained.from_tensors(interop.to_official(model), interop.to_official_config(model), "here")
    assert back.config == model.config and back.load_report.layout == "official"
    assert all(tensor.equal(back.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert pretrained.from_tensors(interop.to_official(model), {"quantiles": list(model.levels)}, "here").config.basis_dim == 7


@pytest.mark.parametrize("fields", [dict(state_dim=9), dict(basis="four", basis_dim=6), dict(speed=0.0), dict(speed=30.0), dict(depth=0), dict(point="median", quantiles=(0.1, 0.9))])
def test_bad_fields(fields):
    with pytest.raises(ConfigError):
        FlowStateConfig(**{**SMALL, "hippo_blocks": 2, **fields})
