"""TimelyGPT: the official outputs, causality, the forms of retention, forecasts, codes."""

import pytest
import torch
from torch.nn import functional as F

from modalities.time_series.codes import CodesPreprocess, VisitsConfig
from modalities.time_series.interop import timelygpt as interop
from modalities.time_series.models.retention import Retention, decays, retnet_decays
from modalities.time_series.models.timelygpt import TimelyGPT, TimelyGPTConfig
from modalities.time_series.models.timelygpt_codes import TimelyGPTCodes, TimelyGPTCodesConfig
from modalities.time_series.objectives.forecasting import ForecastingConfig
from modalities.time_series.objectives.timelygpt import NextCodeConfig, TokenPredictionConfig
from tests.modalities.time_series.goldens import FILES, largest_error, write_golden
from tests.modalities.vision.references import randomise
from trainer.errors import CheckpointError, ConfigError, DataError, ModelError

SMALL = dict(embed_dim=12, key_dim=16, value_dim=8, hidden_dim=20, depth=2, num_heads=2, dropout=0.0)


def small(**changes):
    return randomise(TimelyGPT(TimelyGPTConfig(**{**SMALL, "in_chans": 2, "context_length": 64, **changes})))


def small_codes(**changes):
    return randomise(TimelyGPTCodes(TimelyGPTCodesConfig(**{**SMALL, "codes": (7, 3, 12), **changes})))


def batch(length=40, horizon=None):
    series = torch.randn(2, 2, length + (horizon or 0), generator=torch.Generator().manual_seed(1)).cumsum(2)
    found = {"series": series[..., :length], "observed": torch.ones(2, 2, length, dtype=torch.bool)}
    if horizon:
        found |= {"target": series[..., length:], "target_observed": torch.ones(2, 2, horizon, dtype=torch.bool)}
    return found


@pytest.mark.parametrize("name", ["timelygpt_cts", "timelygpt_ists"])
def test_official_outputs(name):
    assert largest_error(FILES / f"{name}.safetensors") < 5e-6


@pytest.mark.parametrize("changes", [{"qkv_bias": True, "mlp_bias": False, "depth": 3}, {"out_bias": True, "gate_bias": True, "decay": "retnet", "in_chans": 3, "num_heads": 4}])
def test_other_golden_files(changes, tmp_path):
    model = small(**changes, causal=False, target="tokens")
    series = torch.randn(2, 30, model.config.in_chans)
    tokens, features = model.encode(series)
    prediction = model.predict(features)
    config = {"_kind": "cts", "_chunk": 3, "use_default_gamma": model.config.decay == "retnet"}
    path = write_golden(tmp_path / "x.safetensors", "time_series/timelygpt", config, interop.to_official(model), {
        "input.x": series, "output.tokens": tokens, "output.pred": prediction, "output.pred_chunkwise": prediction, "output.loss": F.mse_loss(prediction[:, :-1], tokens),
    })  # fmt: skip
    assert tokens.shape == (2, 8, model.config.in_chans) and largest_error(path) < 1e-5


def test_other_golden_files_of_codes(tmp_path):
    model = small_codes(causal=False, depth=1)
    codes, times = torch.tensor([[3, 12, 7, 99, 3], [12, 3, 0, 0, 0]]), torch.tensor([[1.0, 2, 5, 5, 9], [0, 4, 6, 6, 6]])
    logits = model({"code": codes, "time": times})
    target = torch.tensor([[1, 2, 0, 3, 1], [2, 1, 3, 3, 3]])
    loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=3)
    path = write_golden(tmp_path / "x.safetensors", "time_series/timelygpt", {"_kind": "ists", "_codes": [7, 3, 12]}, interop.to_official(model), {
        "input.codes": codes, "input.t": times, "output.logits": logits, "output.loss": loss,
    })  # fmt: skip
    assert largest_error(path) < 1e-5
    state = interop.to_official(model)
    with pytest.raises(CheckpointError, match="table of 3 codes, and no tensor says which"):
        interop.describe(state, {"_codes": [7, 3]}, "official", "here")


@pytest.mark.parametrize("causal", [True, False])
def test_only_the_causal_one_sees_no_later_token(causal):
    model = small(causal=causal)
    series = torch.randn(1, 40, 2)
    changed = series.clone()
    changed[:, 24:] += 1
    same = (model.encode(series)[1] - model.encode(changed)[1]).abs().amax((0, 2)) < 1e-6
    assert same[:7].all() == causal and not same[7:].any()  # place 7 is the first that knows token 6, the points 24 to 27


def test_chunks_times_and_pairs_give_the_same():
    torch.manual_seed(0)
    layer, x = Retention(12, 16, 8, decays(2)), torch.randn(2, 11, 12)
    said = layer(x)
    assert layer(x, torch.arange(11.0).expand(2, -1)).allclose(said, atol=1e-6)
    for chunk in (1, 4, 10):
        layer.chunk = chunk
        assert layer(x).allclose(said, atol=1e-5)
    assert not layer(x, 2 * torch.arange(11.0).expand(2, -1)).allclose(said, atol=1e-3)
    assert retnet_decays(2).tolist() == [1 - 1 / 32, 1 - 1 / 64]


def test_forecasts_in_the_units_of_the_series():
    model, x = small(), batch(39)
    said = model.forecast(x, 9).point
    assert said.shape == (2, 2, 9) and torch.allclose(model.forecast({**x, "series": 1000 * x["series"] + 5}, 9).point, 1000 * said + 5, rtol=1e-3, atol=1)
    x["observed"][..., 30:35] = False
    said = model.forecast(x, 5).point
    x["series"] = torch.where(x["observed"], x["series"], 99.0)
    assert model.forecast(x, 5).point.equal(said) and model.tokens(x).shape == (2, 11, 12) and model.embed(x).shape == (2, 12)
    with pytest.raises(ModelError, match="2 channels together, found 3"):
        model.forecast({"series": torch.randn(1, 3, 8)}, 4)
    with pytest.raises(ConfigError, match='target="points"'):
        small(target="tokens").forecast(x, 4)


def test_losses():
    model, x = small(), batch(40, 6)
    terms = model.loss_terms(x)
    assert terms.point.shape == terms.target.shape == (2, 2, 44) and torch.allclose(terms.target[..., -4:] * terms.scale, x["target"][..., :4] - x["series"].mean(2, keepdim=True), atol=1e-4)
    ForecastingConfig().build(model)(x).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    official = small(target="tokens", causal=False)
    tokens, features = official.encode(x["series"].transpose(1, 2))
    assert torch.allclose(TokenPredictionConfig().build(official)(x).loss, F.mse_loss(official.predict(features)[:, :-1], tokens))
    with pytest.raises(ConfigError, match='target="tokens"'):
        TokenPredictionConfig().build(model)
    with pytest.raises(DataError, match="tokens of 4 points; found a target of 3"):
        model.loss_terms(batch(40, 3))


def test_codes_that_are_not_known_are_padding():
    model = small_codes()
    assert model.places(torch.tensor([[3, 12, 7, 99, 0, -1]])).tolist() == [[1, 2, 0, 3, 3, 3]]
    batch = CodesPreprocess()([{"code": [3, 12, 99], "time": [0.0, 2.0, 2.5]}, ([7], [1.0])])
    assert batch["code"].tolist() == [[3, 12, 99], [7, 0, 0]] and batch["time"].tolist() == [[0, 2, 2.5], [1, 1, 1]]
    losses = NextCodeConfig().build(model)(batch)
    logits = model(batch)
    assert losses.count == 3 and torch.allclose(losses.loss, F.cross_entropy(logits[[0, 0, 1], [0, 1, 0]], torch.tensor([1, 2, 0])))
    assert model.embed(batch).shape == (2, 12) and logits.shape == (2, 3, 4)
    with pytest.raises(DataError, match="Sort the codes of each sequence by time"):
        model({"code": batch["code"], "time": -batch["time"]})


@pytest.mark.parametrize(
    ("raw", "message"),
    [("abc", "mapping of code and time"), (([1], ["x"]), "must be numbers"), (([1, 2], [0.0]), "a time for each"), (([1.5], [0.0]), "whole numbers"), (([1, 2], [3.0, 1.0]), "must not fall")],
)
def test_sequences_that_are_none(raw, message):
    with pytest.raises(DataError, match=message):
        CodesPreprocess()(raw)


def test_generated_visits_are_reproducible():
    source = VisitsConfig(length=10, samples=5).build()
    sample = source[3]
    assert sample["code"].equal(source[3]["code"]) and sample["code"].shape == (10,) and (sample["time"].diff() >= 0).all()
    assert not VisitsConfig(length=10, samples=50).build(held_out=True)[3]["time"].equal(sample["time"])


def test_the_official_layout_holds_only_what_the_official_code_computes():
    with pytest.raises(ModelError, match="centred convolutions"):
        interop.to_official(small())
    model = small(causal=False, target="tokens")
    described = interop.describe(interop.to_official(model), interop.to_official_config(model), "official", "here")
    assert TimelyGPTConfig(**{**described.fields, "context_length": 64}) == model.config
