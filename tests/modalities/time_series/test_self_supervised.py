"""Training of series without forecasting: masked reconstruction, contrastive learning."""

import math

import pytest
import torch

import zoo
from modalities import registry
from modalities.time_series.models.ttm import TTM
from modalities.time_series.models.ttm_config import TTMConfig
from modalities.time_series.objectives.contrastive import ContrastiveSeriesConfig, similarities
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
    recipe = replace(registry.find_recipe("time_series/ttm-tiny-masked"), {"data.validation": 64, "data.mix.kernel_synth": 0.0})
    source, objective = recipe.build()
    batch = {**source.fetch(range(48)), "sample_key": torch.arange(48)}
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


def contrastive(model=None, **fields):
    torch.manual_seed(1)
    return ContrastiveSeriesConfig(**fields).build(model or TTM(SMALL)).eval()


def test_the_loss_is_nt_xent():
    projected = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    logits, partner = similarities(projected, 0.5)
    total = 0.0
    for i in range(6):
        cosines = [torch.cosine_similarity(projected[i], projected[k], dim=0).item() / 0.5 for k in range(6)]
        j = (i + 3) % 6
        total -= cosines[j] - math.log(sum(math.exp(cosines[k]) for k in range(6) if k != i))
    assert torch.nn.functional.cross_entropy(logits, partner).item() == pytest.approx(total / 6, rel=1e-5)


def test_views_are_pieces_of_the_history_with_points_taken_away():
    batch = {**series(4, 2, 40), "frequency": torch.arange(4)}
    batch["series"] = torch.arange(40.0).expand(4, 2, 40) + 100 * torch.arange(1.0, 9.0).view(4, 2, 1)
    batch["observed"][1, :, :15] = False  # a history of 25 points
    batch["observed"][2, :, :30] = False  # one shorter than a view
    views = contrastive(hidden=0.3).views(batch)
    shown = views["series"].unflatten(0, (2, 4))
    assert shown.shape == (2, 4, 2, 20) and views["frequency"].tolist() == [0, 1, 2, 3] * 2
    seen = views["observed"].unflatten(0, (2, 4))
    assert seen[:, :, 0].equal(seen[:, :, 1]) and (shown[~seen] == 0).all() and 0.6 < seen[:, [0, 3]].float().mean() < 0.8
    numbers = torch.where(seen, shown - 100 * torch.arange(1.0, 9.0).view(4, 2, 1) - torch.arange(20), torch.nan)
    starts = numbers.nanmean((2, 3))
    assert (numbers.isnan() | (numbers == starts[:, :, None, None])).all() and (starts[:, 1] >= 15).all() and (starts[:, 2] == 20).all() and starts[0, 0] != starts[1, 0]
    alone = contrastive(hidden=0.3).views({key: value[3:] for key, value in batch.items()})
    assert alone["series"].equal(views["series"][[3, 7]])


def test_series_without_values_take_no_part():
    objective, batch = contrastive(), series(5)
    batch["observed"][2] = False
    losses = objective(batch)
    rest = objective({key: value[[0, 1, 3, 4]] for key, value in batch.items()})
    assert losses.count == 8 and losses.loss.item() == pytest.approx(rest.loss.item(), rel=1e-5)
    none = objective({**batch, "observed": torch.zeros_like(batch["observed"])})
    none.loss.backward()
    assert none.loss == 0 and none.count == 0 and all(p.grad is None or p.grad.isfinite().all() for p in objective.parameters())


def test_contrastive_learning_learns():
    recipe = replace(registry.find_recipe("time_series/ttm-tiny-contrastive"), {"data.validation": 64, "data.mix.kernel_synth": 0.0})
    source, objective = recipe.build()
    batch = {**source.fetch(range(48)), "sample_key": torch.arange(48)}
    losses = trained(objective, batch, 8, 2e-3)
    assert losses[-1] < 0.8 * losses[0]
    measured = recipe.evaluators(source, objective)[0](objective.eval())
    assert measured["loss"] > 0 and 0.05 < measured["accuracy"] <= 1 and recipe.draw(objective, source) is None


@pytest.mark.parametrize("name", ["chronos-bolt-micro", "chronos-2-micro", "time-moe-micro", "flowstate-micro"])
def test_other_forecasters_learn_contrastively(name):
    losses = trained(contrastive(zoo.create(f"time_series/{name}")), series(6, 1, 96), 4, 2e-3)
    assert losses[-1] < losses[0]


def test_a_model_of_several_channels_is_refused():
    with pytest.raises(ConfigError, match="one channel"):
        contrastive(TTM(replace(SMALL, {"num_input_channels": 2, "mode": "mix_channel", "adaptive_patching_levels": 0})))


@pytest.mark.parametrize("fields", [{"temperature": 0.0}, {"projection": 0}, {"crop": 0.0}, {"hidden": 1.0}])
def test_impossible_views(fields):
    with pytest.raises(ConfigError):
        ContrastiveSeriesConfig(**fields)
