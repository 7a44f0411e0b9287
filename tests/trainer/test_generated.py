import random

import numpy as np
import pytest
import torch

from trainer.data import Source, batches
from trainer.errors import ConfigError
from trainer.generated import Endless, Generated


def make(index):
    return {"x": torch.tensor([torch.rand(()).item(), np.random.rand(), random.random()]), "index": torch.tensor(index)}


def stream(source, workers=0, first=0, steps=6):
    return list(batches(source, 4, 3, first, steps, workers))


def test_a_sample_is_a_function_of_seed_and_index():
    source = Generated(make, 10, seed=1)
    assert isinstance(source, Source) and len(source) == 10
    state = torch.get_rng_state()
    assert torch.equal(source[3]["x"], source[3]["x"]) and torch.equal(torch.get_rng_state(), state)
    others = [source[4]["x"], Generated(make, 10, seed=2)[3]["x"]]
    assert not any(torch.equal(source[3]["x"], x) for x in others)
    assert torch.equal(Generated(make, 99, seed=1)[3]["x"], source[3]["x"])
    with pytest.raises(IndexError):
        source[10]


def test_epochs_hold_the_same_samples_shuffled():
    seen = torch.cat([b["index"] for b in stream(Generated(make, 8))]).tolist()
    assert sorted(seen[:8]) == sorted(seen[8:16]) == list(range(8)) and seen[:8] != seen[8:16]


@pytest.mark.parametrize("kind", [Generated, Endless])
def test_workers_and_restarts_change_nothing(kind):
    whole = stream(kind(make, 8))
    for first, workers in ((0, 2), (4, 0)):
        for a, b in zip(whole[first:], stream(kind(make, 8), workers, first), strict=True):
            assert torch.equal(a["x"], b["x"]) and torch.equal(a["index"], b["index"])


def test_endless_data_never_come_twice():
    seen = torch.cat([b["x"] for b in stream(Endless(make, 8), steps=20)])
    assert len(seen.unique(dim=0)) == 80
    indices = torch.cat([b["index"] for b in stream(Endless(make, 8), first=2)]).tolist()
    assert indices == list(range(8, 24))
    assert "endless" in Endless(make, 8).describe()["samples"]


def test_impossible_numbers():
    for fields in ({"samples": 0}, {"samples": 3, "seed": -1}):
        with pytest.raises(ConfigError, match="at least"):
            Generated(make, **fields)
