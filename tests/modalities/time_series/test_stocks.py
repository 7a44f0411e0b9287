"""Prices, features, windows and days of stocks; what selection earns; the recipes."""

import numpy as np
import pytest
import torch

from modalities import registry
from modalities.time_series.stocks import COLUMNS, MEANS, StocksConfig, brownian, earned, features, read_market
from trainer.config import replace
from trainer.errors import ConfigError, DataError

HEAD = "date,open,high,low,close,volume"


def write(folder, name, rows):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.csv").write_text("\n".join([HEAD, *rows, ""]))


def test_generated_prices():
    market = brownian(4, 2, seed=1)
    assert market.values.shape == (4, 5, 504) and np.array_equal(market.values, brownian(4, 2, seed=1).values)
    first, high, low, _, close = market.values.transpose(1, 0, 2)
    assert (high >= np.maximum(first, close)).all() and (low <= np.minimum(first, close)).all() and np.array_equal(first[:, 1:], close[:, :-1])


def test_features():
    values = np.abs(np.random.default_rng(0).standard_normal((2, 5, 60))) + 1
    found = features(values, 40, "all")
    assert found.shape == (2, 25, 60) and np.isnan(found[:, 3, : MEANS[-1] - 1]).all() and not np.isnan(found[..., MEANS[-1] :]).any()
    close = values[:, COLUMNS.index("close")]
    assert np.allclose(found[:, -1], close / close[:, :40].max(1, keepdims=True)) and np.allclose(found[0, -5, 10], close[0, 6:11].mean() / close[0, :40].max())
    later = values.copy()
    later[..., 50:] *= 10
    assert np.allclose(features(later, 40, "close")[..., :50], found[:, -5:, :50], equal_nan=True) and not np.allclose(features(later, 60, "close")[..., 40:50], found[:, -5:, 40:50])


def test_windows_and_days():
    config = StocksConfig(stocks=3, years=1, days=8)
    train, test = config.build(), config.build("test")
    assert train[0]["series"].shape == (5, 8) and train[0]["series"].isfinite().all() and len(train) == 3 * (151 - MEANS[-1] + 1 - 7)
    assert {int(train[i]["stock"]) for i in range(len(train))} == {0, 1, 2} and train.samples[:, 1].max() < test.samples[:, 1].min()
    days = config.build_days()
    sample = days[5]
    assert sample["series"].shape == (3, 5, 8) and sample["valid"].all() and torch.equal(sample["series"][:, -1, -1], sample["price"][:, 0]) and torch.equal(days[6]["price"][:, 0], sample["price"][:, 1])


def test_files(tmp_path):
    rows = [f"2020-{1 + i // 28:02d}-{1 + i % 28:02d},{i + 1},{i + 2},{i + 0.5},{i + 1.5},{100 + i}" for i in range(120)]
    write(tmp_path, "AAA", rows)
    write(tmp_path, "BBB", rows[10:])
    (tmp_path / "sectors.csv").write_text("AAA,tech\n")
    market = read_market(tmp_path)
    assert market.names == ("AAA", "BBB") and market.values.shape == (2, 5, 120) and np.isnan(market.values[1, :, :10]).all() and market.sectors.tolist() == [0, -1]
    days = StocksConfig(path=str(tmp_path), days=4).build_days()
    assert days[0]["valid"].tolist() == [True, False] and days[len(days) - 1]["valid"].all()
    with pytest.raises(DataError, match="no window of 115 days"):
        StocksConfig(path=str(tmp_path), days=115).build("validation")


@pytest.mark.parametrize(
    ("rows", "message"),
    [(["2020-01-01,x,1,1,1,1"], "Row 2.*'x' in the column open"), (["2020-01-01,1,1,1,1,1"] * 2, "Row 3.*2020-01-01 again"), (["2020-01-01,1,1,1,-1,1"], "prices are above 0"), ([",1,1,1,1,1"], "no date")],
)
def test_files_that_are_none(tmp_path, rows, message):
    write(tmp_path, "A", rows)
    with pytest.raises(DataError, match=message):
        read_market(tmp_path)
    (tmp_path / "A.csv").write_text("date,close\n")
    with pytest.raises(DataError, match="no column 'open'"):
        read_market(tmp_path)
    with pytest.raises(DataError, match="holds no CSV file"):
        read_market(tmp_path / "nowhere")


def test_what_selection_earns():
    price = torch.tensor([[[1.0, 1.1], [1.0, 0.9], [1.0, 9.0]], [[1.0, 0.8], [1.0, 1.2], [1.0, 1.0]]])
    valid = torch.tensor([[True, True, False], [True, True, True]])
    found = earned(torch.tensor([[2.0, 1.0, 5.0], [1.0, 2.0, 0.0]]), price, valid, 1)
    assert found["daily"] == pytest.approx(0.15) and found["total"] == pytest.approx(1.1 * 1.2 - 1) and found["sharpe"] > 0
    assert earned(torch.tensor([[2.0, 1.0, 5.0], [1.0, 2.0, 0.0]]), price, valid, 10)["daily"] == pytest.approx(0.0, abs=1e-6)


def test_the_recipes():
    for name in ("sspt-tiny", "sspt-tiny-stage2"):
        recipe = replace(registry.find_recipe(f"time_series/{name}"), {"data.years": 1})
        source, objective = recipe.build()
        batch = {key: torch.stack([source[i][key] for i in range(3)]) for key in source[0]} | {"sample_key": torch.arange(3)}
        losses = objective(batch)
        losses.loss.backward()
        assert losses.loss.isfinite() and all(p.grad is not None for p in objective.parameters() if p.requires_grad) and source.describe()["stocks"] == 10
        assert recipe.evaluators(source, objective)[0].source.part == "validation"
    with pytest.raises(ConfigError, match="12 stocks.*Set model.in_chans"):
        replace(registry.find_recipe("time_series/sspt-tiny"), {"data.stocks": 12}).build()
