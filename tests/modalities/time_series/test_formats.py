"""Files of series: what is read, and what is said of files that cannot be."""

import json

import numpy as np
import pytest

from modalities.time_series.formats import open_path
from modalities.time_series.formats.times import infer, parse
from trainer.errors import DataError


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return path


def only(path):
    (data,) = open_path(path)
    return data


def test_wide_tables_have_a_channel_per_column_and_gaps_where_a_time_is_missing(tmp_path):
    data = only(write(tmp_path, "a.csv", "date,load,price\n2020-01-01,1,5\n2020-02-01,,6\n2020-04-01,3,NA\n2020-05-01,4,8\n"))
    (item,) = data.items
    assert (data.name, data.frequency, data.season, item.channels) == ("a", "ME", 12, ("load", "price"))
    np.testing.assert_array_equal(item.values, [[1, np.nan, np.nan, 3, 4], [5, 6, np.nan, np.nan, 8]])
    assert str(item.times[2])[:7] == "2020-03"


def test_long_tables_have_a_series_per_name_in_whatever_order_the_rows_are(tmp_path):
    rows = "item_id,timestamp,target,heat\nB,2020-01-01,7,1\nA,2020-01-01,1,2\nA,2020-01-02,2,3\nB,2020-01-02,8,4\nA,2020-01-04,4,5\nB,2020-01-03,9,6\n"
    data = only(write(tmp_path, "long.csv", rows))
    assert [item.name for item in data.items] == ["A", "B"] and data.frequency == "D"
    np.testing.assert_array_equal(data.items[0].values, [[1, 2, np.nan, 4]])
    np.testing.assert_array_equal(data.items[1].past_covariates, [[1, 4, 6]])


def test_tables_without_header_or_time_or_with_other_delimiters(tmp_path):
    np.testing.assert_array_equal(only(write(tmp_path, "a.csv", "1\n2\n\n3\n")).items[0].values, [[1, 2, 3]])
    np.testing.assert_array_equal(only(write(tmp_path, "b.csv", ",x;y\n".replace(",", "") + "1;2\n3;4\n")).items[0].values, [[1, 3], [2, 4]])
    np.testing.assert_array_equal(only(write(tmp_path, "c.tsv", "ds\ty\n1959Q1\t1\n1959Q2\t2\n1959Q3\t3\n")).items[0].values, [[1, 2, 3]])
    assert only(write(tmp_path, "d.csv", ",y\n0,5\n1,6\n")).items[0].channels == ()  # the row numbers that pandas writes


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty"),
        ("date,a\n", "no rows"),
        ("date,a\n2020-01-01,1\n2020-01-02,x\n", r"row 3, column 'a': 'x' is no number"),
        ("date,a\n2020-01-01,1,5\n2020-01-02,2\n", "row 2 has 3 fields"),
        ('date,a\n2020-01-01,"1,5"\n', "decimals with a point"),
        ("date,a\n2020-01-02,1\n2020-01-01,2\n", "row 3: the time 2020-01-01T00:00:00 comes after"),
        ("date,a\n2020-01-01,1\n2020-01-01,2\n", "row 3: the time 2020-01-01T00:00:00 is there twice"),
        ("date,a\n2020-01-01,1\n2020-01-02,inf\n", "row 3, column 'a' is infinite"),
        ("date,a\n2020-01-01,\n2020-01-02,\n", "no series with a value"),
        ("date,a\nmonday,1\ntuesday,2\n", "'monday' is no time"),
        ("date\n2020-01-01\n", "no column with numbers"),
        ("date,a,a\n2020-01-01,1,2\n", "two columns called 'a'"),
        ("item_id,date,target\nA,2020-01-02,1\nB,2020-01-01,1\nA,2020-01-01,1\n", "series 'A', row 4"),
    ],
)
def test_errors_of_tables_name_row_and_column(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as caught:
        open_path(write(tmp_path, "bad.csv", text))
    assert "bad.csv" in str(caught.value)


def test_folders_give_a_set_per_file_and_per_frequency(tmp_path):
    write(tmp_path, "a.csv", "1\n2\n")
    write(tmp_path, ".hidden.csv", "1\n2\n")
    write(tmp_path, "read.me", "")
    rows = [{"target": [1, 2, None], "start": "2020-01-01", "freq": "H", "item_id": "x"}, {"target": [[1, 2], [3, 4]], "freq": "D"}]
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", "b.jsonl", "\n".join(map(json.dumps, rows)))
    found = {data.name: data for data in open_path(tmp_path)}
    assert list(found) == ["a", "sub/b [h]", "sub/b [D]"]
    assert np.isnan(found["sub/b [h]"].items[0].values[0, 2]) and found["sub/b [D]"].items[0].values.shape == (2, 2)
    with pytest.raises(DataError, match="no series in"):
        open_path(tmp_path / "sub" / "..").clear() or (tmp_path / "empty").mkdir() or open_path(tmp_path / "empty")
    with pytest.raises(DataError, match="no file or folder"):
        open_path(tmp_path / "absent")


def test_covariates_of_gluonts_must_fit(tmp_path):
    row = {"target": [1, 2, 3], "feat_dynamic_real": [[1, 2, 3, 4]], "feat_static_real": [7]}
    item = only(write(tmp_path, "a.jsonl", json.dumps(row))).items[0]
    assert item.future_covariates.shape == (1, 4) and item.static.tolist() == [7]
    with pytest.raises(DataError, match="line 1: `feat_dynamic_real` has 2 steps"):
        open_path(write(tmp_path, "b.jsonl", json.dumps({**row, "feat_dynamic_real": [[1, 2]]})))
    with pytest.raises(DataError, match="line 1.*holds no numbers"):
        open_path(write(tmp_path, "c.jsonl", json.dumps({"target": ["x"]})))


def test_arrow_and_parquet(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    days = np.array(["2020-01-01", "2020-01-02", "2020-01-03"], "datetime64[ns]")
    parquet.write_table(arrow.table({"item_id": ["A", "A", "A"], "ds": days, "y": [1.0, None, 3.0]}), tmp_path / "long.parquet")
    item = only(tmp_path / "long.parquet").items[0]
    assert item.frequency == "D" and item.name == "A"
    np.testing.assert_array_equal(item.values, [[1, np.nan, 3]])
    with arrow.OSFile(str(tmp_path / "rows.arrow"), "wb") as file, arrow.ipc.new_stream(file, arrow.schema([("target", arrow.list_(arrow.float64())), ("freq", arrow.string())])) as writer:
        writer.write_table(arrow.table({"target": [[1.0, 2.0], [3.0]], "freq": ["W", "W"]}))
    assert [i.length for i in only(tmp_path / "rows.arrow").items] == [2, 1]
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        open_path(tmp_path / "bad.parquet")


def test_archives_of_monash_and_of_ucr(tmp_path):
    tsf = "# c\n@relation x\n@attribute series_name string\n@attribute start_timestamp date\n@frequency monthly\n@horizon 3\n@data\nT1:1979-01-01 00-00-00:1,?,3\nT2:1980-01-01 00-00-00:5\n"
    data = only(write(tmp_path, "a.tsf", tsf))
    assert data.steps_ahead == 3 and data.frequency == "ME" and [i.name for i in data.items] == ["T1", "T2"]
    assert str(data.items[0].times[2])[:7] == "1979-03" and np.isnan(data.items[0].values[0, 1])
    items = only(write(tmp_path, "b.ts", "@problemName x\n@classLabel true up down\n@data\n1,2,3:4,5:up\n1,2:3,4:down\n")).items
    assert [i.label for i in items] == ["up", "down"] and items[0].values.shape == (2, 3)
    with pytest.raises(DataError, match="line 3, value 2: 'x' is no number"):
        open_path(write(tmp_path, "c.tsf", "@attribute series_name string\n@data\nT1:1,x\n"))


def test_arrays_are_mapped(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(12.0).reshape(2, 6))
    item = only(tmp_path / "a.npy").items[0]
    assert isinstance(item.values.base, np.memmap) or isinstance(item.values, np.memmap)
    np.savez(tmp_path / "b.npz", one=np.arange(3), two=np.zeros((2, 1, 5), np.float32))
    assert [(i.name, i.values.shape) for i in only(tmp_path / "b.npz").items] == [("one", (1, 3)), ("two 0", (1, 5)), ("two 1", (1, 5))]
    np.savez(tmp_path / "c.npz", one=np.array([{}], object))
    with pytest.raises(DataError, match="no npz file of numbers"):
        open_path(tmp_path / "c.npz")


def packed(samples):
    """Two 12-bit samples in three bytes, as format 212 has them."""
    out = bytearray()
    for a, b in samples:
        a, b = a & 0xFFF, b & 0xFFF
        out += bytes((a & 0xFF, (a >> 8) | (b >> 8) << 4, b & 0xFF))
    return bytes(out)


def test_biosignals(tmp_path):
    (tmp_path / "r.dat").write_bytes(packed([(100, -100), (2047, -2048), (0, 1)]))
    write(tmp_path, "r.hea", "r 2 360 3\nr.dat 212 200(0)/mV 11 0 0 0 0 MLII\nr.dat 212 100/mV 11 10 0 0 0 V5\n# a comment\n")
    item = only(tmp_path / "r.hea").items[0]
    assert item.channels == ("MLII", "V5") and item.static.tolist() == [360]
    np.testing.assert_allclose(item.values, [[0.5, 2047 / 200, 0], [-1.1, np.nan, -0.09]])
    (tmp_path / "m.mat").write_bytes(bytes(24) + np.array([[1, 2], [3, 4]], "<i2").tobytes())
    write(tmp_path, "m.hea", "m 2 1 2\nm.mat 16+24 1000/mV 16 0 1 0 0 I\nm.mat 16+24 1000/mV 16 0 2 0 0 II\n")
    assert only(tmp_path / "m.hea").frequency == "s"
    np.testing.assert_allclose(only(tmp_path / "m.hea").items[0].values * 1000, [[1, 3], [2, 4]])
    write(tmp_path, "m.hea", "m 1 1 9\nm.mat 16+24 1000/mV 16 0 1 0 0 I\n")
    with pytest.raises(DataError, match="cut off"):
        open_path(tmp_path / "m.hea")


def test_times_and_their_intervals():
    def stamps(*texts):
        return parse(texts, "here")

    assert infer(stamps("2020-01-31", "2020-02-29", "2020-03-31", "2020-06-30")) == "ME"
    assert infer(stamps("1959Q1", "1959Q2", "1959Q4")) == "QE" and infer(stamps("1871", "1872", "1875")) == "YE"
    assert infer(stamps("2024-01-01T00:00Z", "2024-01-01T00:15Z", "2024-01-01T01:00Z")) == "15min"
    assert infer(stamps(*(f"2024-01-{day:02d}" for day in (1, 2, 3, 4, 5, 8, 9)))) == "B" and infer(stamps("2024-01-01", "2024-01-08", "2024-01-22")) == "W"
    assert infer(stamps("2024-01-01 00:00:00", "2024-01-01 00:00:07", "2024-01-01 03:00:01", "2024-01-02 00:00:00")) is None
    assert str(stamps("13/01/2020", "14/01/2020", "15/01/2020")[0]) == "2020-01-13T00:00:00"
    with pytest.raises(DataError, match="which the month"):
        stamps("01/02/2020", "01/02/2021")
