"""TimesFM, PatchTST and PatchTSMixer of transformers: folders of that library give the forecasts of that library, in the contract of the zoo."""

import pytest
import torch
import transformers
from safetensors.torch import load_file

import zoo
from modalities.time_series.interop.from_transformers import to_transformers
from modalities.time_series.models.from_transformers import PatchConfig, TimesFMConfig
from modalities.time_series.objectives.forecasting import ForecastingConfig
from tests.modalities.video.references import randomise
from trainer.errors import CheckpointError, ConfigError, DataError, ModelError

TIMES = dict(hidden_size=16, intermediate_size=16, head_dim=8, num_attention_heads=2, num_hidden_layers=2, patch_length=4, horizon_length=8, context_length=16)
PATCHES = dict(context_length=16, prediction_length=6, patch_length=4, patch_stride=4, num_input_channels=2, d_model=8, num_hidden_layers=1, ffn_dim=8, num_attention_heads=2)
MIXER = dict(context_length=16, prediction_length=6, patch_length=4, patch_stride=4, num_input_channels=2, d_model=8, num_layers=1)


def folder(kind, tmp_path, **changes):
    """A small model of transformers, in a folder as that library writes it."""
    torch.manual_seed(0)
    config, model, small = {
        "timesfm": (transformers.TimesFmConfig, transformers.TimesFmModelForPrediction, TIMES),
        "timesfm2_5": (transformers.TimesFm2_5Config, transformers.TimesFm2_5ModelForPrediction, {**TIMES, "num_key_value_heads": 2, "output_quantile_len": 8}),
        "patchtst": (transformers.PatchTSTConfig, transformers.PatchTSTForPrediction, PATCHES),
        "patchtsmixer": (transformers.PatchTSMixerConfig, transformers.PatchTSMixerForPrediction, MIXER),
    }[kind]
    network = randomise(model(config(**{**small, **changes})))
    network.save_pretrained(tmp_path)
    return network


def batch(length=16):
    series = torch.randn(2, 2, length, generator=torch.Generator().manual_seed(1)).cumsum(2)
    return {"series": series, "observed": torch.ones_like(series, dtype=torch.bool)}


@pytest.mark.parametrize("kind", ["timesfm", "timesfm2_5"])
def test_timesfm(kind, tmp_path):
    network, x = folder(kind, tmp_path), batch()
    model = zoo.from_pretrained(tmp_path)
    said = model.forecast({**x, "frequency": torch.tensor([9, 7])}, 8)
    with torch.no_grad():
        arguments = {"freq": [1, 1, 0, 0]} if kind == "timesfm" else {}
        theirs = network(past_values=list(x["series"].flatten(0, 1)), **arguments)
    assert model.load_report.layout == "transformers" and {row.kind for row in model.load_report.rows} == {"renamed"}
    assert torch.allclose(said.point.flatten(0, 1), theirs.mean_predictions, atol=1e-5) and said.levels == model.levels and len(said.levels) == 9
    assert torch.allclose(said.quantiles[1, 3, 0], theirs.full_predictions[2, :, 4], atol=1e-5)
    assert model.forecast(x, 19).point.shape == (2, 2, 19) and model.tokens(x).shape == (2, 2 * 4, 16) and model.embed(batch(5)).shape == (2, 16)


def test_gaps_are_filled_by_straight_lines(tmp_path):
    folder("timesfm", tmp_path)
    model, x = zoo.from_pretrained(tmp_path), batch()
    x["series"][..., :] = torch.arange(16.0)
    whole = model.forecast({"series": x["series"][..., 3:]}, 8).point
    x["observed"][..., 6:9] = x["observed"][..., :3] = False
    assert model.forecast({**x, "series": torch.where(x["observed"], x["series"], 99.0)}, 8).point.allclose(whole, atol=1e-4)
    x["observed"][0, 1] = False
    assert model.forecast(x, 8).point[0, 1].isnan().all()


@pytest.mark.parametrize(("kind", "mask"), [("patchtst", "past_observed_mask"), ("patchtsmixer", "observed_mask")])
def test_patches(kind, mask, tmp_path):
    network, x = folder(kind, tmp_path), batch()
    model = zoo.from_pretrained(tmp_path)
    x["observed"][0, 0, 3:5] = False
    series, observed = torch.where(x["observed"], x["series"], 0.0).transpose(1, 2), x["observed"].transpose(1, 2)
    with torch.no_grad():
        theirs = network(past_values=series, **{mask: observed}).prediction_outputs.transpose(1, 2)
    assert torch.allclose(model.forecast(x, 6).point, theirs, atol=1e-5) and model.levels == ()
    assert model.forecast(batch(7), 15).point.shape == (2, 2, 15) and model.tokens(x).shape == (2, 2 * 4, 8)
    train = {**x, "target": torch.randn(2, 2, 6), "target_observed": torch.ones(2, 2, 6, dtype=torch.bool)}
    ForecastingConfig().build(model)(train).loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())
    with pytest.raises(DataError, match="6 steps at once; found a target of 7"):
        model.loss_terms({**train, "target": torch.randn(2, 2, 7)})
    with pytest.raises(ModelError, match="2 channels together, found 1"):
        model.forecast({"series": torch.randn(1, 1, 16)}, 4)


def test_a_distribution_gives_quantiles(tmp_path):
    folder("patchtst", tmp_path, loss="nll")
    model = zoo.from_pretrained(tmp_path)
    said = model.forecast(batch(), 6)
    assert said.quantiles.shape == (2, 9, 2, 6) and (said.quantiles.diff(dim=1) >= 0).all() and said.point.equal(said.quantiles[:, 4])
    assert said.point.equal(model.forecast(batch(), 6).point)
    with pytest.raises(ConfigError, match="loss=mse"):
        model.loss_terms({**batch(), "target": torch.randn(2, 2, 6), "target_observed": torch.ones(2, 2, 6, dtype=torch.bool)})


@pytest.mark.parametrize("kind", ["timesfm2_5", "patchtsmixer"])
def test_both_ways(kind, tmp_path):
    network = folder(kind, tmp_path / "theirs")
    model = zoo.from_pretrained(tmp_path / "theirs")
    model.save_pretrained(tmp_path / "ours")
    again = zoo.from_pretrained(tmp_path / "ours")
    state, config = to_transformers(again)
    stored = load_file(tmp_path / "theirs" / "model.safetensors")
    assert state.keys() == stored.keys() and all(state[name].equal(tensor) for name, tensor in stored.items())
    assert type(network.config)(**config).to_dict() == network.config.to_dict() and again.config == model.config


def test_a_folder_that_does_not_fit_is_refused(tmp_path):
    folder("patchtst", tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"d_model": 8', '"d_model": 12'))
    with pytest.raises(CheckpointError, match="other shape"):
        zoo.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="Did you mean 'd_model'"):
        PatchConfig("patchtst", {"dmodel": 8})
    with pytest.raises(ConfigError, match="Did you mean 'timesfm'"):
        TimesFMConfig("timesfn")
    with pytest.raises(ConfigError, match="prediction_channel_indices"):
        PatchConfig("patchtsmixer", {"prediction_channel_indices": [0]})
    with pytest.raises(ConfigError, match="transformers does not take"):
        PatchConfig("patchtst", {"d_model": "wide"}).theirs()
