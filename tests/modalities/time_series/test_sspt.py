"""SSPT: the official outputs, hidden days, the order of stocks as it is meant, what is frozen."""

import pytest
import torch

from modalities.time_series.interop import sspt as interop
from modalities.time_series.models.sspt import SSPT, SSPTConfig
from modalities.time_series.objectives.stocks import StockPretrainingConfig, StockSelectionConfig
from tests.modalities.time_series.goldens import FILES, largest_error, write_golden
from tests.modalities.vision.references import randomise
from trainer.errors import CheckpointError, ConfigError, DataError, ModelError

SMALL = dict(in_chans=3, days=10, embed_dim=16, num_heads=2, num_stocks=6, num_sectors=2, average_price=1, dropout=0.0)


def small(**changes):
    return randomise(SSPT(SSPTConfig(**{**SMALL, **changes})))


def windows():
    generator = torch.Generator().manual_seed(2)
    return {"series": torch.rand(4, 3, 10, generator=generator), "stock": torch.tensor([0, 5, 2, 2]), "sector": torch.tensor([0, -1, 1, 1]), "sample_key": torch.arange(4)}


def test_official_outputs():
    assert largest_error(FILES / "sspt.safetensors") < 5e-6


def test_other_golden_files(tmp_path):
    """Other depths, two heads only, and no labels for one of them."""
    model, x = small(extractor_layers=2, predictor_layers=3, num_sectors=0, num_outputs=2), windows()["series"]
    price = model({"series": x})
    objective = StockPretrainingConfig(sector=0.0, mask_avg_price=0.0).build(model)
    loss = objective({"series": x, "stock": torch.tensor([1, 2, 3, 4])}).loss
    path = write_golden(tmp_path / "x.safetensors", "time_series/sspt", {"num_heads": 2, "_heads": {"stock": 6}}, interop.to_official(model), {
        "input.x": x.transpose(1, 2), "input.label.stock": torch.tensor([1, 2, 3, 4]), "output.price": price, "output.loss.pretrain": loss, "output.loss.stock": loss,
    })  # fmt: skip
    assert largest_error(path) < 1e-5
    config = interop.to_official_config(model)
    assert SSPTConfig(**interop.describe(interop.to_official(model), config, "official", "here").fields) == model.config
    with pytest.raises(CheckpointError, match="Put num_heads into its config.json"):
        interop.describe(interop.to_official(model), {}, "official", "here")


def test_hidden_days():
    objective, x = StockPretrainingConfig(mask_ratio=0.3).build(small()), windows()
    hidden = objective.hidden(x["series"], x["sample_key"])
    assert ((hidden == 0).sum(2) == 3).all() and hidden[hidden != 0].equal(x["series"][hidden != 0])
    assert hidden.equal(objective.hidden(x["series"], x["sample_key"])) and not hidden.equal(objective.hidden(x["series"], x["sample_key"] + 9))
    losses = objective(x)
    assert set(losses.parts) == {"stock", "sector", "mask_avg_price"} and torch.allclose(losses.loss, sum(losses.parts.values()))


def test_two_stocks_in_the_wrong_order_cost_and_in_the_right_order_do_not():
    price, valid = torch.tensor([[[100.0, 110.0], [50.0, 45.0], [1.0, 7.0]]]), torch.tensor([[True, True, False]])
    objective = StockSelectionConfig().build(small())
    error, ranking = objective.terms(torch.tensor([[110.0, 45.0, 3.0]]), price, valid)
    assert error == 0 and ranking == 0
    _, ranking = objective.terms(torch.tensor([[90.0, 55.0, 3.0]]), price, valid)
    assert torch.allclose(ranking, torch.tensor(2 * 0.2 * 0.2 / 4))
    _, coded = StockSelectionConfig(ranking="coded").build(small()).terms(torch.tensor([[90.0, 55.0, 3.0]]), price, valid)
    assert not torch.allclose(coded, ranking)


@pytest.mark.parametrize(("freeze", "trained"), [("none", 14), ("embedding", 12), ("attention", 4), ("extractor", 0)])
def test_what_is_frozen(freeze, trained):
    model = small()
    objective = StockSelectionConfig(freeze=freeze).build(model)
    assert sum(p.requires_grad for p in model.feature_extractor.parameters()) == trained + (freeze == "none")
    batch = {"series": windows()["series"][None], "price": torch.rand(1, 4, 2) + 1, "valid": torch.ones(1, 4, dtype=torch.bool)}
    objective(batch).loss.backward()
    assert all(p.grad is not None for p in objective.parameters() if p.requires_grad)
    with pytest.raises(DataError, match=r"reads series \(D, N, F, T\)"):
        objective({**batch, "series": windows()["series"]})


def test_wrong_inputs_are_named():
    with pytest.raises(ModelError, match="3 features over 10 days, found"):
        small().embed({"series": torch.rand(1, 3, 9)})
    with pytest.raises(ConfigError, match="no head for it: set model.num_sectors"):
        StockPretrainingConfig().build(small(num_sectors=0))
    with pytest.raises(ConfigError, match="num_heads=3"):
        SSPTConfig(num_heads=3)
    assert set(small().outputs({"series": torch.rand(2, 3, 10)})) == {"features", "tokens", "price", "logits_stock", "logits_sector", "logits_mask_avg_price"}
