"""Forecasts of files: `zoo predict`, its table, its picture and the times that follow."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from modalities import registry
from modalities.time_series.models.ttm import TTM
from modalities.time_series.models.ttm_config import TTMConfig
from modalities.time_series.preprocess import SeriesPreprocess
from modalities.time_series.tasks import predict, predict_ahead, write_example
from modalities.time_series.timeline import continued
from trainer.errors import ConfigError, DataError
from zoo.cli import main


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = TTM(TTMConfig(context_length=64, prediction_length=12, patch_length=16, d_model=16, decoder_d_model=8, num_layers=1, decoder_num_layers=1, missing="mean", multi_quantile_head=True)).eval()
    made.preprocess = SeriesPreprocess()
    return made


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_the_command_writes_a_table_and_a_picture(model, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    write_example(model, tmp_path)
    file = str(tmp_path / "series.csv")
    assert main(["predict", str(tmp_path / "model"), file, "--horizon", "30", "--to", str(tmp_path / "out.png")]) == 0
    rows = table(tmp_path / "out.csv")
    assert "30 steps ahead" in capsys.readouterr().out and (tmp_path / "out.png").stat().st_size > 10_000
    assert len(rows) == 30 and list(rows[0]) == ["series", "channel", "time", "forecast", *(f"q0.{i}" for i in range(1, 10))]
    assert [row["time"] for row in rows[:17:16]] == ["2024-01-09 08:00:00", "2024-01-10"] and rows[0]["channel"] == "0"
    loaded = zoo.from_pretrained(tmp_path / "model")
    said = loaded.forecast(loaded.preprocess({"series": np.array([float(line.split(",")[1]) for line in Path(file).read_text().splitlines()[1:]]), "frequency": "h"}), 30)
    assert np.allclose([float(row["q0.9"]) for row in rows], said.quantiles[0, 8, 0].numpy(), rtol=1e-5)


def test_several_channels_and_files_and_the_usual_horizon(model, tmp_path):
    (tmp_path / "a.csv").write_text("month,x,y\n" + "".join(f"{2000 + i // 12}-{1 + i % 12:02d}-01,{i},{-i}\n" for i in range(30)))
    np.save(tmp_path / "b.npy", np.arange(50.0))
    assert "covariates" not in predict(model, [tmp_path / "a.csv", tmp_path / "b.npy"], tmp_path / "said.csv")
    rows = table(tmp_path / "said.csv")
    assert [row["channel"] for row in rows[:13:12]] == ["x", "y"] and rows[0]["time"] == "2002-07-01" and len(rows) == 12 * 2 + 24
    assert rows[24]["time"] == "1" and rows[24]["series"] == "b"


@pytest.mark.parametrize(
    ("content", "horizon", "error", "message"),
    [
        ("time,value\n", 5, DataError, "no rows"),
        ("time,value\n2024-01-01,a\n2024-01-02,b\n", 5, DataError, "bad.csv"),
        ("time,value\n2024-01-01,1\n2024-01-02,inf\n", 5, DataError, "bad.csv"),
        ("time,value\n2024-01-01,\n2024-01-02,\n", 5, DataError, "bad.csv"),
        ("time,value\n2024-01-01,1\n2024-01-02,2\n", 0, ConfigError, "1 to 100,000"),
        ("time,value\n2024-01-01,1\n2024-01-02,2\n", 1_000_000, ConfigError, "1 to 100,000"),
    ],
)
def test_what_cannot_be_forecast_leaves_nothing_behind(model, tmp_path, content, horizon, error, message):
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(error, match=message):
        predict_ahead(model, [tmp_path / "bad.csv"], tmp_path / "said.csv", horizon)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.csv"]


def test_constant_and_very_short_series_are_forecast(model, tmp_path):
    (tmp_path / "flat.csv").write_text("time,value\n" + "".join(f"2024-01-{i:02d},5\n" for i in range(1, 20)))
    predict_ahead(model, [tmp_path / "flat.csv"], tmp_path / "said.csv", 3)
    assert all(abs(float(row["forecast"]) - 5) < 0.1 for row in table(tmp_path / "said.csv"))
    np.save(tmp_path / "one.npy", np.array([7.0]))
    predict_ahead(model, [tmp_path / "one.npy"], tmp_path / "said.csv", 3)
    assert all(abs(float(row["forecast"]) - 7) < 0.1 for row in table(tmp_path / "said.csv"))


def test_horizons_are_for_forecasts_only():
    with pytest.raises(ConfigError, match="A horizon"):
        registry.load_task("vision", "predict_ahead", "A horizon (--horizon)")


@pytest.mark.parametrize(
    ("times", "frequency", "following"),
    [
        (["2024-01-30", "2024-01-31"], "D", ["2024-02-01", "2024-02-02"]),
        (["2024-01-31T22", "2024-01-31T23"], "h", ["2024-02-01T00", "2024-02-01T01"]),
        (["2024-01-31T23:30", "2024-01-31T23:45"], "15min", ["2024-02-01T00:00", "2024-02-01T00:15"]),
        (["2023-12-31", "2024-01-31"], "ME", ["2024-02-29", "2024-03-31"]),
        (["2024-01-01", "2024-02-01"], "ME", ["2024-03-01", "2024-04-01"]),
        (["2023-07-01", "2023-10-01"], "QE", ["2024-01-01", "2024-04-01"]),
        (["2019-02-28", "2020-02-29"], "YE", ["2021-02-28", "2022-02-28"]),
        (["2024-03-07", "2024-03-08"], "B", ["2024-03-11", "2024-03-12"]),
        (["2024-03-01", "2024-03-04"], None, ["2024-03-07", "2024-03-10"]),
        (["2024-03-01"], None, ["2024-03-02", "2024-03-03"]),
    ],
)  # fmt: skip
def test_the_times_that_follow(times, frequency, following):
    assert continued(np.array(times, "datetime64[ms]"), frequency, 2).tolist() == np.array(following, "datetime64[ms]").tolist()
