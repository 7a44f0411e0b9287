import random

import numpy as np
import pytest
import torch

from tests.trainer.toy import CONFIG, Fit, Line, fit
from trainer.data import Share, StepBatches, Stream, batches, ordered_batches
from trainer.errors import CheckpointError, DataError
from trainer.order import Epochs, full_shuffle
from trainer.plan import Even
from trainer.randomness import draws, draws_on_device, sample_keys, seeded
from trainer.trainer import Trainer
from trainer.waiting import Waiting


class Noisy:
    """Samples whose content is random: index, and a draw from each generator."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index == 99:
            raise DataError("bad file 99")
        return {"id": torch.tensor(index), "noise": torch.tensor([torch.rand(()).item(), np.random.rand(), random.random()])}


class Broken(Noisy):
    def __getitem__(self, index):
        raise DataError("picture.png is text")


def collect(**changes):
    options = dict(source=Noisy(), batch_size=4, seed=3, first=0, steps=7, workers=0) | changes
    return list(batches(**options))


def test_each_epoch_holds_every_sample_once():
    ids = torch.cat([b["id"] for b in collect(steps=5)]).tolist()
    assert sorted(ids[:10]) == sorted(ids[10:]) == list(range(10)) and ids[:10] != ids[10:]


def test_a_pure_function_of_seed_and_step():
    whole = collect()
    for first in (1, 3, 6):
        for workers in (0, 2):
            part = collect(first=first, workers=workers)
            assert len(part) == 7 - first
            for a, b in zip(whole[first:], part):
                assert a["id"].equal(b["id"]) and a["noise"].equal(b["noise"])
    assert not collect(seed=4)[0]["noise"].equal(whole[0]["noise"])


def test_augmentation_differs_between_epochs():
    noise = {}
    for batch in collect(steps=5):
        for index, row in zip(batch["id"].tolist(), batch["noise"]):
            noise.setdefault(index, []).append(row)
    assert all(not a.equal(b) for a, b in noise.values())


def test_ranks_share_the_global_batch():
    whole = [p for b in StepBatches(Epochs(range(10), 0), Even(4, 3), 0) for p in b]
    ranks = [list(StepBatches(Epochs(range(10), 0), Even(4, 3), 0, Share(rank, 2))) for rank in (0, 1)]
    assert sorted(p for r in ranks for b in r for p in b) == sorted(whole) and all(len(b) == 2 for r in ranks for b in r)


def test_generators_outside_are_untouched():
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = torch.rand(1).item(), np.random.rand(), random.random()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    collect()
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected
    with seeded(1, 2):
        first = torch.rand(1)
    with seeded(1, 2):
        assert torch.rand(1).equal(first)


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_keep_their_message(workers):
    with pytest.raises(DataError, match="^picture.png is text$"):
        collect(source=Broken(), workers=workers)


def test_empty_source():
    class Empty(Noisy):
        def __len__(self):
            return 0

    with pytest.raises(DataError, match="empty"):
        collect(source=Empty())


def test_fetch_is_used_and_order_is_a_shuffle():
    class Fast(Noisy):
        def fetch(self, indices, keys=None):
            assert keys is None or len(keys) == len(indices)
            return {"id": torch.tensor(indices)}

    assert [b["id"].tolist() for b in collect(source=Fast())] == [b["id"].tolist() for b in collect()]
    assert sorted(full_shuffle(10, 0, 0)) == list(range(10))
    assert [len(b["id"]) for b in ordered_batches(Fast(), 4)] == [4, 4, 2]
    assert torch.cat([b["id"] for b in ordered_batches(Noisy(), 4)]).tolist() == list(range(10))


def test_draws_are_uniform_and_keyed_by_sample():
    pairs = [(e, i) for e in range(20) for i in range(500)]
    numbers = draws(sample_keys(0, pairs), 3)
    assert numbers.shape == (10000, 3) and 0 <= numbers.min() and numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.01 and abs(numbers.var() - 1 / 12) < 0.002 and abs(np.corrcoef(numbers.T)[0, 1]) < 0.03
    assert (draws(sample_keys(0, pairs[7:9]), 3) == numbers[7:9]).all()  # whatever else is in the batch
    assert not (draws(sample_keys(1, pairs[7:9]), 3) == numbers[7:9]).any()


@pytest.mark.parametrize("world, accumulate", [(1, 4), (2, 1), (2, 3), (3, 2)])
def test_micro_batches_of_all_ranks_make_up_the_batch_in_order(world, accumulate):
    whole = list(StepBatches(Epochs(range(10), 0), Even(7, 3), 0))
    ranks = [list(StepBatches(Epochs(range(10), 0), Even(7, 3), 0, Share(rank, world, accumulate))) for rank in range(world)]
    for step in range(3):
        parts = [part for rank in ranks for part in rank[step * accumulate : (step + 1) * accumulate]]
        assert sum(parts, []) == whole[step] and max(map(len, parts)) - min(map(len, parts)) <= 1


def test_every_batch_carries_the_keys_of_its_samples():
    batch = collect()[1]
    pairs = StepBatches(Epochs(range(10), 3), Even(4, 7), 0).pairs(1)
    assert batch["id"].tolist() == [index for _, index in pairs]
    assert (batch["sample_key"].numpy().view("uint64") == sample_keys(3, pairs)).all()


class Pairs(Noisy):
    """Each sample is two rows of a batch."""

    rows = 2

    def collate(self, samples):
        return {"id": torch.stack([s["id"] for s in samples]).repeat_interleave(2)}


def test_a_sample_of_several_rows_has_a_key_for_each():
    whole = collect(source=Pairs(), steps=1)[0]
    assert whole["id"].shape == whole["sample_key"].shape == (8,) and len(set(whole["sample_key"].tolist())) == 8
    parts = [collect(source=Pairs(), steps=1, share=Share(rank, 2))[0] for rank in range(2)]
    assert torch.cat([part["sample_key"] for part in parts]).equal(whole["sample_key"])
    ordered = list(ordered_batches(Pairs(), 4))
    assert [batch["sample_key"].shape for batch in ordered] == [(8,), (8,), (4,)]


def test_draws_on_device():
    keys = torch.from_numpy(sample_keys(0, [(0, i) for i in range(2000)]).view("int64"))
    numbers = draws_on_device(keys, 50)
    assert numbers.dtype == torch.float32 and numbers.min() >= 0 and numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.005 and abs(numbers.var() - 1 / 12) < 0.002
    assert abs(torch.corrcoef(numbers.T)[0, 1:]).max() < 0.1 and abs(torch.corrcoef(numbers[:50])[0, 1:]).max() < 0.6
    assert draws_on_device(keys[7:9], 50).equal(numbers[7:9]), "a sample's numbers do not depend on the rest of the batch"
    assert not numpy_close(numbers, draws(keys.numpy().view("uint64"), 50)), "augmentation has another stream"
    # the same hash as in numpy, whatever the sign of the words
    words = ~keys.numpy().view("uint64")
    from trainer.randomness import _hash

    expected = (_hash(_hash(words)[:, None] + np.arange(1, 51, dtype=np.uint64)) >> np.uint64(40)) * 2.0**-24
    assert numpy_close(numbers, expected)


def numpy_close(tensor, array):
    return np.allclose(tensor.numpy(), array)


class Named(Noisy):
    def __init__(self, names="abcdefghij"):
        self.names = names

    def __len__(self):
        return len(self.names)

    def id(self, index):
        return self.names[index]


def test_a_changed_data_set_is_noticed_with_names():
    old = Stream(Named(), 4, 3, 7)
    for step in (0, 2, 7):
        old.check(old.bookmark(step), step, "step-2")
        epoch, name = old.bookmark(step)["next"][0]
        assert epoch == step * 4 // 10
        with pytest.raises(CheckpointError, match=rf"step-2 was trained on: it had 10 samples, now there are 10; the next sample was to be {name}, now it is {name.upper()}\."):
            Stream(Named("ABCDEFGHIJ"), 4, 3, 7).check(old.bookmark(step), step, "step-2")
    with pytest.raises(CheckpointError, match="it had 10 samples, now there are 9"):
        Stream(Named("abcdefghi"), 4, 3, 7).check(old.bookmark(2), 2, "step-2")


def test_the_trainer_refuses_to_go_on_with_other_data(tmp_path):
    fit(tmp_path / "run")
    with pytest.raises(CheckpointError, match="it had 50 samples, now there are 49"):
        Trainer(Fit(), Shorter(), CONFIG, tmp_path / "run").fit(resume=True)


class Shorter(Line):
    def __len__(self):
        return 49


def test_advice_when_training_waits(caplog):
    def advice(workers, cores, waited):
        caplog.clear()
        waiting = Waiting(workers)
        waiting.cores = cores
        for _ in range(30):
            waiting.waited = waited
            assert waiting.share(2.0) == waited / 2
        return [r.getMessage() for r in caplog.records]

    with caplog.at_level("WARNING", "zoo"):
        assert advice(0, 4, 0.1) == []
        assert advice(0, 4, 1.0) == ["Training waits for data 50 % of the time: raise train.workers from 0 to 3 (the machine has 4 cores)."]
        assert "train.workers=1" in advice(0, 1, 1.0)[0] and "pack" in advice(3, 4, 0.3)[0]


class Compact(Noisy):
    """Handed over as one number, finished in the training process."""

    threads = ()

    def compact(self):
        def finish(batch):
            Compact.threads += (torch.get_num_threads(),)
            return {**batch, "twice": 2 * batch["id"].float()}

        return Noisy(), finish


@pytest.mark.parametrize(("workers", "device", "expected"), [(0, "cpu", 3), (1, "cpu", 1), (1, "meta", 3)])
def test_what_is_handed_over_is_finished_by_one_thread_or_on_the_device(workers, device, expected, monkeypatch):
    monkeypatch.setattr(Compact, "threads", ())
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        (batch,) = Stream(Compact(), 4, seed=3, steps=1).batches(0, workers, device=torch.device(device))
        assert torch.get_num_threads() == 3 and Compact.threads == (expected,)
    finally:
        torch.set_num_threads(before)
    assert batch["twice"].device.type == device and batch["sample_key"].shape == (4,)
    if device == "cpu":
        assert batch["twice"].equal(2 * batch["id"].float())
