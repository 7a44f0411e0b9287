"""GPHT: the official outputs, what is predicted from what, gaps, the roll-out, and its layout."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import zoo
from modalities.common.golden import Golden
from modalities.common.interop import converted
from modalities.time_series import golden as time_series
from modalities.time_series.interop import gpht as interop
from modalities.time_series.models.gpht import GPHT, GPHTConfig
from modalities.time_series.objectives.forecasting import ForecastingConfig
from tests.modalities.vision.references import randomise
from trainer.errors import CheckpointError, ConfigError, DataError
from trainer.weights import write_safetensors

FILE = Path(__file__).parents[2] / "golden" / "time_series" / "gpht.safetensors"
SMALL = dict(context_length=24, token_length=6, pooling=(3, 2, 1), embed_dim=16, hidden_dim=20, num_heads=2, stage_layers=2, dropout=0.0)


def small(**changes):
    return randomise(GPHT(GPHTConfig(**{**SMALL, **changes})))


def batch(channels=2, length=24, horizon=None):
    generator = torch.Generator().manual_seed(3)
    series = torch.randn(2, channels, length + (horizon or 0), generator=generator).cumsum(2)
    found = {"series": series[..., :length], "observed": torch.ones(2, channels, length, dtype=torch.bool)}
    if horizon:
        found |= {"target": series[..., length:], "target_observed": torch.ones(2, channels, horizon, dtype=torch.bool)}
    return found


def test_official_outputs():
    golden = Golden.read(FILE)
    computed = time_series.run(golden)
    assert computed.keys() == golden.expected.keys()
    for name, stored in golden.expected.items():
        assert computed[name].shape == stored.shape and (computed[name] - stored).abs().max() < 5e-6 * max(1, stored.abs().max()), name


@pytest.mark.parametrize("changes", [{}, {"pooling": (6, 1), "activation": "relu", "token_length": 12}, {"pooling": (2,), "stage_layers": 1, "num_heads": 4}])
def test_other_golden_files(changes, tmp_path):
    """A file in other sizes must be read by its config and shapes alone."""
    model, x = small(**changes), batch()
    config = {k: v for k, v in interop.to_official_config(model).items() if k not in ("seq_len", "depth", "GT_pooling_rate")}
    with torch.no_grad():
        outputs = model.stages(x["series"], x["observed"]).prediction
    horizon = 2 * model.config.token_length + 1
    tensors = {f"state.{k}": v for k, v in interop.to_official(model).items()} | {
        "input.x": x["series"].transpose(1, 2), "input.ar_pred_len": torch.tensor(float(horizon)), "output.output": outputs.transpose(1, 2),
        "output.ar_forecast": model.forecast(x, horizon).point.transpose(1, 2).clone(),
    }  # fmt: skip
    write_safetensors({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "x.safetensors", {"model": "time_series/gpht", "layout": "official", "config": json.dumps(config)})
    golden = Golden.read(tmp_path / "x.safetensors")
    computed = time_series.run(golden)
    assert computed.keys() == golden.expected.keys() and all(torch.allclose(computed[k], v, atol=1e-5) for k, v in golden.expected.items())


def test_a_token_is_predicted_from_earlier_ones():
    """On the scale of a window that does not change: the points after a token do not change what is said after it, its own do."""
    model, x = small(), batch(1)
    said = model.stages(x["series"], x["observed"]).normed
    later = x["series"].clone()
    later[..., 18:] = later[..., 18:].flip(2)  # the same statistics
    changed = model.stages(later, x["observed"]).normed
    assert changed[..., :18].allclose(said[..., :18], atol=1e-5) and not changed[..., 18:].allclose(said[..., 18:], atol=1e-3)


def test_missing_points_do_not_count():
    model, x = small(), batch(1)
    x["observed"][..., 5:9] = False
    said = model.forecast(x, 6).point
    x["series"] = torch.where(x["observed"], x["series"], 99.0)
    assert model.forecast(x, 6).point.equal(said) and said.isfinite().all()


def test_forecasts_of_any_context_and_horizon_in_the_units_of_the_series():
    model = small()
    for length, horizon in ((1, 3), (23, 6), (40, 17)):
        x = batch(3, length)
        said = model.forecast(x, horizon).point
        moved = model.forecast({**x, "series": 1000 * x["series"] + 5}, horizon).point
        assert said.shape == (2, 3, horizon)
        if length > 1:  # a single point has no deviation
            assert torch.allclose(moved, 1000 * said + 5, rtol=1e-3, atol=1)
    assert model.tokens(x).shape == (2, 3 * 4, 16) and model.embed(x).shape == (2, 16)


def test_the_loss_is_that_of_the_next_tokens():
    model, x = small(), batch(2, 24, 6)
    loss = ForecastingConfig("mse", units="user").build(model)(x).loss
    target = torch.cat([x["series"][..., 6:], x["target"]], 2)
    assert torch.allclose(loss, F.mse_loss(model.stages(x["series"], x["observed"]).prediction, target))
    with pytest.raises(DataError, match="whole tokens of 6 points, 24 at most.*found 24 points and a target of 5"):
        model.loss_terms(batch(2, 24, 5))


def test_the_tables_of_a_checkpoint_are_left_out(tmp_path):
    model = small()
    state = dict(model.state_dict()) | {f"encoders.{n}.patch_embedding.position_embedding.pe": torch.zeros(1, 5000, 16) for n in range(3)}
    write_safetensors(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(interop.to_official_config(model)))
    found = zoo.from_pretrained(tmp_path)
    assert found.config == model.config and len(found.load_report.of("unused")) == 3 and found.embed(batch()).equal(model.embed(batch()))


def test_what_no_shape_tells_is_asked_for():
    state = interop.to_official(small())
    with pytest.raises(CheckpointError, match="Put num_heads into its config.json"):
        interop.describe(state, {}, "official", "here")
    with pytest.raises(CheckpointError, match="Did you mean 'GT_d_ff'"):
        interop.describe(state, {"GT_dff": 4}, "official", "here")
    with pytest.raises(CheckpointError, match="other shape"):
        converted(state, interop.describe(state, {"n_heads": 2, "GT_d_ff": 4}, "official", "here"), "here")


@pytest.mark.parametrize("changes", [{"context_length": 25}, {"pooling": ()}, {"pooling": (4,)}, {"num_heads": 3}, {"dropout": 1.0}, {"stage_layers": 0}])
def test_wrong_configs_are_named(changes):
    with pytest.raises(ConfigError, match=f"{next(iter(changes))}|rate|embed_dim"):
        GPHTConfig(**{**SMALL, **changes})
