"""Training of series without forecasting: masked reconstruction."""

import pytest
import torch

from modalities import registry
from modalities.time_series.models.ttm import TTM
from modalities.time_series.models.ttm_config import TTMConfig
from modalities.time_series.objectives.masked import MaskedSeriesConfig
from trainer.config import replace
from trainer.errors import ConfigError

SMALL = TTMConfig(context_length=34, prediction_length=4, patch_length=8, d_model=16, num_layers=1, adaptive_patching_levels=2, decoder_d_model=8, decoder_num_layers=1, dropout=0.0, head_dropout=0.0,
                  resolution_prefix_tuning=True, missing="mean")  # fmt: skip


def series(count=3, channels=2, length=34):
    torch.manual_seed(0)
    return {"series": torch.randn(count, channels, length) + 5, "observed": torch.ones(count, channels, length, dtype=torch.bool), "sample_key": torch.arange(count)}


def masked(**fields):
    torch.manual_seed(1)
    return MaskedSeriesConfig(**fields).build(TTM(SMALL)).eval()


def trained(objective, batch, steps, rate):
    """The loss of each step on one batch."""
    optimizer, losses = torch.optim.AdamW(objective.parameters(), rate), []
    for _ in range(steps):
        loss = objective(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_the_loss_is_that_of_hidden_points_alone():
    objective, batch = masked(mask_ratio=0.5), series()
    found, losses = objective.reconstruct(batch), objective(batch)
    assert found.hidden.view(3, 2, 34)[..., 2:].unflatten(2, (4, 8)).all(3).sum(2).tolist() == [[2, 2]] * 3 and not found.hidden[..., :2].any()
    assert not (found.hidden & found.visible).any() and (found.hidden | found.visible).all()
    error = found.in_units() - batch["series"]
    assert losses.loss.item() == pytest.approx((error / found.scale)[found.hidden].square().mean().item(), rel=1e-4) and losses.count == 3 * 2 * 16
    assert found.loc[0, 0].item() == pytest.approx(batch["series"][0, 0][found.visible[0, 0]].mean().item(), rel=1e-5)


def test_what_is_hidden_or_missing_is_not_read():
    objective, batch = masked(), series()
    batch["observed"][0, 0, 10:20] = False
    found = objective.reconstruct(batch)
    changed = {**batch, "series": torch.where(found.visible, batch["series"], torch.randn(3, 2, 34) * 99)}
    assert objective.reconstruct(changed).said.equal(found.said)
    unread = {**batch, "series": torch.where(batch["observed"], batch["series"], torch.nan)}
    assert objective(unread).loss.equal(objective(batch).loss)
    assert not found.hidden[0, 0, 10:20].any()


def test_what_is_hidden_follows_from_the_key_of_a_sample():
    objective, batch = masked(), series(8)
    whole, alone = objective.reconstruct(batch).hidden, objective.reconstruct({key: value[5:6] for key, value in batch.items()}).hidden
    assert whole[5].equal(alone[0]) and len(whole.flatten(1).unique(dim=0)) > 3
    assert not objective.reconstruct({key: value for key, value in batch.items() if key != "sample_key"}).hidden.equal(whole)


def test_series_with_nothing_to_hide_give_no_loss_and_finite_gradients():
    objective, batch = masked(), series()
    batch["observed"][:, :, :-3] = False  # one patch with values
    batch["observed"][0] = False  # none
    losses = objective(batch)
    losses.loss.backward()
    assert losses.loss == 0 and losses.count == 0 and all(p.grad is None or p.grad.isfinite().all() for p in objective.parameters())
    batch["observed"][1, 0, 5] = True  # two: one of them is hidden
    losses = objective(batch)
    losses.loss.backward()
    assert losses.count in (1, 3) and all(p.grad is None or p.grad.isfinite().all() for p in objective.parameters())


def test_masked_reconstruction_learns_and_is_drawn(tmp_path):
    recipe = replace(registry.find_recipe("time_series/ttm-tiny-masked"), {"data.validation": 64})
    source, objective = recipe.build()
    batch = {**source.fetch(range(64)), "sample_key": torch.arange(64)}
    losses = trained(objective, batch, 12, 8e-3)
    assert losses[-1] < 0.85 * losses[0]
    assert recipe.evaluators(source, objective)[0](objective.eval())["loss"] > 0 and objective.export().name == "time_series/ttm-tiny-masked"
    recipe.draw(objective, source)(objective, tmp_path / "x.png", "title")
    assert (tmp_path / "x.png").stat().st_size > 10_000


@pytest.mark.parametrize("fields", [{"mask_ratio": 0.0}, {"mask_ratio": 1.0}, {"clip": 0.0}])
def test_impossible_masking(fields):
    with pytest.raises(ConfigError):
        MaskedSeriesConfig(**fields)


@pytest.mark.parametrize("changes", [{"mode": "mix_channel"}, {"masked_context": True}, {"context_length": 15}])
def test_networks_that_cannot_be_trained_so(changes):
    with pytest.raises(ConfigError, match="Masked reconstruction"):
        MaskedSeriesConfig().build(TTM(replace(SMALL, {"adaptive_patching_levels": 0, **changes})))
