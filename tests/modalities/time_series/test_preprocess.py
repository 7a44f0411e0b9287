"""Raw series -> batch."""

import numpy as np
import pandas as pd
import pytest
import torch

from modalities.common.preprocess import Preprocess
from modalities.time_series.frequency import normalise, seasonality, token
from modalities.time_series.preprocess import SeriesPreprocess
from trainer.errors import ConfigError, DataError

PLAIN = SeriesPreprocess()


@pytest.mark.parametrize("raw", [[1, 2.5, None], np.array([1, 2.5, np.nan]), torch.tensor([[1, 2.5, torch.nan]]), [[1, 2.5, None]], pd.DataFrame({"a": [1, 2.5, None]}), pd.Series([1, 2.5, None]), {"series": [1, 2.5, None]}])
def test_one_series_in_every_form(raw):
    batch = PLAIN(raw)
    assert batch["series"].tolist() == [[[1.0, 2.5, 0.0]]] and batch["observed"].tolist() == [[[True, True, False]]]
    assert batch["series"].dtype == torch.float32 and batch["frequency"].tolist() == [0]


def test_several_series_of_different_lengths_end_together():
    batch = PLAIN([np.arange(5.0), np.array([7.0, 8.0])])
    assert batch["series"][1, 0].tolist() == [0, 0, 0, 7, 8] and batch["observed"][1, 0].tolist() == [False] * 3 + [True] * 2
    assert PLAIN(np.zeros((3, 2, 4)))["series"].shape == (3, 2, 4) and PLAIN([np.zeros((2, 4)), np.zeros((2, 3))])["series"].shape == (2, 2, 4)


def test_a_table_with_covariates_ends_where_its_targets_end():
    table = pd.DataFrame({"y": [1.0, 2, 3, np.nan, np.nan], "hot": [0.0, 1, 0, 1, 0], "seen": [5.0, 6, 7, np.nan, np.nan]})
    preprocess = SeriesPreprocess(targets=("y",), past_covariates=("seen",), future_covariates=("hot",), context_length=2, frequency="15T")
    batch = preprocess(table)
    assert batch["series"].tolist() == [[[2.0, 3.0]]] and batch["future_covariates"].tolist() == [[[1.0, 0.0, 1.0, 0.0]]]
    assert batch["past_covariates"].tolist() == [[[6.0, 7.0]]] and batch["frequency"].tolist() == [5]
    with pytest.raises(DataError, match="no column 'hot'"):
        preprocess(table.rename(columns={"hot": "warm"}))


def test_a_mapping_of_several():
    batch = PLAIN({"series": [np.arange(3.0), np.arange(2.0)], "static": [[1.0], [2.0]], "frequency": "h"})
    assert batch["static"].tolist() == [[1.0], [2.0]] and batch["frequency"].tolist() == [7, 7]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "the list is empty"),
        (np.zeros(0), "at least one point"),
        (np.zeros((0, 1, 3)), "the list is empty"),
        ([1.0, np.inf], "Point 1 of the series is inf"),
        (np.array([[1.0, 2.0], [-np.inf, 2.0]]), "Point 0 of channel 1 of the series is -inf"),
        ([1e39], "Point 0 of the series is 1e"),
        ([np.nan, None], "Channel 0 of the series has no value at all"),
        (["a", "b"], "must be numbers"),
        (np.array([1 + 2j]), "complex"),
        ("text", "must be numbers"),
        (None, r"found the shape \(\)"),
        ({"serie": [1.0]}, "Did you mean 'series'"),
        ([np.zeros((2, 4)), np.zeros(4)], "same number of channels, found 1 and 2"),
        ({"series": [1.0, 2.0], "future_covariates": [1.0, 2.0]}, "end after 2 points, and the series after 2"),
        ({"series": [1.0, 2.0], "past_covariates": [1.0]}, "1 points and the series 2"),
        ({"series": [1.0, 2.0], "future_covariates": [1.0, 2.0, None]}, "missing values"),
        ({"series": [[1.0], [2.0]], "static": [[1.0]]}, "2 series and 1 of static"),
        (np.zeros((1, 1, 1, 4)), r"found the shape \(1, 1, 1, 4\)"),
    ],
)
def test_what_is_no_series(raw, message):
    with pytest.raises(DataError, match=message):
        PLAIN(raw)


def test_one_point_constant_series_and_many_channels_are_taken():
    assert PLAIN([3.0])["series"].shape == (1, 1, 1) and PLAIN(np.full(9, 4.0))["observed"].all()
    assert PLAIN(np.zeros((10_000, 8)))["series"].shape == (1, 10_000, 8)


def test_it_is_stored_and_read_back(tmp_path):
    preprocess = SeriesPreprocess(512, "h", ("y",), ("p",), ("f",))
    preprocess.save(tmp_path)
    assert Preprocess.load(tmp_path) == preprocess


@pytest.mark.parametrize("fields", [dict(context_length=0), dict(frequency="sometimes"), dict(targets=("a",), past_covariates=("a",))])
def test_bad_fields(fields):
    with pytest.raises(ConfigError):
        SeriesPreprocess(**fields)


@pytest.mark.parametrize(
    ("said", "one"),
    [("H", "h"), ("h", "h"), ("60T", "h"), ("60min", "h"), ("15T", "15min"), ("hourly", "h"), ("24h", "D"), ("7D", "W"), ("W-SUN", "W"), ("M", "ME"), ("MS", "ME"),
     ("QS-OCT", "QE"), ("A-DEC", "YE"), ("Y", "YE"), ("3600s", "h"), ("B", "B"), ("S", "s"), ("4h", "4h")],
)  # fmt: skip
def test_every_spelling_of_an_interval(said, one):
    assert normalise(said) == one


def test_tokens_and_seasons():
    assert [token(f) for f in (None, "T", "2min", "H", "D", "W", "M", "45min")] == [0, 1, 2, 7, 8, 9, 10, 0]
    assert [seasonality(f) for f in (None, "s", "15min", "h", "2h", "D", "B", "W", "ME", "QE", "YE", "7h")] == [1, 3600, 96, 24, 12, 1, 5, 1, 12, 4, 1, 1]
    for word in ("", "0h", "fortnight", "h5"):
        with pytest.raises(DataError, match="no sampling interval"):
            normalise(word)
