"""Chronos-2: groups, covariates, the roll-out, its layout and its loss."""

import pytest
import torch

from modalities.common import pretrained
from modalities.time_series.interop import chronos2 as interop
from modalities.time_series.models.chronos2 import Chronos2, Chronos2Config
from modalities.time_series.models.quantiles import masses, weighted_quantiles
from modalities.time_series.objectives.chronos import Chronos2LossConfig
from tests.modalities.vision.references import randomise
from trainer.errors import CheckpointError, ConfigError, DataError

SMALL = dict(context_length=32, patch_size=4, patch_stride=4, quantiles=(0.2, 0.5, 0.9), embed_dim=16, depth=2, num_heads=2, head_dim=6, mlp_dim=20, max_output_patches=2)


def small(**changes):
    return randomise(Chronos2(Chronos2Config(**{**SMALL, **changes}))).eval()


@pytest.mark.parametrize(("length", "horizon"), [(1, 1), (3, 8), (32, 5), (50, 19)])
@pytest.mark.parametrize("covariates", [False, True])
def test_any_context_any_horizon_with_and_without_covariates(length, horizon, covariates):
    batch = {"series": torch.randn(2, 3, length)}
    if covariates:
        batch |= {"past_covariates": torch.randn(2, 1, length), "future_covariates": torch.randn(2, 2, length + horizon)}
    said = small().forecast(batch, horizon)
    assert said.point.shape == (2, 3, horizon) and said.quantiles.shape == (2, 3, 3, horizon)
    assert said.point.isfinite().all() and said.point.equal(said.quantiles[:, 1])


def test_samples_do_not_see_each_other_and_channels_do():
    model, series = small(), torch.randn(2, 2, 20)
    both = model.forecast({"series": series}, 20).point
    assert both[:1].allclose(model.forecast({"series": series[:1]}, 20).point, atol=1e-3)
    assert not both[:, :1].allclose(model.forecast({"series": series[:, :1]}, 20).point, atol=1e-3)


@pytest.mark.parametrize("horizon", [8, 14])
def test_what_is_known_ahead_counts_up_to_the_horizon_and_not_beyond(horizon):
    model, series, known = small(), torch.randn(1, 1, 20), torch.randn(1, 1, 40)
    said = model.forecast({"series": series, "future_covariates": known[..., : 20 + horizon]}, horizon).point
    beyond, last = known.clone(), known.clone()
    beyond[..., 20 + horizon :] += 5
    last[..., 19 + horizon] += 5
    assert said.equal(model.forecast({"series": series, "future_covariates": beyond}, horizon).point)
    assert not said.allclose(model.forecast({"series": series, "future_covariates": last}, horizon).point, atol=1e-4)


def test_missing_values():
    model, series = small(), torch.randn(2, 2, 30)
    observed = torch.rand(2, 2, 30) > 0.4
    observed[1, 1] = False
    said = model.forecast({"series": series.masked_fill(~observed, 1e6), "observed": observed}, 9)
    assert said.point.equal(model.forecast({"series": series.masked_fill(~observed, torch.nan)}, 9).point) or said.point[1, 1].isnan().all()
    assert said.point[1, 1].isnan().all() and said.point[0].isfinite().all() and said.point[1, 0].isfinite().all()


def test_groups_of_all_sizes_at_once():
    """Groups in any order and with any numbers give what each gives alone."""
    model, series, groups = small(), torch.randn(7, 18), torch.tensor([9, -3, 9, 0, -3, 9, 4])
    observed = torch.rand(7, 18) > 0.3
    whole = model.quantiles(series, observed, groups, 2)
    for group in groups.unique():
        rows = groups == group
        assert whole[rows].allclose(model.quantiles(series[rows], observed[rows], groups[rows], 2), atol=1e-3), group


def test_features():
    model, batch = small(), {"series": torch.randn(2, 3, 10), "observed": torch.ones(2, 3, 10, dtype=torch.bool), "past_covariates": torch.randn(2, 1, 10)}
    assert model.tokens(batch).shape == (2, 3 * 4, 16) and model.embed(batch).shape == (2, 16)


def test_weighted_quantiles_by_hand():
    """Samples 1, 2, 4 with the weights .2, .3, .5 are reached at .2, .5 and 1."""
    found = weighted_quantiles(torch.tensor([[[2.0], [4.0], [1.0]]]), torch.tensor([0.3, 0.5, 0.2]), (0.1, 0.35, 0.5, 0.75, 0.99))
    assert found[0, :, 0].tolist() == pytest.approx([1.0, 1.5, 2.0, 3.0, 3.96])
    assert masses((0.1, 0.5, 0.9)).tolist() == pytest.approx([0.25 / 0.9, 0.4 / 0.9, 0.25 / 0.9])


def test_the_loss_by_hand():
    model, target = small(), torch.tensor([[[1.0, 5.0, 0.0, 0.0, 2.0]]])
    batch = {"series": torch.randn(1, 1, 20), "observed": torch.ones(1, 1, 20, dtype=torch.bool), "target": target, "target_observed": torch.tensor([[[True, True, False, False, True]]])}
    terms = model.loss_terms(batch)
    expected = sum(
        2 * max(q * (y - x), (q - 1) * (y - x)) for i, q in enumerate(model.levels) for t in (0, 1, 4) for x, y in [(terms.quantiles[0, i, 0, t].item(), terms.target[0, 0, t].item())]
    ) / 8  # two patches of four steps
    assert Chronos2LossConfig().build(model)(batch).loss.item() == pytest.approx(expected, rel=1e-4)
    with pytest.raises(DataError, match="8 steps at once, and the target has 9"):
        model.loss_terms({**batch, "target": torch.zeros(1, 1, 9)})


def test_all_weights_learn():
    model = Chronos2(Chronos2Config(**SMALL))
    batch = {"series": torch.randn(4, 2, 20), "observed": torch.ones(4, 2, 20, dtype=torch.bool), "target": torch.randn(4, 2, 8), "target_observed": torch.ones(4, 2, 8, dtype=torch.bool)}
    Chronos2LossConfig().build(model)(batch).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("changes", [{}, {"use_arcsinh": False, "time_scale": 7, "patch_stride": 2, "activation": "silu"}])
def test_the_official_layout_there_and_back(changes):
    model = small(**changes)
    back = pretrained.from_tensors(interop.to_official(model), interop.to_official_config(model), "here")
    assert {**vars(back.config), "time_scale": model.config.time_scale} == vars(model.config) and back.load_report.layout == "official"
    assert all(tensor.equal(back.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "words"),
    [({"chronos_config": {"use_reg": True}}, "Did you mean 'use_reg_token'"), ({"feed_forward_proj": "gated-gelu"}, "has no gate"), ({"chronos_config": {"context_length": 8, "input_patch_size": 4, "quantiles": [0.5]}}, "must have use_reg_token")],
)
def test_configs_that_do_not_help(change, words):
    model = small()
    with pytest.raises(CheckpointError, match=words):
        interop.describe(interop.to_official(model), {**interop.to_official_config(model), **change}, "official", "here")


@pytest.mark.parametrize("fields", [dict(head_dim=5), dict(max_output_patches=0), dict(time_scale=-1), dict(quantiles=(0.5, 0.5))])
def test_bad_fields(fields):
    with pytest.raises(ConfigError):
        Chronos2Config(**fields)
