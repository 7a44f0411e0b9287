"""Time-MoE: grouped experts against the loop over experts, roll-out, missing values, loss, layout."""

import pytest
import torch
from torch.nn import functional as F

from modalities.common import pretrained
from modalities.time_series.interop import time_moe as interop
from modalities.time_series.models.time_moe import TimeMoE, TimeMoEConfig
from modalities.time_series.objectives.time_moe import TimeMoELossConfig, windows
from tests.modalities.vision.references import randomise
from tools.bench_time_moe import answers, require_same, step
from tools.looped_experts import LoopedTimeMoE
from trainer.errors import CheckpointError, ConfigError

SMALL = dict(context_length=40, horizons=(1, 4, 8), embed_dim=16, mlp_dim=12, depth=2, num_heads=4, experts=3, chosen=2)


def small(**changes):
    return randomise(TimeMoE(TimeMoEConfig(**{**SMALL, **changes}))).eval()


@pytest.mark.parametrize("changes", [{}, {"experts": 1, "chosen": 1}, {"experts": 6, "chosen": 1}, {"experts": 5, "chosen": 5, "mlp_dim": 20}, {"experts": 64}, {"num_kv_heads": 2}])
def test_groups_compute_what_the_loop_computes(changes):
    """Outputs and all gradients, also with experts that get no token."""
    model, values = small(**changes), torch.randn(2, 9)
    loop = LoopedTimeMoE(model.config)
    loop.load_state_dict(interop.to_official(model))
    require_same(step(model, lambda: answers(model, values)), step(loop, lambda: loop(values)[0]))


def test_earlier_points_do_not_see_later_ones():
    model, values = small(), torch.randn(1, 12)
    changed = torch.cat([values[:, :8], torch.randn(1, 4)], dim=1)
    assert model.decode(values).hidden[:, :8].allclose(model.decode(changed).hidden[:, :8], atol=1e-5)


def test_the_longest_head_that_fits_is_asked():
    model = small()
    assert [model.head_for(steps) for steps in (1, 3, 4, 7, 8, 99)] == [0, 0, 1, 1, 2, 2] and small(horizons=(4, 8)).head_for(2) == 0
    values = torch.randn(2, 10)
    first = model.heads[2](model.decode(values).hidden[:, -1])
    second = model.heads[1](model.decode(torch.cat([values, first], dim=1)).hidden[:, -1])
    assert model.roll_out(values, 12).allclose(torch.cat([first, second], dim=1), atol=1e-5)
    assert small(horizons=(4, 8)).roll_out(values, 6).shape == (2, 6)


@pytest.mark.parametrize(("length", "horizon"), [(1, 1), (3, 9), (32, 8), (60, 21)])
def test_any_context_and_any_horizon_in_the_units_of_the_series(length, horizon):
    model, series = small(), torch.randn(2, 3, length)
    said = model.forecast({"series": series}, horizon)
    assert said.point.shape == (2, 3, horizon) and said.quantiles is None and said.point.isfinite().all()
    assert model.forecast({"series": 7 * series - 2}, horizon).point.allclose(7 * said.point - 2 if length > 1 else said.point + 6 * series - 2, atol=1e-3)


def test_missing_values():
    model, series = small(), torch.randn(2, 1, 12)
    series[0, 0, :5], series[1] = torch.nan, torch.nan
    said = model.forecast({"series": series}, 9)
    assert said.point[0].allclose(model.forecast({"series": series[:1, :, 5:]}, 9).point[0], atol=1e-4)  # a gap in front is padding
    assert said.point[1].isnan().all()
    series[0, 0, 8], filled = torch.nan, series[:1].clone()
    filled[0, 0, 8] = filled[0, 0, 7]
    values, real, _, _ = model.standardised({"series": series.nan_to_num(0.0), "observed": ~series.isnan()})
    assert values[0, 8] == values[0, 7] and real[0].tolist() == [False] * 5 + [True] * 7


def test_features():
    model, batch = small(), {"series": torch.randn(2, 3, 10), "observed": torch.ones(2, 3, 10, dtype=torch.bool)}
    assert model.tokens(batch).shape == (2, 30, 16) and model.embed(batch).shape == (2, 16)


def test_the_loss_counts_what_was_observed():
    model = small(dense=True)
    batch = {"series": torch.randn(2, 1, 10), "target": torch.randn(2, 1, 6), "observed": torch.ones(2, 1, 10, dtype=torch.bool), "target_observed": torch.ones(2, 1, 6, dtype=torch.bool)}
    loss = TimeMoELossConfig().build(model)
    whole = loss(batch).loss
    values, _, _, _ = model.standardised({"series": torch.cat([batch["series"], batch["target"]], 2), "observed": torch.ones(2, 1, 16, dtype=torch.bool)})
    expected = torch.stack([
        F.huber_loss(torch.cat([head(h)[:, t, : 15 - t] for t in range(15)], 1), torch.cat([values[:, t + 1 :][:, : head.out_features] for t in range(15)], 1), delta=2.0)
        for h in [model.decode(values[:, :-1]).hidden] for head in model.heads
    ]).mean()  # fmt: skip
    assert whole.item() == pytest.approx(expected.item(), rel=1e-5) and "balance" not in loss(batch).parts
    batch["target"][:, :, -2:], batch["target_observed"][:, :, -2:] = torch.nan, False
    assert loss(batch).loss.isfinite() and loss(batch).loss != whole


def test_even_routing_is_balanced_at_the_number_of_chosen_experts():
    model = small()
    for layer in model.layers:
        torch.nn.init.zeros_(layer.mlp.router.weight)
    batch = {"series": torch.randn(2, 1, 10), "target": torch.randn(2, 1, 6), "observed": torch.ones(2, 1, 10, dtype=torch.bool), "target_observed": torch.ones(2, 1, 6, dtype=torch.bool)}
    assert TimeMoELossConfig().build(model)(batch).parts["balance"].item() == pytest.approx(2.0, rel=1e-5)
    assert windows(torch.arange(1.0, 4.0)[None], 2)[0].tolist() == [[1, 2], [2, 3], [3, 0]]


@pytest.mark.parametrize("changes", [{}, {"dense": True}, {"experts": 5, "chosen": 3, "num_kv_heads": 1}])
def test_the_official_layout_there_and_back(changes):
    model = small(**changes)
    back = pretrained.from_tensors(interop.to_official(model), interop.to_official_config(model), "here")
    assert all(tensor.equal(back.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert {**vars(back.config), "num_kv_heads": None} == {**vars(model.config), "num_kv_heads": None} and back.config.kv_heads == model.config.kv_heads


@pytest.mark.parametrize(("change", "words"), [({"hidden_act": "gelu"}, "computes 'silu'"), ({"input_size": 2}, "input_size=2"), ({"num_attention_heads": None}, "does not say its number of attention heads")])
def test_configs_that_do_not_help(change, words):
    model = small()
    with pytest.raises(CheckpointError, match=words):
        interop.describe(interop.to_official(model), {**interop.to_official_config(model), **change}, "official", "here")


@pytest.mark.parametrize("fields", [dict(chosen=9), dict(horizons=(8, 1)), dict(horizons=()), dict(num_heads=5), dict(num_kv_heads=5), dict(depth=0), dict(horizons=(1, 4096))])
def test_bad_fields(fields):
    with pytest.raises(ConfigError):
        TimeMoEConfig(**fields)
