"""Safetensors files that lie about themselves."""

import json
import mmap
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from trainer import tensor_file
from trainer.errors import CheckpointError
from trainer.tensor_file import DTYPES, TensorFile, is_finite
from trainer.weights import read_safetensors

SOUND = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "b": {"dtype": "I64", "shape": [1], "data_offsets": [24, 32]}}


def write(path, header, data=bytes(32)):
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_every_type_reads_as_the_library_reads_it(tmp_path):
    tensors = {name: (torch.arange(12).reshape(3, 4) % 2).to(dtype) for name, dtype in DTYPES.items()}
    tensors |= {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4), "odd": torch.ones(3, dtype=torch.bool)}
    save_file(tensors, tmp_path / "x.safetensors", {"note": "hello"})
    file = TensorFile(tmp_path / "x.safetensors")
    assert file.metadata == {"note": "hello"} and file.entries.keys() == tensors.keys()
    for name, tensor in tensors.items():
        read = file.tensor(name)
        assert read.dtype == tensor.dtype and read.shape == tensor.shape
        assert read.view(torch.uint8).equal(tensor.view(torch.uint8)) if tensor.ndim else read == tensor


def test_writing_to_a_tensor_leaves_the_file_alone(tmp_path):
    save_file({"a": torch.arange(5000.0), "b": torch.ones(5000)}, tmp_path / "x.safetensors")
    before = (tmp_path / "x.safetensors").read_bytes()
    file = TensorFile(tmp_path / "x.safetensors")
    a, b = file.tensor("a"), file.tensor("b")
    a.fill_(7)
    file.forget("b")
    assert b.eq(1).all() and a.eq(7).all()
    assert (tmp_path / "x.safetensors").read_bytes() == before


def test_forgetting_gives_memory_back(tmp_path):
    if not hasattr(mmap, "MADV_DONTNEED"):
        pytest.skip("this system cannot")
    save_file({"a": torch.ones(10_000_000)}, tmp_path / "x.safetensors")
    file = TensorFile(tmp_path / "x.safetensors")
    file.tensor("a").sum()

    def mapped():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    full = mapped()
    file.forget("a")
    assert full - mapped() > 30_000_000


def entry(**changes):
    return {**SOUND, "a": {**SOUND["a"], **changes}}


@pytest.mark.parametrize(
    "header, words",
    [
        ('{"a": {"dtype":"F32","shape":[8],"data_offsets":[0,32]}, "a": {"dtype":"F32","shape":[8],"data_offsets":[0,32]}}', "the name 'a' stands twice"),
        ('{"a": {"dtype":"F32","shape":[8],"shape":[8],"data_offsets":[0,32]}}', "'shape' stands twice"),
        ('{"a": {"dtype":"F32","shape":[NaN],"data_offsets":[0,32]}}', "NaN is no number"),
        ('{"a": {"dtype":"F32","shape":[1e999],"data_offsets":[0,32]}}', "too large"),
        ('{"a": ' + "[" * 100_000, "nested too deeply"),
        (entry(data_offsets=[0, 32]), "does not take the 32 bytes"),
        ({**SOUND, "b": {**SOUND["b"], "data_offsets": [16, 24]}}, "overlaps .a."),
        (entry(data_offsets=[-4, 20]), r"the offsets \[-4, 20\]"),
        (entry(data_offsets=[24, 0]), r"the offsets \[24, 0\]"),
        (entry(data_offsets=[2**62, 2**62 + 24]), "leaves a hole"),
        (entry(data_offsets=[2**63, 2**63 + 24]), "the offsets"),
        (entry(data_offsets=[0, 24, 3]), "the offsets"),
        (entry(data_offsets="0,24"), "the offsets"),
        (entry(shape=[2**40, 2**40]), "does not take the 24 bytes"),
        (entry(shape=[-2, -3]), "the shape"),
        (entry(shape=[2.0, 3]), "the shape"),
        (entry(shape=[True, 6]), "the shape"),
        (entry(shape=6), "the shape"),
        (entry(dtype="F31"), "the type 'F31'"),
        (entry(dtype=["F32"]), "the type"),
        (entry(extra=1), "instead of dtype, shape and data_offsets"),
        ({**SOUND, "a": 5}, "instead of dtype, shape and data_offsets"),
        ({"b": {**SOUND["b"], "data_offsets": [24, 32]}}, "leaves a hole after the header"),
        ({"a": SOUND["a"]}, "truncated or padded: .* bytes were expected"),
        ({**SOUND, "c": {"dtype": "F32", "shape": [2], "data_offsets": [32, 40]}}, "truncated or padded"),
        ({**SOUND, "__metadata__": {"a": 1}}, "no mapping of text to text"),
        ({**SOUND, "__metadata__": []}, "no mapping of text to text"),
        ("[1, 2]" + " " * 40, "not a readable safetensors"),
        ('{"a": 1', "not valid JSON"),
    ],
)
def test_headers_that_lie_are_refused_with_the_reason(tmp_path, header, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        read_safetensors(write(tmp_path / "x.safetensors", header))
    assert "x.safetensors" in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize("length", [0, 1, 2**24 + 1, 2**62, 2**63, 2**64 - 1])
def test_lengths_that_lie_are_refused(tmp_path, length):
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", length) + b"{" * 40)
    with pytest.raises(CheckpointError, match="x.safetensors"):
        read_safetensors(tmp_path / "x.safetensors")


def test_a_huge_header_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file, "JSON_LIMIT", 100)
    with pytest.raises(CheckpointError, match="has a header of .* more than the 100"):
        read_safetensors(write(tmp_path / "x.safetensors", "{" + " " * 200 + "}"))


def test_a_sparse_giant_is_not_allocated(tmp_path):
    """A terabyte on a disk that holds none of it: its header is well-formed, nothing is read of it but that."""
    size = 2**40
    path = write(tmp_path / "x.safetensors", {"a": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}, b"")
    os.truncate(path, path.stat().st_size + size)
    assert TensorFile(path).entries["a"].size == size // 4


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "loop.safetensors").symlink_to("loop.safetensors")
    for name, words in [("pipe", "a pipe or device"), ("folder", "a folder"), ("loop", "Cannot read"), ("none", "is missing"), ("nul\0", "Cannot read")]:
        with pytest.raises(CheckpointError, match=words):
            read_safetensors(tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="a pipe or device"):
        read_safetensors("/dev/zero")


def test_a_file_that_shrinks_while_it_is_read_is_no_crash(tmp_path):
    save_file({"a": torch.ones(100_000)}, tmp_path / "x.safetensors")
    file = TensorFile(tmp_path / "x.safetensors")
    os.truncate(tmp_path / "x.safetensors", 5000)
    with pytest.raises(CheckpointError, match="became shorter"):
        file.tensor("a")


FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [float("nan"), -float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_found_wherever_they_are(tmp_path, dtype, bad):
    for place in (0, 7, 1000):
        tensors = {name: torch.full((1001,), -3.0, dtype=dtype) for name in "abc"}
        tensors["b"][place] = bad
        assert [is_finite(t) for t in tensors.values()] == [True, False, True]
        save_file(tensors, tmp_path / "x.safetensors")
        assert [name for search in TensorFile(tmp_path / "x.safetensors").searches() for name in search()] == ["b"]


@pytest.mark.parametrize("dtype", FLOATS)
def test_large_numbers_are_not_taken_for_infinity(tmp_path, dtype):
    most = torch.finfo(dtype).max
    tensors = {"a": torch.full((300,), most, dtype=dtype), "b": torch.full((300,), -most, dtype=dtype), "c": torch.zeros(300, dtype=dtype)}
    save_file(tensors, tmp_path / "x.safetensors")
    assert [name for search in TensorFile(tmp_path / "x.safetensors").searches() for name in search()] == []
    assert all(map(is_finite, tensors.values()))


def test_the_search_is_cut_into_runs_of_one_type(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file, "RUN", 1000)
    tensors = {f"f{i}": torch.ones(100) for i in range(7)} | {f"h{i}": torch.ones(100).half() for i in range(3)} | {"i": torch.ones(4, dtype=torch.int64)}
    tensors |= {"e": torch.zeros(0)}
    tensors["f5"][3] = tensors["h2"][9] = float("nan")
    save_file(tensors, tmp_path / "x.safetensors")
    searches = TensorFile(tmp_path / "x.safetensors").searches()
    assert len(searches) == 5 and sorted(name for search in searches for name in search()) == ["f5", "h2"]


def test_is_finite_of_other_types():
    assert is_finite(torch.ones(3, dtype=torch.int64)) and is_finite(torch.zeros(0)) and is_finite(torch.ones(3).to(torch.float8_e4m3fn))
    assert not is_finite(torch.tensor([1 + 1j, complex("nan")])) and not is_finite(torch.tensor([float("nan")]).to(torch.float8_e4m3fn))
