import os

import pytest
import torch

from trainer.errors import CheckpointError
from trainer.files import atomic_folder, read_json, remove_leftovers, write_json, write_text
from trainer.weights import read_safetensors, require_finite, write_safetensors


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_folder_appears_complete(tmp_path):
    with atomic_folder(tmp_path / "a") as folder:
        (folder / "x").write_text("1")
        assert not (tmp_path / "a").exists()
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["x"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_half_written(tmp_path, error):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("1")
    with pytest.raises(error):
        with atomic_folder(tmp_path / "a", replace=True) as folder:
            (folder / "new").write_text("2")
            raise error
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["old"]


def test_replace_and_refuse(tmp_path):
    for text in ("1", "2"):
        with atomic_folder(tmp_path / "a", replace=True) as folder:
            (folder / text).write_text(text)
    assert names(tmp_path / "a") == ["2"] and names(tmp_path) == ["a"]
    with pytest.raises(CheckpointError, match="exists already"):
        with atomic_folder(tmp_path / "a"):
            pass


def test_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file, not a folder"):
        with atomic_folder(tmp_path / "file" / "a"):
            pass
    with pytest.raises(CheckpointError, match="Cannot write"):
        write_text(tmp_path / "file" / "a.txt", "x")


def test_full_disk(tmp_path, full_disk):
    write_json(tmp_path / "a.json", {"old": 1})
    full_disk(10_000)
    with pytest.raises(CheckpointError, match="Cannot write"):
        write_text(tmp_path / "a.json", "x" * 100_000)
    with pytest.raises(CheckpointError, match="Cannot write"):
        with atomic_folder(tmp_path / "model") as folder:
            write_safetensors({"w": torch.zeros(100_000)}, folder / "model.safetensors")
    full_disk(10**9)
    assert names(tmp_path) == ["a.json"] and read_json(tmp_path / "a.json") == {"old": 1}


def test_leftovers_of_a_killed_process(tmp_path):
    (tmp_path / ".tmp-step-1-ab").mkdir()
    (tmp_path / ".tmp-x").write_text("")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == []


def test_json_errors(tmp_path):
    with pytest.raises(CheckpointError, match="missing"):
        read_json(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        read_json(tmp_path / "bad.json")
    with pytest.raises(ValueError):
        write_json(tmp_path / "nan.json", {"a": float("nan")})
    assert not (tmp_path / "nan.json").exists()


@pytest.mark.parametrize(
    "text, words",
    [
        ('{"a": 1, "a": 2}', "the name 'a' stands twice"),
        ('{"b": [{"a": 1, "c": 0, "a": 1}]}', "'a' stands twice"),
        ('{"a": NaN}', "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("[1e400]", "'1e400' is too large"),
        ("9" * 5000, "not valid JSON"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("\ufeff{}", "not valid JSON"),
        ("{} x", "not valid JSON"),
        ("", "not valid JSON"),
        (" " * 2**24 + "{}", "far more than any config"),
    ],
)  # fmt: skip
def test_json_that_readers_take_in_different_ways_is_refused(tmp_path, text, words):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        read_json(tmp_path / "a.json")
    assert words in str(caught.value) and str(tmp_path / "a.json") in str(caught.value) and len(str(caught.value)) < 500


def test_json_that_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xe9"}')
    for path, words in [(tmp_path / "pipe.json", "pipe"), ("/dev/zero", "device"), (tmp_path, "folder"), (tmp_path / "latin.json", "not valid JSON"), ("a\0b", "Cannot read")]:
        with pytest.raises(CheckpointError, match=words):
            read_json(path)


def good(path):
    write_safetensors({"a": torch.arange(100.0), "b": torch.ones(3, dtype=torch.int64)}, path)
    return path.read_bytes()


def test_safetensors_round_trip(tmp_path):
    good(tmp_path / "m.safetensors")
    read = read_safetensors(tmp_path / "m.safetensors")
    assert read["a"].equal(torch.arange(100.0)) and read["b"].dtype == torch.int64


@pytest.mark.parametrize(
    "content, words",
    [
        (lambda b: b[:-40], "truncated"),
        (lambda b: b[:20], "truncated"),
        (lambda b: b + b"xx", "truncated or padded"),
        (lambda b: b"", "empty"),
        (lambda b: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "git-LFS pointer"),
        (lambda b: b"<!DOCTYPE html><html>login</html>", "HTML page"),
        (lambda b: b"\n <html>", "HTML page"),
        (lambda b: b"PK\x03\x04" + bytes(100), "pickle"),
        (lambda b: b"\x80\x02}q\x00." + bytes(100), "pickle"),
        (lambda b: b"hello there, this is text", "not a safetensors file"),
        (lambda b: b[:8] + b"[" + b[9:], "not a readable safetensors"),
    ],
)
def test_says_what_a_bad_file_is(tmp_path, content, words):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content(good(path)))
    with pytest.raises(CheckpointError) as error:
        read_safetensors(path)
    assert words in str(error.value) and "m.safetensors" in str(error.value)


def test_missing_file_and_nan(tmp_path):
    with pytest.raises(CheckpointError, match="missing"):
        read_safetensors(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="NaN"):
        require_finite({"a": torch.tensor([1.0, float("nan")])}, "the model")
