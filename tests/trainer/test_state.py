"""Training states as JSON and tensors, and back."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from trainer.errors import CheckpointError
from trainer.state import decode, encode, names_in, read_tensors, unshared
from trainer.weights import write_safetensors


def through_files(tree, folder):
    """Written and read again."""
    tensors = {}
    text = json.dumps(encode(tree, "", tensors), allow_nan=False)
    write_safetensors(unshared(tensors), folder / "t.safetensors")
    encoded = json.loads(text)
    assert set(names_in(encoded)) == set(tensors)
    return decode(encoded, read_tensors(folder / "t.safetensors", list(names_in(encoded))))


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -1, 2**70, 0.1, 1e-300, 5e-324, "", "Gruesse \u00e9\u4e2d \"\\\n", [], {}, (), [[]], ((),), {"": 1}, {0: "a", 1: "b"},
        {True: 1, None: 2, 1.5: 3}, {"a": {"b": [1, (2, {"c": None})]}}, {"list": [(1,), [1], {"x": (None,)}]}, torch.bfloat16,
    ],
    ids=repr,
)  # fmt: skip
def test_plain_values(value, tmp_path):
    back = through_files({"v": value}, tmp_path)["v"]
    assert back == value and type(back) is type(value) and repr(back) == repr(value)


def test_numbers_that_json_lacks(tmp_path):
    back = through_files({"nan": float("nan"), "list": [float("inf"), -float("inf")], 7: float("nan")}, tmp_path)
    assert math.isnan(back["nan"]) and back["list"] == [float("inf"), -float("inf")] and math.isnan(back[7])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.int64, torch.uint8, torch.bool])
def test_tensors_of_every_type(dtype, tmp_path):
    tensor = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype)
    for value in (tensor, tensor[0, 0], tensor[:0], tensor.t(), tensor[:, ::2], tensor[1:]):
        back = through_files({"t": value, 3: [value]}, tmp_path)
        assert back["t"].equal(value) and back["t"].dtype == dtype and back["t"].shape == value.shape and back[3][0].equal(value)


def test_bits_of_floats(tmp_path):
    tensor = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45, 3.4e38])
    assert through_files({"t": tensor}, tmp_path)["t"].view(torch.int32).equal(tensor.view(torch.int32))


def test_arrays(tmp_path):
    arrays = [np.arange(5, dtype=np.uint32) + 2**31, np.zeros((2, 0)), np.array(3.5), np.array([True, False]), np.arange(6, dtype=np.int16).reshape(2, 3).T]
    for array, back in zip(arrays, through_files({"a": arrays}, tmp_path)["a"], strict=True):
        assert back.dtype == array.dtype and back.shape == array.shape and (back == array).all()


def test_tied_tensors_and_views_of_one_storage(tmp_path):
    storage = torch.arange(10.0)
    tied = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    tied[1].weight = tied[0].weight
    tree = {"whole": storage, "part": storage[2:4], "other": storage[3:7], "back": storage.flip(0), "tied": tied.state_dict(), "again": storage}
    back = through_files(tree, tmp_path)
    assert back["part"].tolist() == [2, 3] and back["other"].tolist() == [3, 4, 5, 6] and back["again"].equal(storage)
    assert back["tied"]["0.weight"].equal(tied[0].weight) and back["tied"]["1.weight"].equal(tied[0].weight)
    back["whole"].zero_()
    assert back["again"].sum() == 45  # each in memory of its own


def test_a_view_does_not_write_its_whole_storage(tmp_path):
    through_files({"small": torch.zeros(1_000_000)[:3]}, tmp_path)
    assert (tmp_path / "t.safetensors").stat().st_size < 1000


def test_names_that_look_alike_do_not_mix(tmp_path):
    one, two, three, four = (torch.full((), float(i)) for i in range(4))
    back = through_files({"a.b": one, "a": {"b": two, "b.c": three}, "a.b.c": four}, tmp_path)
    assert [back["a.b"], back["a"]["b"], back["a"]["b.c"], back["a.b.c"]] == [0, 1, 2, 3]
    back = through_files({"x": {1: one, "1": two}}, tmp_path)
    assert back["x"][1] == 0 and back["x"]["1"] == 1


def test_plain_values_that_look_like_our_marks(tmp_path):
    for tree in ({"__tensor__": "x"}, {"a": {"__float__": "nan"}}, {"__items__": []}, {"__tuple__": [1]}, {"__array__": {"__dtype__": 3}}):
        assert through_files(tree, tmp_path) == tree


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, b"bytes", {(1, 2): 3}, np.array(["text"]), np.array([object()]), 1j, lambda: 0],
    ids=["object", "set", "bytes", "key", "array of text", "array of objects", "complex", "function"],
)
def test_what_a_state_may_not_hold(value):
    with pytest.raises(CheckpointError, match=r"may hold tensors and plain values; state\.inner is"):
        encode({"state": {"inner": value}}, "", {})


def test_numpy_numbers(tmp_path):
    """A callback's counters are often such."""
    assert through_files({"n": np.int64(3), "x": np.float32(0.1), "b": np.bool_(True), "d": np.float64(0.1)}, tmp_path) == {
        "n": 3, "x": float(np.float32(0.1)), "b": True, "d": 0.1,
    }  # fmt: skip


def test_many_pieces(tmp_path, monkeypatch):
    """Read through several memory maps."""
    monkeypatch.setattr("trainer.state.PIECE", 1000)
    tensors = {str(i): torch.full((100 + i,), float(i)) for i in range(30)}
    write_safetensors(tensors, tmp_path / "t.safetensors")
    back = read_tensors(tmp_path / "t.safetensors", list(tensors))
    assert list(back) == list(tensors) and all(back[k].equal(v) for k, v in tensors.items())
    assert read_tensors(tmp_path / "t.safetensors", []) == {}
    with pytest.raises(CheckpointError, match="t.safetensors"):
        read_tensors(tmp_path / "t.safetensors", ["absent"])
