"""Fine-tuning on series of one's own: splits by time, zero-shot first, covariates, channel mixing, frozen backbones."""

import json

import numpy as np
import pytest
import torch

import zoo
from modalities.time_series.down_sampling import down_sampled
from modalities.time_series.finetune import compared, default_recipe, main
from modalities.time_series.frequency import TOKENS, coarser
from modalities.time_series.models.ttm import TTM
from modalities.time_series.models.ttm_config import TTMConfig
from modalities.time_series.preprocess import SeriesPreprocess
from modalities.time_series.series import Item
from modalities.time_series.windows import SeriesData, split_windows
from trainer.config import replace
from trainer.errors import ConfigError, DataError, ModelError

SMALL = TTMConfig(context_length=32, prediction_length=8, patch_length=8, d_model=16, decoder_d_model=8, num_layers=1, adaptive_patching_levels=2, decoder_num_layers=1, dropout=0.0, head_dropout=0.0,
                  missing="mean", multi_quantile_head=True)  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    torch.manual_seed(0)
    model = TTM(SMALL).eval()
    model.preprocess = SeriesPreprocess()
    folder = tmp_path_factory.mktemp("start") / "model"
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Two targets that follow a covariate known ahead."""
    rng = np.random.default_rng(0)
    switch = np.repeat(rng.integers(0, 2, 50), 4).astype(float)
    path = tmp_path_factory.mktemp("data") / "shop.csv"
    rows = [f"2024-01-01 {i // 60:02d}:{i % 60:02d}:00,{10 + 5 * switch[i]:.3f},{-3 * switch[i] + 0.1 * np.sin(i):.3f},{switch[i]:g}" for i in range(200)]
    path.write_text("\n".join(["time,a,b,open", *rows]))
    return str(path)


def test_windows_are_split_by_time_and_cut_where_they_should_be(table):
    windows = split_windows(SeriesData(table, test=0.2, validation=0.2), 32, 8, together=False)
    assert len(windows) == 3 * (112 - 32 + 1) and [len(windows.held_out), len(windows.test)] == [3 * 33, 3 * 33]
    values = windows.values[0]
    for part, first in ((windows, 32), (windows.held_out, 120), (windows.test, 160)):
        batch = part.fetch([0, len(part) - 1])
        assert batch["series"][0, 0].numpy().tolist() == values[0, first - 32 : first].tolist() and batch["target"][0, 0].numpy().tolist() == values[0, first : first + 8].tolist()
        assert batch["observed"].all() and batch["frequency"].tolist() == [1, 1]
    assert batch["target"][1, 0].numpy().tolist() == values[2, -8:].tolist()
    few = split_windows(SeriesData(table, test=0.2, validation=0.2, few=0.05), 32, 8, together=False)
    assert len(few) == 3 * 4 and few.fetch([3])["target"][0, 0].numpy().tolist() == values[0, 112:120].tolist()
    assert windows[5]["series"].equal(windows.fetch([4, 5])["series"][1])


def test_training_windows_at_coarser_rates_too(table, tmp_path):
    data = SeriesData(table, test=0.2, validation=0.2, targets=("a", "b"), future_covariates=("open",), coarser=(2, 5))
    plain, windows = split_windows(replace(data, {"coarser": ()}), 32, 8, together=True), split_windows(data, 32, 8, together=True)
    assert len(windows.held_out) == len(plain.held_out) and len(windows) == len(plain) + (60 - 8 - 17 + 1) + (24 - 8 - 8 + 1)
    batch, values = windows.fetch([len(plain), len(windows) - 1]), windows.values[0][:, :120]
    assert batch["frequency"].tolist() == [TOKENS["2min"], TOKENS["5min"]] and batch["future_covariates"].shape == (2, 1, 40)
    np.testing.assert_allclose(batch["target"][1], values.reshape(2, 24, 5).mean(2)[:, -8:], rtol=1e-5)  # nothing of validation or test
    opened = windows.items[0].future_covariates[:, :120].reshape(1, 60, 2).mean(2)
    np.testing.assert_allclose(batch["future_covariates"][0, :, 32:], opened[:, 17:25], rtol=1e-5)
    with pytest.raises(DataError, match="by 9"):
        split_windows(replace(data, {"coarser": (2, 9)}), 32, 8, together=True)


def test_down_sampling_counts_what_is_there():
    item = Item("x", np.array([[7.0, 1, 3, np.nan, 5, np.nan, np.nan]]), times=np.arange(7).astype("datetime64[D]"), frequency="ME")
    found = down_sampled(item, 2, 7)
    np.testing.assert_array_equal(found.values, [[2, 5, np.nan]])
    assert found.times.tolist() == item.times[[1, 3, 5]].tolist() and found.frequency == "2ME"


@pytest.mark.parametrize(("frequency", "factor", "wanted"), [("15min", 4, "h"), ("h", 24, "D"), ("D", 7, "W"), ("ME", 3, "QE"), ("ME", 12, "YE"), ("QE", 4, "YE"), ("B", 5, "W"), ("D", 2, "2D")])
def test_coarser_intervals(frequency, factor, wanted):
    assert coarser(frequency, factor) == wanted


def test_short_series_and_gaps(tmp_path):
    np.save(tmp_path / "x.npy", np.where(np.arange(60) % 7 == 0, np.nan, np.arange(60.0)))
    windows = split_windows(SeriesData(str(tmp_path / "x.npy")), 32, 8, together=False)
    batch = windows.fetch([0])
    assert batch["series"].shape == (1, 1, 32) and not batch["observed"][0, 0, :10].any() and batch["series"].isfinite().all() and not batch["observed"].all()
    np.save(tmp_path / "x.npy", np.arange(20.0))
    with pytest.raises(DataError, match="long enough"):
        split_windows(SeriesData(str(tmp_path / "x.npy")), 32, 8, together=False)


def test_the_command_measures_zero_shot_first_and_improves(start, table, tmp_path, caplog):
    caplog.set_level("INFO", "zoo")
    options = ["--train.steps", "40", "--train.evaluate.every", "20", "--train.optim.lr", "3e-3", "--train.pictures", "1", "--data.future_covariates", "open", "--to", str(tmp_path / "run")]
    assert main([table, "--model", start, *options]) == 0
    text = caplog.text
    assert text.index("Before training (zero-shot): loss") < text.index("step 20:") and "relative_mae" in text
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    validation, test = record["evaluations"]
    assert validation["split"] == "validation" and "zero-shot" in validation["detail"] and validation["value"] < float(validation["detail"].rpartition("zero-shot ")[2])
    assert test["value"] < 0.9 * float(test["detail"].rpartition("zero-shot ")[2])
    model = zoo.from_pretrained(tmp_path / "run" / "export")
    assert model.config.exogenous == (2,) and model.preprocess.targets == ("a", "b") and list((tmp_path / "run" / "pictures").glob("*.png"))
    raw = {"series": np.ones((2, 40)), "future_covariates": np.zeros((1, 48))}
    assert model.forecast(model.preprocess(raw), 8).point.shape == (1, 2, 8)
    with pytest.raises(DataError, match="end 4 steps before the end of the horizon of 12"):
        model.forecast(model.preprocess(raw), 12)


def test_what_is_added_changes_nothing_before_training(start):
    model, batch = zoo.from_pretrained(start), {"series": torch.randn(2, 3, 40)}
    mixing = model.extended({"decoder_mode": "mix_channel", "num_input_channels": 3})
    assert mixing.forecast(batch, 8).quantiles.allclose(model.forecast(batch, 8).quantiles, atol=1e-5)
    with pytest.raises(ModelError, match="d_model cannot be changed"):
        model.extended({"d_model": 32})


def test_a_probe_leaves_the_backbone_as_it_is(start, table):
    recipe = default_recipe(start, "probe", table)
    _, objective = recipe.build()
    trained = {name for name, parameter in objective.model.named_parameters() if parameter.requires_grad}
    assert trained and not any(name.startswith("backbone.") for name in trained)
    scratch = replace(default_recipe(start, "linear", table), {"scratch": True}).build()[1].model
    assert not scratch.state_dict()["backbone.encoder.patcher.weight"].equal(objective.model.state_dict()["backbone.encoder.patcher.weight"])


def test_worse_than_before_is_said(caplog):
    assert compared(0.5, 0.6, "zero-shot", "on validation") == "zero-shot 0.6000" and not caplog.text
    assert "which was better" in compared(0.7, 0.6, "zero-shot", "on validation") and "made the model worse on validation: 0.7000, and 0.6000 zero-shot" in caplog.text


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"horizon": 9}, ConfigError, "1 to 8"),
        ({"model": ""}, ConfigError, "Say which model"),
        ({"model": "vision/mae-tiny-digits"}, ModelError, "does not forecast"),
        ({"data.path": ""}, ConfigError, "data.path is empty"),
        ({"data.targets": ("c",)}, DataError, "has no column 'c'"),
        ({"data.path": "nowhere.csv"}, DataError, "no file or folder nowhere.csv"),
    ],
)
def test_what_cannot_be_trained(start, table, changes, error, message):
    with pytest.raises(error, match=message):
        replace(default_recipe(start, "linear", table), changes).build()


@pytest.mark.parametrize("fields", [dict(test=0.0), dict(test=0.6, validation=0.4), dict(few=0.0), dict(coarser=(1,)), dict(coarser=(2, 2))])
def test_bad_splits(fields):
    with pytest.raises(ConfigError):
        SeriesData("x.csv", **fields)
