"""Chronos-Bolt: short, long and broken series, the roll-out, its layout and its loss."""

import pytest
import torch

from modalities.common import pretrained
from modalities.time_series.interop import chronos_bolt as interop
from modalities.time_series.models.chronos_bolt import ChronosBolt, ChronosBoltConfig
from modalities.time_series.objectives.chronos import ChronosBoltLossConfig
from tests.modalities.vision.references import randomise
from trainer.errors import CheckpointError, ConfigError, DataError

SMALL = dict(context_length=32, prediction_length=5, patch_size=4, patch_stride=4, quantiles=(0.2, 0.5, 0.9), embed_dim=16, depth=2, decoder_depth=2, num_heads=2, head_dim=6, mlp_dim=20)


def small(**changes):
    return randomise(ChronosBolt(ChronosBoltConfig(**{**SMALL, **changes}))).eval()


@pytest.mark.parametrize("length", [1, 3, 4, 31, 32, 50])
@pytest.mark.parametrize("horizon", [1, 5, 12])
def test_any_context_and_any_horizon(length, horizon):
    said = small().forecast({"series": torch.randn(2, 3, length)}, horizon)
    assert said.point.shape == (2, 3, horizon) and said.quantiles.shape == (2, 3, 3, horizon)
    assert said.point.isfinite().all() and said.point.equal(said.quantiles[:, 1])


def test_units_and_channels():
    """A forecast moves and grows with its series; channels do not know each other."""
    model, series = small(), torch.randn(1, 2, 30)
    plain, moved = model.forecast({"series": series}, 7), model.forecast({"series": 10 * series + 3}, 7)
    assert moved.quantiles.allclose(10 * plain.quantiles + 3, atol=2e-3)
    assert plain.point[:, 1].allclose(model.forecast({"series": series[:, 1:]}, 7).point[:, 0], atol=1e-5)


def test_missing_values():
    model, series = small(), torch.randn(2, 1, 30)
    observed = torch.rand(2, 1, 30) > 0.4
    observed[1] = False
    broken = series.masked_fill(~observed, 1e6)
    said = model.forecast({"series": broken, "observed": observed}, 9)
    assert said.point[0].equal(model.forecast({"series": series.masked_fill(~observed, torch.nan)}, 9).point[0])
    assert said.point[1].isnan().all() and said.quantiles[1].isnan().all()
    padded = torch.cat([torch.full((2, 1, 2), torch.nan), series], dim=2)  # nothing observed in front changes nothing
    assert model.forecast({"series": padded}, 5).point.allclose(model.forecast({"series": series}, 5).point, atol=1e-4)


def test_features():
    model, batch = small(), {"series": torch.randn(2, 3, 10), "observed": torch.ones(2, 3, 10, dtype=torch.bool)}
    assert model.tokens(batch).shape == (2, 3 * 4, 16) and model.embed(batch).shape == (2, 16)


def test_the_loss_by_hand():
    model, target = small(), torch.tensor([[[1.0, 5.0, 0.0]]])
    batch = {"series": torch.randn(1, 1, 20), "target": target, "target_observed": torch.tensor([[[True, True, False]]])}
    batch["observed"] = torch.ones(1, 1, 20, dtype=torch.bool)
    terms = model.loss_terms(batch)
    expected = sum(
        2 * max(q * (y - x), (q - 1) * (y - x)) for i, q in enumerate(model.levels) for x, y in zip(terms.quantiles[0, i, 0].tolist(), terms.target[0, 0, :2].tolist())
    ) / 3
    assert ChronosBoltLossConfig().build(model)(batch).loss.item() == pytest.approx(expected, rel=1e-4)
    assert (terms.target * terms.scale)[0, 0].diff().allclose(target[0, 0].diff(), atol=1e-4)
    with pytest.raises(DataError, match="5 steps at once, and the target has 6"):
        model.loss_terms({**batch, "target": torch.zeros(1, 1, 6)})


def test_everything_that_can_learn_gets_a_gradient():
    model = ChronosBolt(ChronosBoltConfig(**SMALL))
    batch = {"series": torch.randn(4, 1, 20), "observed": torch.ones(4, 1, 20, dtype=torch.bool), "target": torch.randn(4, 1, 5), "target_observed": torch.ones(4, 1, 5, dtype=torch.bool)}
    ChronosBoltLossConfig().build(model)(batch).loss.backward()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {name for name, p in model.named_parameters() if p.grad is None} == frozen
    assert all(".self_attention." in name or name == "decoder.position_bias.weight" for name in frozen)


@pytest.mark.parametrize("changes", [{}, {"gated": True, "activation": "gelu_new"}, {"use_reg_token": False, "patch_stride": 2, "num_buckets": 8, "max_distance": 5}])
def test_the_official_layout_there_and_back(changes):
    model = small(**changes)
    back = pretrained.from_tensors(interop.to_official(model), interop.to_official_config(model), "here")
    assert back.config == model.config and back.load_report.layout == "official"
    assert all(tensor.equal(back.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_copies_of_the_embedding_are_left_out():
    model = small()
    state = interop.to_official(model)
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        state[name] = state["shared.weight"].clone()
    back = pretrained.from_tensors(state, interop.to_official_config(model), "here")
    assert [row.stored[0] for row in back.load_report.of("unused")] == ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]


@pytest.mark.parametrize(
    ("change", "words"),
    [({"chronos_config": None}, "no chronos_config"), ({"chronos_config": {"quantile": [0.5]}}, "Did you mean 'quantiles'"), ({"chronos_config": {"context_length": 8}}, "lacks input_patch_size, quantiles")],
)
def test_configs_that_do_not_help(change, words):
    model = small()
    with pytest.raises(CheckpointError, match=words):
        interop.describe(interop.to_official(model), {**interop.to_official_config(model), **change}, "official", "here")


@pytest.mark.parametrize("fields", [dict(quantiles=(0.5, 0.2)), dict(quantiles=()), dict(num_heads=0), dict(start_token=2), dict(num_buckets=7), dict(dropout=1.0), dict(patch_stride=0)])
def test_bad_fields(fields):
    with pytest.raises(ConfigError):
        ChronosBoltConfig(**fields)
