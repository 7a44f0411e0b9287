import json

import numpy as np
import pytest
import torch

from trainer.data import Stream, batches, ordered_batches, sample_id
from trainer.errors import DataError
from trainer.sources import Arrays, FileTable, open_arrays


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {"series": rng.normal(size=(20, 3, 5)).astype(np.float32), "label": np.arange(20)}


def same(source, arrays):
    batch = torch.cat([b["label"] for b in ordered_batches(source, 6)])
    assert batch.tolist() == arrays["label"].tolist()
    batch = source.fetch([7, 2, 19])
    assert batch["series"].equal(torch.from_numpy(arrays["series"][[7, 2, 19]])) and source[4]["label"] == 4


def test_arrays_in_memory_and_in_files(tmp_path, arrays):
    same(Arrays(arrays), arrays)
    np.savez(tmp_path / "a.npz", **arrays)
    np.savez_compressed(tmp_path / "c.npz", **arrays)
    (tmp_path / "d").mkdir()
    for name, array in arrays.items():
        np.save(tmp_path / "d" / f"{name}.npy", array)
    for path, mapped in (("a.npz", True), ("c.npz", False), ("d", True)):
        source = open_arrays(tmp_path / path)
        same(source, arrays)
        assert isinstance(source.arrays["series"], np.memmap) == mapped == (not source.in_memory)
    assert open_arrays(tmp_path / "d" / "series.npy").arrays["data"].shape == (20, 3, 5)
    assert source.describe() == {"name": "d", "samples": 20, "arrays": {"label": "int64 ()", "series": "float32 (3, 5)"}}
    assert len(list(batches(source, 4, 0, 0, 5, workers=1))) == 5


def test_other_byte_orders_and_layouts(tmp_path):
    np.save(tmp_path / "a.npy", np.asfortranarray(np.arange(12, dtype=">f4").reshape(4, 3)))
    assert open_arrays(tmp_path / "a.npy")[1]["data"].tolist() == [3, 4, 5]


class Bomb:
    def __reduce__(self):
        return (open, ("/tmp/should-not-exist", "w"))


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_arrays_that_are_refused(tmp_path, kind):
    path = tmp_path / f"a.{kind}"

    def refused(message):
        with pytest.raises(DataError, match=message) as caught:
            open_arrays(path)
        assert f"a.{kind}" in str(caught.value)

    save = np.save if kind == "npy" else np.savez
    save(path, np.array([Bomb()], object))
    refused("Python objects")
    save(path, np.array(["text"]))
    refused("arrays of numbers")
    save(path, np.ones((5, 5)))
    good = path.read_bytes()
    path.write_bytes(good[:-30])
    refused("damaged")
    path.write_bytes(good.replace(b"(5, 5)", b"(9, 9)"))
    refused("damaged|empty")
    path.write_bytes(b"")
    refused("damaged")
    path.unlink()
    refused("cannot be read")


def test_arrays_of_different_length():
    with pytest.raises(DataError, match=r"one row for each sample, found a float64 \(3,\), b float64 \(4, 2\)"):
        Arrays({"a": np.ones(3), "b": np.ones((4, 2))})


def test_a_table_of_files(tmp_path):
    rows = [{"path": "a/1.jpg", "label": "cat, black"}, {"path": str(tmp_path / "2.jpg"), "label": "dog"}]
    (tmp_path / "t.csv").write_text('\ufeffpath,label\na/1.jpg,"cat, black"\n' + f"{tmp_path}/2.jpg,dog\n")
    (tmp_path / "t.tsv").write_text(f"label\tpath\ncat, black\ta/1.jpg\ndog\t{tmp_path}/2.jpg\n")
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    for ending in ("csv", "tsv", "jsonl", "parquet"):
        table = FileTable(tmp_path / f"t.{ending}")
        assert [table.path(i) for i in (0, 1)] == [tmp_path / "a/1.jpg", tmp_path / "2.jpg"] and table.columns["label"] == ["cat, black", "dog"]
        assert table.id(0) == "a/1.jpg" and len(table) == 2


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("t.csv", "paht,label\na,b\n", "no column 'path', only paht, label. Did you mean 'paht'"),
        ("t.csv", "path,label\n", "no rows"),
        ("t.csv", "path,label\na.jpg,1\nb.jpg,1,2\n", "Row 2 of"),
        ("t.csv", "path,label\na.jpg,1\n,1\n", "Row 2 of"),
        ("t.csv", 'path,label\n"a.jpg,1\n', "damaged"),
        ("t.csv", b"path\n\xff\xfe.jpg\n", "no UTF-8"),
        ("t.jsonl", "[1]\n", "Line 1 of"),
        ("t.jsonl", '{"path": 3}\n', "Row 1 of"),
        ("t.jsonl", "{", "damaged"),
        ("t.xls", "x", "no table"),
        ("t.parquet", "PAR1 cut", "damaged, or no parquet"),
    ],
)
def test_tables_that_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        FileTable(tmp_path / name)


def test_parquet(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from trainer.parquet import ParquetTable

    def write(file, rows, **columns):
        columns = {"x": [[i, i + 0.5] for i in rows], "label": list(rows), "name": [f"n{i}" for i in rows], **columns}
        parquet.write_table(arrow.table(columns), tmp_path / "p" / file, row_group_size=7)

    (tmp_path / "p").mkdir()
    write("a-0.parquet", range(30))
    write("a-1.parquet", range(30, 50))
    for path in (str(tmp_path / "p"), f"{tmp_path}/p/a-{{0..1}}.parquet"):
        table = ParquetTable(path)
        assert len(table) == 50 and table.counts.tolist() == [7, 7, 7, 7, 2, 7, 7, 6]
        assert table[33]["x"].tolist() == [33, 33.5] and table[33]["name"] == "n33" and sample_id(table, 33) == "a-1.parquet#3" and table.id(29) == "a-0.parquet#29"
    seen = [batch for workers in (0, 1) for batch in Stream(ParquetTable(path, ("x", "label")), 10, 0, 5).batches(0, workers)]
    assert sorted(torch.cat([b["label"] for b in seen[:5]]).tolist()) == list(range(50))
    assert all(a["x"].equal(b["x"]) for a, b in zip(seen[:5], seen[5:]))
    with pytest.raises(DataError, match="no column 'lable'. Did you mean 'label'"):
        ParquetTable(path, ("lable",))
    write("a-1.parquet", range(3), name=["n", None, "n"])
    with pytest.raises(DataError, match="a-1.parquet#1 has no value in the column 'name'"):
        ParquetTable(path)[31]
    write("a-1.parquet", range(3), other=[1, 2, 3])
    with pytest.raises(DataError, match="other columns"):
        ParquetTable(path)
    (tmp_path / "p" / "a-1.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="a-1.parquet cannot be read as parquet"):
        ParquetTable(path)


def test_parquet_without_pyarrow(monkeypatch):
    import sys

    from trainer.errors import MissingDependencyError
    from trainer.parquet import ParquetTable

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingDependencyError, match=r"modality-zoo\[data\]"):
        ParquetTable("x.parquet")
