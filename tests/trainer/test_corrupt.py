import copy
import logging

import pytest
import torch

from tests.trainer.toy import CONFIG, Fit, lines
from trainer.corrupt import SkipCorrupt, check_policy, read_quarantine, write_quarantine
from trainer.data import batches
from trainer.errors import ConfigError, DataError
from trainer.logs import MetricsFile
from trainer.trainer import Trainer


class Patchy:
    """12 samples, some of which cannot be read."""

    name = "patchy"

    def __init__(self, bad=(3, 4, 11), missing=()):
        self.bad, self.missing = bad, missing

    def __len__(self):
        return 12

    def __getitem__(self, index):
        if index in self.bad:
            raise DataError(f"shard-0.tar: {index:05d} (jpg) is truncated.")
        if index in self.missing:
            raise OSError("the network is gone")
        return {"id": torch.tensor(index), "noise": torch.rand(())}


def stream(source, workers=0, first=0, steps=6):
    return list(batches(source, 4, 3, first, steps, workers))


def test_the_next_readable_sample_takes_the_place():
    source = SkipCorrupt(Patchy(), 3)
    assert [source[i]["id"].item() for i in range(12)] == [0, 1, 2, 5, 5, 5, 6, 7, 8, 9, 10, 0]
    assert len(source) == 12 and source.skipped == 3 and source.name == "patchy"


def test_batches_stay_a_function_of_seed_and_step():
    plain, skipping = stream(Patchy(bad=())), stream(SkipCorrupt(Patchy(), 3))
    for step in range(6):
        for before, after in zip(plain[step]["id"].tolist(), skipping[step]["id"].tolist()):
            assert after == {3: 5, 4: 5, 11: 0}.get(before, before)
    for variant in (stream(SkipCorrupt(Patchy(), 3), first=4), stream(SkipCorrupt(Patchy(), 3), workers=2)[4:]):
        for a, b in zip(skipping[4:], variant, strict=True):
            assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_count_is_shared_and_each_is_told_of_once(workers, caplog):
    caplog.set_level(logging.WARNING, "zoo")
    source = SkipCorrupt(Patchy(), 5)
    stream(source, workers, steps=12)
    assert source.skipped == 3
    if not workers:  # what workers log is not in this process
        assert [r.getMessage().partition(":")[0] for r in caplog.records] == [f"Skipped, {i} of at most 5" for i in (1, 2, 3)]
        assert "shard-0.tar: 00011 (jpg) is truncated." in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_more_than_the_limit_is_an_error(workers):
    with pytest.raises(DataError, match=r"More than 2 samples .*shard-0.tar: 000\d\d \(jpg\) is truncated"):
        stream(SkipCorrupt(Patchy(), 2), workers, steps=12)
    with pytest.raises(DataError, match="None of the 12 samples"):
        SkipCorrupt(Patchy(bad=range(12)), 12)[0]


def test_only_unreadable_data_is_skipped():
    with pytest.raises(OSError):
        SkipCorrupt(Patchy(missing=(2,)), 3)[2]
    with pytest.raises(DataError, match="00003"):
        Patchy()[3]


def test_copies_and_unknown_attributes():
    source = copy.deepcopy(SkipCorrupt(Patchy(), 3))
    assert source[3]["id"] == 5 and not hasattr(source, "fetch")


def test_the_count_is_logged(tmp_path):
    class Fits(Patchy):
        def __getitem__(self, index):
            return {**super().__getitem__(index), "x": torch.ones(4), "y": torch.tensor(1.0)}

    Trainer(Fit(), SkipCorrupt(Fits(), 3), CONFIG, tmp_path, [MetricsFile()]).fit()
    assert lines(tmp_path)[-1]["unreadable"] == 3


def test_quarantine_lists_keep_odd_names(tmp_path):
    names = {"a/b.png", "tab\there", "line\nbreak", "#hash", "back\\slash\\t", "caf\u00e9", "raw\udcff"}
    write_quarantine(tmp_path / "list.txt", dict.fromkeys(names, "is empty\nor so"))
    assert read_quarantine(tmp_path / "list.txt") == names
    with pytest.raises(DataError, match="zoo data check"):
        read_quarantine(tmp_path / "nothing.txt")


def test_fields_that_contradict():
    check_policy("skip", 5, 100)
    with pytest.raises(ConfigError, match="at least 1"):
        check_policy("skip", 0, 100)
    with pytest.raises(ConfigError, match="on_error skip"):
        check_policy("raise", 5, 100)
