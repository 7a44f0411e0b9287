"""TTM: official outputs, channels and covariates, parts, missing values, its layout."""

from pathlib import Path

import pytest
import torch

import zoo
from modalities.common import pretrained
from modalities.common.golden import Golden
from modalities.time_series import golden as goldens
from modalities.time_series.interop import ttm as interop
from modalities.time_series.models import ttm as module
from modalities.time_series.models.ttm import TTM
from modalities.time_series.models.ttm_config import TTMConfig
from modalities.time_series.objectives.forecasting import ForecastingConfig
from modalities.time_series.recipes.ttm import ttm_tiny
from tests.modalities.vision.references import randomise
from trainer.config import from_dict
from trainer.errors import CheckpointError, ConfigError, DataError, ModelError

FILES = sorted((Path(__file__).parents[2] / "golden" / "time_series").glob("ttm*.safetensors"))
SMALL = dict(context_length=32, prediction_length=6, patch_length=8, d_model=16, num_layers=1, adaptive_patching_levels=2, decoder_d_model=8, decoder_num_layers=1)
EXOGENOUS = dict(num_input_channels=4, prediction_channel_indices=(0, 2), exogenous_channel_indices=(1,), enable_forecast_channel_mixing=True, decoder_mode="mix_channel")
QUANTILES = dict(multi_quantile_head=True, multi_scale=True, register_tokens=1, fft_length=2, mq_use_decoder_pool=True)


def small(**changes):
    return randomise(TTM(TTMConfig(**{**SMALL, **changes}))).eval()


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_official_outputs(path):
    golden = Golden.read(path)
    computed = goldens.run(golden)
    assert computed.keys() == golden.expected.keys()
    for name, stored in golden.expected.items():
        assert computed[name].shape == stored.shape
        assert (computed[name] - stored).abs().max() < 5e-6 * max(1, stored.abs().max()), name


def test_all_files_are_there():
    assert [p.stem for p in FILES] == ["ttm", "ttm_exog", "ttm_masked", "ttm_mixing", "ttm_r3", "ttm_r3_one_token"]


@pytest.mark.parametrize("changes", [{}, {"resolution_prefix_tuning": True}, QUANTILES, {"scaling": "mean", "missing": "mean"}])
def test_channels_and_samples_do_not_know_each_other_and_go_in_parts(changes, monkeypatch):
    model, series = small(**changes), torch.randn(5, 3, 40) + 2
    batch = {"series": series, "frequency": torch.tensor([0, 1, 2, 3, 99])}
    whole = model.forecast(batch, 10)
    assert whole.point.shape == (5, 3, 10) and (whole.quantiles is None or whole.quantiles.shape == (5, 9, 3, 10))
    alone = model.forecast({"series": series[1:2, 2:], "frequency": batch["frequency"][1:2]}, 10)
    assert whole.point[1, 2].allclose(alone.point[0, 0], atol=1e-4)
    monkeypatch.setattr(module, "ROWS", 4)
    parts = model.forecast(batch, 10)
    assert parts.point.allclose(whole.point, atol=1e-4) and (whole.quantiles is None or parts.quantiles.allclose(whole.quantiles, atol=1e-4))


@pytest.mark.parametrize("rows", [(3, 2), (1, 1)])
@pytest.mark.parametrize("changes", [{"gate_mode": "softmax"}, {"gate_mode": "sigmoid"}, {"gate_mode": "glu"}, {"norm_mlp": "BatchNorm"}])
def test_without_gradients_the_same_is_computed_in_another_order(changes, rows):
    model = small(resolution_prefix_tuning=True, **changes)
    scaled = torch.randn(*rows, 32)
    arguments = (scaled, scaled, None, torch.arange(rows[0]), None)
    with torch.no_grad():
        found = model.states(*arguments)
    wanted = model.states(*arguments)
    assert found.encoded.allclose(wanted.encoded, atol=1e-5) and found.point.allclose(wanted.point, atol=1e-5) and wanted.point.requires_grad


@pytest.mark.parametrize("name", ["mlp.fc2", "gating_block.attn_layer", "norm.norm"])
@pytest.mark.parametrize("mixer", ["patch_mixer", "feature_mixer"])
def test_what_was_put_in_the_place_of_a_layer_is_asked(mixer, name):
    model, series = small(), torch.randn(1, 1, 32)
    layer = f"backbone.encoder.mlp_mixer_encoder.mixers.0.mixer_layers.0.{mixer}.{name}"
    before = model.forecast({"series": series}, 6).point
    place = model.get_submodule(layer)
    model.set_submodule(layer, torch.nn.Sequential(place))
    assert model.forecast({"series": series}, 6).point.allclose(before, atol=1e-5)
    handle = place.register_forward_hook(lambda _, __, said: said + 1.0 + torch.arange(said.shape[-1]))
    assert not model.forecast({"series": series}, 6).point.allclose(before, atol=1e-3)
    model.set_submodule(layer, place)
    assert not model.forecast({"series": series}, 6).point.allclose(before, atol=1e-3)
    handle.remove()
    assert model.forecast({"series": series}, 6).point.equal(before)


def test_units_and_rising_quantiles():
    model, series = small(**QUANTILES), torch.randn(2, 1, 32)
    plain, moved = model.forecast({"series": series}, 6), model.forecast({"series": 100 * series - 7}, 6)
    assert moved.quantiles.allclose(100 * plain.quantiles - 7, atol=0.05) and (plain.quantiles.diff(dim=1) > 0).all()
    assert plain.point.equal(plain.quantiles[:, 4])


def test_what_is_missing_is_the_mean_where_the_model_says_so():
    model, series = small(missing="mean", scaling="std"), torch.randn(1, 1, 32) + 1000
    observed = torch.rand(1, 1, 32) > 0.3
    said = model.forecast({"series": series, "observed": observed}, 6).point
    filled = torch.where(observed, series, series[observed].mean())
    scaled, loc, scale = model.scaled(series, observed)
    assert scaled[~observed].abs().max() == 0 and scaled.allclose((filled - loc) / scale, atol=2e-3)
    assert model.forecast({"series": series[..., 20:], "observed": observed[..., 20:]}, 6).point.isfinite().all() and said.isfinite().all()


@pytest.mark.parametrize("length", [1, 3, 8, 31, 32, 33])
def test_any_context(length):
    assert small(missing="mean").forecast({"series": torch.randn(1, 2, length)}, 13).point.isfinite().all()


def exogenous_batch(steps):
    return {"series": torch.randn(2, 2, 40), "past_covariates": torch.randn(2, 1, 40), "future_covariates": torch.randn(2, 1, 40 + steps)}


@pytest.mark.parametrize("masked", [False, True])
def test_covariates_find_their_channels(masked):
    model, batch = small(**EXOGENOUS, masked_context=masked), exogenous_batch(6)
    said = model.forecast(batch, 6).point
    past, observed, ahead = model._channels({**batch, "observed": torch.ones(2, 2, 40, dtype=torch.bool)})
    assert past[:, [0, 2]].equal(batch["series"]) and past[:, 1].equal(batch["future_covariates"][:, 0, :40]) and past[:, 3].equal(batch["past_covariates"][:, 0])
    assert ahead.equal(batch["future_covariates"][..., 40:])
    other = {**batch, "future_covariates": batch["future_covariates"] + torch.cat([torch.zeros(40), torch.ones(6)])}
    assert said.shape == (2, 2, 6) and not model.forecast(other, 6).point.allclose(said, atol=1e-3)
    assert model.forecast({**batch, "future_covariates": batch["future_covariates"][..., :43]}, 3).point.shape == (2, 2, 3)
    assert model.forecast(exogenous_batch(15), 15).point.isfinite().all()
    assert model.tokens({**batch, "observed": observed[:, :2]}).shape[2] == 16


@pytest.mark.parametrize(
    ("changes", "batch", "message"),
    [
        ({}, {"series": torch.ones(1, 1, 40), "future_covariates": torch.ones(1, 1, 60)}, "reads 0 future_covariates, found 1"),
        (EXOGENOUS, {"series": torch.ones(1, 2, 40), "future_covariates": torch.ones(1, 1, 46)}, "reads 1 past_covariates, found 0"),
        (EXOGENOUS, {**exogenous_batch(6), "series": torch.ones(2, 3, 40)}, "forecasts 2 channels together, found 3"),
        ({}, {"series": torch.ones(1, 1, 40), "static": torch.ones(1, 2)}, r"reads 0 static categories for each series, found \(1, 2\)"),
        ({"decoder_mode": "mix_channel", "categorical_vocab_size_list": (3,)}, {"series": torch.ones(1, 1, 40), "static": torch.tensor([[3.0]])}, "is 3, expected a whole number from 0 to 2"),
    ],
)
def test_what_does_not_fit_the_model(changes, batch, message):
    with pytest.raises(DataError, match=message):
        small(**changes).forecast(batch, 6)


def test_ten_thousand_channels():
    assert small().forecast({"series": torch.randn(1, 10_000, 32)}, 6).point.shape == (1, 10_000, 6)


def test_the_loss_is_that_of_the_forecast():
    model, batch = small(**QUANTILES), {"series": torch.randn(3, 2, 32) * 5 + 1, "observed": torch.rand(3, 2, 32) > 0.1, "target": torch.randn(3, 2, 4), "target_observed": torch.rand(3, 2, 4) > 0.2}
    batch["series"] *= batch["observed"]
    said = model.forecast({key: batch[key] for key in ("series", "observed")}, 4)
    by_hand = (said.point - batch["target"]).abs()[batch["target_observed"]].mean()
    assert ForecastingConfig(loss="mae", units="user").build(model)(batch).loss.allclose(by_hand, atol=1e-4)
    wide = ForecastingConfig(loss="pinball", width_weight=1.0, widths="all", units="user").build(model)(batch).loss - ForecastingConfig(loss="pinball", units="user").build(model)(batch).loss
    widths = (said.quantiles - said.quantiles.flip(1))[:, 5:].mean(1)
    assert wide.allclose(widths[batch["target_observed"]].mean(), rtol=1e-3)
    with pytest.raises(ConfigError, match="has none"):
        ForecastingConfig(loss="pinball", point_weight=0.5).build(small())


@pytest.mark.parametrize("changes", [{}, EXOGENOUS, {**EXOGENOUS, "masked_context": True, "prediction_filter_length": 4}, {**QUANTILES, "quantile_levels": (0.1, 0.5, 0.9)}, {"scaling": "none", "norm_mlp": "BatchNorm", "minimum_scale": 0.1}])
def test_the_official_layout_there_and_back(changes):
    model = small(**changes)
    state, config = interop.to_official(model), interop.to_official_config(model)
    back = pretrained.from_tensors(state, config, "here", "official")
    assert back.config == model.config and all(back.state_dict()[name].equal(tensor) for name, tensor in state.items()) and back.licence == "apache-2.0"


def test_without_a_config_the_shapes_tell_the_size():
    model = small(resolution_prefix_tuning=True, register_tokens=2, decoder_adaptive_patching_levels=0)
    described = interop.describe(model.state_dict(), None, "official", "here")
    assert from_dict(TTMConfig, described.fields) == model.config
    for changes in (dict(missing="mean"), dict(fcm_scaled=True), dict(multi_quantile_head=True, mq_use_decoder_pool=True, mq_cond_path="steps")):
        with pytest.raises(ModelError, match="cannot be written in that layout"):
            interop.to_official(small(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_modell": 3}, "Did you mean 'd_model'"),
        ({"patch_stride": 4}, "patch_stride must be patch_length"),
        ({"use_register_context_gating": True}, "is not read here"),
        ({"architectures": ["TinyTimeMixerForRegression"]}, "holds a 'TinyTimeMixerForRegression'"),
        ({"context_length": 4}, "must be longer than a patch"),
    ],
)
def test_a_config_that_cannot_be_read(changes, message):
    model = small()
    with pytest.raises((CheckpointError, ConfigError), match=message):
        pretrained.from_tensors(model.state_dict(), {**interop.to_official_config(model), **changes}, "here")


@pytest.mark.parametrize(
    "changes",
    [
        dict(context_length=8), dict(prediction_filter_length=7), dict(prediction_channel_indices=(1,)), dict(exogenous_channel_indices=(0,)), dict(dropout=1.0), dict(d_model=22, adaptive_patching_levels=3),
        dict(decoder_raw_residual=True, register_tokens=1), dict(fft_length=18), dict(quantile_levels=(0.1, 0.9)), dict(multi_quantile_head=True, mq_kernel_size=2), dict(multi_scale=True, masked_context=True),
        dict(categorical_vocab_size_list=(2,)), dict(enable_forecast_channel_mixing=True, fcm_context_length=0, fcm_gated_attn=False), dict(num_layers=-1), dict(self_attn=True, self_attn_heads=3),
    ],
)  # fmt: skip
def test_contradictory_configs(changes):
    with pytest.raises(ConfigError):
        TTMConfig(**{**SMALL, **changes})


def test_the_tiny_recipe_learns(tmp_path):
    """A few steps lower the loss on held-out windows; the model comes back from its folder and forecasts."""
    recipe = ttm_tiny()
    source, objective = recipe.build()
    batch, optimizer = source.fetch(range(64)), torch.optim.AdamW(objective.parameters(), 2e-3)
    losses = []
    for _ in range(6):
        loss = objective(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    objective.export().save_pretrained(tmp_path / "model")
    model = zoo.from_pretrained(tmp_path / "model")
    assert model.forecast(model.preprocess([float(i % 7) for i in range(50)]), 100).quantiles.shape == (1, 9, 1, 100)
