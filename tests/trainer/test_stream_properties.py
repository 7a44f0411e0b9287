"""What must hold of the stream for any numbers of samples, shards, ranks, workers, batches, epochs and restarts."""

import collections

import numpy as np
import pytest
import torch

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as some  # noqa: E402

from trainer.buckets import Bucketed
from trainer.data import Share, StepBatches, Stream
from trainer.mixture import Mixture, MixtureConfig
from trainer.order import Epochs, ShardShuffle, positions_of
from trainer.plan import Even


def drawn(cases):
    """So many cases, the same in every run."""
    return settings(max_examples=cases, deadline=None, derandomize=True, database=None)


class Numbers:
    """Samples that hold their number and a random one; with `shards`, in the order of shards."""

    def __init__(self, samples, shards=(), buffer=10):
        self.samples, self.shards, self.buffer = samples, shards, buffer
        if shards:
            self.order = self.by_shard

    def by_shard(self, seed, epoch):
        return ShardShuffle(self.shards, seed, epoch, self.buffer)

    def __len__(self):
        return self.samples

    def __getitem__(self, index):
        assert 0 <= index < self.samples
        return {"index": torch.tensor(index), "noise": torch.rand(())}


@some.composite
def plain_sources(draw):
    if draw(some.booleans()):
        return Numbers(draw(some.integers(1, 60)))
    shards = draw(some.lists(some.integers(0, 12), min_size=1, max_size=6).filter(sum))
    return Numbers(sum(shards), shards, draw(some.integers(1, 20)))


@some.composite
def exact_sources(draw):
    """Sources with epochs."""
    kind = draw(some.sampled_from(["plain", "mixture", "bucketed"]))
    if kind == "plain":
        return draw(plain_sources())
    if kind == "mixture":
        return Mixture({str(i): s for i, s in enumerate(draw(some.lists(plain_sources(), min_size=1, max_size=4)))})
    source = draw(plain_sources())
    return Bucketed(source, np.arange(len(source)) * 7 % 5, draw(some.integers(1, 9)), draw(some.integers(1, 4)))


seeds = some.integers(0, 2**40)


@drawn(300)
@given(exact_sources(), seeds, some.integers(1, 12), some.integers(1, 4), some.integers(1, 3), some.integers(1, 40), some.data())
def test_each_epoch_holds_every_sample_once_and_ranks_and_restarts_change_nothing(source, seed, batch_size, world, accumulate, steps, data):
    batch_size = max(batch_size, world * accumulate)
    whole = [pair for batch in StepBatches(positions_of(source, seed, steps * batch_size), Even(batch_size, steps), 0) for pair in batch]
    assert len(whole) == steps * batch_size
    for epoch in range(len(whole) // len(source)):
        part = whole[epoch * len(source) : (epoch + 1) * len(source)]
        assert sorted(part) == [(epoch, index) for index in range(len(source))]
    tail = whole[len(whole) // len(source) * len(source) :]
    assert len(set(tail)) == len(tail)
    first = data.draw(some.integers(0, steps))  # every rank starts again there, with nothing but its number
    ranks = [list(StepBatches(positions_of(source, seed, steps * batch_size), Even(batch_size, steps), first, Share(r, world, accumulate))) for r in range(world)]
    assert {len(batches) for batches in ranks} == {(steps - first) * accumulate}
    assert all(batch for batches in ranks for batch in batches)
    together = [pair for step in range(steps - first) for batches in ranks for batch in batches[step * accumulate : (step + 1) * accumulate] for pair in batch]
    assert together == whole[first * batch_size :]


@drawn(120)
@given(exact_sources(), seeds, some.integers(1, 8), some.integers(1, 3), some.integers(1, 12), some.data())
def test_contents_and_random_numbers_belong_to_the_sample(source, seed, batch_size, world, steps, data):
    batch_size = max(batch_size, world)
    stream = Stream(source, batch_size, seed, steps)
    whole = [{k: torch.cat([b[k] for b in stream.batches(0, workers=0)]) for k in ("noise", "sample_key")}]
    first = data.draw(some.integers(0, steps - 1))
    ranks = [list(Stream(source, batch_size, seed, steps).batches(first, 0, Share(r, world))) for r in range(world)]
    for name, values in whole[0].items():
        together = torch.cat([batch[name] for step in zip(*ranks) for batch in step])
        assert together.equal(values[first * batch_size :])
    assert len(set(whole[0]["sample_key"].tolist())) == steps * batch_size, "another key in every epoch"


@drawn(120)
@given(
    some.lists(plain_sources(), min_size=1, max_size=4), seeds, some.integers(1, 1000), some.floats(0.3, 5), some.data(),
)  # fmt: skip
def test_resampled_mixtures(sources, seed, total, temperature, data):
    weight = some.one_of(some.just(0.0), some.floats(0.01, 10))
    weights, late = (data.draw(some.lists(weight, min_size=len(sources), max_size=len(sources)).filter(sum)) for _ in range(2))
    config = MixtureConfig("resampled", tuple(weights), temperature, tuple(late), data.draw(some.floats(0, 1)))
    mixture = Mixture({str(i): s for i, s in enumerate(sources)}, config)
    epochs, indices = mixture.positions(seed, total).pairs(0, total)
    owners = np.searchsorted(mixture.offsets, indices, side="right") - 1
    for number, source in enumerate(sources):  # each goes through its own epochs
        mine = list(zip(epochs[owners == number].tolist(), (indices[owners == number] - mixture.offsets[number]).tolist()))
        for epoch in range(len(mine) // len(source) + 1):
            part = mine[epoch * len(source) : (epoch + 1) * len(source)]
            assert {e for e, _ in part} <= {epoch} and len(set(part)) == len(part)
        if weights[number] == late[number] == 0:
            assert not mine
    start = data.draw(some.integers(0, total - 1))
    again = Mixture({str(i): s for i, s in enumerate(sources)}, config)
    assert [a.tolist() for a in again.positions(seed, total).pairs(start, total)] == [epochs[start:].tolist(), indices[start:].tolist()]
    assert list(again.counts(seed, total, start).values()) == np.bincount(owners[:start], minlength=len(sources)).tolist()


@drawn(8)
@given(exact_sources(), seeds, some.integers(2, 8), some.integers(1, 2), some.integers(1, 6), some.integers(0, 5))
def test_worker_processes_change_nothing(source, seed, batch_size, workers, steps, first):
    def seen(workers):
        return [(b["index"].tolist(), b["noise"].tolist()) for b in Stream(source, batch_size, seed, steps).batches(min(first, steps - 1), workers)]

    assert seen(workers) == seen(0)


@drawn(60)
@given(some.lists(some.integers(0, 50), min_size=1, max_size=20).filter(sum), seeds, some.integers(1, 80), some.data())
def test_any_slice_of_the_order_of_shards_is_that_of_the_whole(counts, seed, buffer, data):
    whole = ShardShuffle(counts, seed, 1, buffer)[0 : sum(counts)]
    start, stop = sorted(data.draw(some.tuples(*[some.integers(0, sum(counts))] * 2)))
    assert (ShardShuffle(counts, seed, 1, buffer)[start:stop] == whole[start:stop]).all()
    owners = np.searchsorted(np.cumsum(counts), whole, side="right")
    ends = [np.flatnonzero(owners == s)[[0, -1]] for s in range(len(counts)) if counts[s]]
    assert all(last - first < counts[owners[first]] + 2 * buffer for first, last in ends), "a shard is read within a stretch of its size and two buffers"


@drawn(60)
@given(some.lists(some.integers(1, 30_000), min_size=1, max_size=5), some.integers(1, 40_000), seeds)
def test_a_mixture_keeps_its_proportions_at_every_block(sizes, total, seed):
    mixture = Mixture({str(i): Numbers(n) for i, n in enumerate(sizes)}, MixtureConfig("resampled"))
    blocks = mixture._plan(seed, total)
    shares = np.array(sizes) / sum(sizes)
    for block in range(blocks.blocks + 1):
        position = block * total // blocks.blocks
        assert np.abs(blocks.counts(position) - position * shares).max() < 2
        assert blocks.counts(position).sum() == position


def test_a_small_run_reads_its_epochs_once():
    counts = collections.Counter(Epochs(Numbers(10, [4, 6]), 0).pairs(0, 30)[1].tolist())
    assert counts == dict.fromkeys(range(10), 3)
