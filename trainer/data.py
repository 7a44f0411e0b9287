"""From a source of samples to a stream of batches that is a pure function of (seed, step).

The stream is endless: the samples of epoch 0 in a random order, then those of epoch 1, and so on, cut into
batches. Which samples make up the batch of a step follows from the seed and the step alone, and so does
the randomness of each sample (augmentation). Resuming is starting at another step: nothing is replayed and
nothing needs to be saved, whatever the number of loader workers.
"""

import contextlib
import os
import random
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from trainer.errors import DataError, ZooError
from trainer.objective import Batch


SURVIVAL = 600
"""Seconds that a loader worker lives on after SIGTERM."""


@runtime_checkable
class Source(Protocol):
    """Where samples come from: any map-style dataset whose samples are dicts of tensors.

    Randomness is drawn from the global generators (torch, numpy, random), which the loader seeds for each
    sample. Optional attributes: `fetch(indices, keys=None) -> Batch`, which gives a whole batch at once (for
    sets in memory; what it changes at random it draws from `keys` by `draws`, and without keys nothing is
    changed); `in_memory`, true when samples cost too little to need worker processes; `describe()`, facts
    about the data for logs and cards.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Share:
    """Which part of each step's batch a process takes: rank `rank` of `world`, cut into `accumulate` micro-batches.

    The batch is cut into world * accumulate contiguous pieces whose sizes differ by at most one sample; rank r takes
    the r-th run of `accumulate` of them. So the samples of a step are the same for any number of processes.
    """

    rank: int = 0
    world: int = 1
    accumulate: int = 1

    def slices(self, batch_size: int) -> list[slice]:
        """Where this rank's micro-batches lie in a batch of `batch_size` samples."""
        pieces = self.world * self.accumulate
        edges = [batch_size * i // pieces for i in range(pieces + 1)]
        first = self.rank * self.accumulate
        return [slice(edges[i], edges[i + 1]) for i in range(first, first + self.accumulate)]


class StepBatches:
    """Batch sampler: yields, for each step from `first` on, the (epoch, index) pairs of this rank's micro-batches."""

    def __init__(self, samples: int, batch_size: int, seed: int, first: int, steps: int, share: Share = Share()) -> None:
        self.samples, self.batch_size, self.seed = samples, batch_size, seed
        self.first, self.steps, self.share = first, steps, share
        self._epoch, self._order = -1, []

    def __len__(self) -> int:
        return max(self.steps - self.first, 0) * self.share.accumulate

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        slices = self.share.slices(self.batch_size)
        for step in range(self.first, self.steps):
            pairs = self.pairs(step)
            for part in slices:
                yield pairs[part]

    def pairs(self, step: int) -> list[tuple[int, int]]:
        """(epoch, index) of all samples of a step, over all ranks."""
        pairs = []
        for position in range(step * self.batch_size, (step + 1) * self.batch_size):
            if position // self.samples != self._epoch:
                self._epoch = position // self.samples
                self._order = epoch_order(self.samples, self.seed, self._epoch)
            pairs.append((self._epoch, self._order[position % self.samples]))
        return pairs


def epoch_order(samples: int, seed: int, epoch: int) -> list[int]:
    """The order of the samples in one epoch: a full shuffle, the same for the same seed and epoch."""
    generator = torch.Generator().manual_seed(key(seed, epoch))
    return torch.randperm(samples, generator=generator).tolist()


def key(*parts: int) -> int:
    """One 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def sample_keys(seed: int, pairs: list[tuple[int, int]]) -> np.ndarray:
    """One random number for each (epoch, index), (B,) uint64: a hash, so that a batch costs no Python loop."""
    epoch, index = np.asarray(pairs, dtype=np.uint64).T
    return _hash(_hash(_hash(np.uint64(key(seed)) + np.zeros_like(epoch)) + epoch) + index)


def draws(keys: np.ndarray, count: int) -> np.ndarray:
    """`count` uniform numbers in [0, 1) for each key, (B, count) float64."""
    return (_hash(keys[:, None] + np.arange(1, count + 1, dtype=np.uint64)) >> np.uint64(11)) * 2.0**-53


def draws_on_device(keys: Tensor, count: int) -> Tensor:
    """`count` uniform numbers in [0, 1) for each sample key (`batch["sample_key"]`, (B,) int64), (B, count) float32.

    Random numbers of an objective (masks, say) that do not depend on how a batch is shared among processes or cut
    into micro-batches. The stream differs from that of `draws`, which augmentation uses. Made where `keys` are.
    """
    ids = torch.arange(1, count + 1, device=keys.device)
    return _shift(_hash(_hash(~keys)[:, None] + ids), 40).float() * 2.0**-24  # 24 bits: what a float32 holds


def _hash(x: Any) -> Any:
    """splitmix64 (Steele et al. 2014), which passes the usual tests of randomness, of uint64 arrays or int64 tensors."""
    x = x + _word(x, 0x9E3779B97F4A7C15)
    x = (x ^ _shift(x, 30)) * _word(x, 0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _word(x, 0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def _word(x: Any, value: int) -> Any:
    """A 64-bit constant for arithmetic with `x`; torch has it only as a signed number."""
    return value - 2**64 if isinstance(x, Tensor) else np.uint64(value)


def _shift(x: Any, bits: int) -> Any:
    """Logical shift to the right; torch's own repeats the sign bit, which is masked off."""
    return (x >> bits) & ((1 << (64 - bits)) - 1) if isinstance(x, Tensor) else x >> np.uint64(bits)


@contextlib.contextmanager
def seeded(*parts: int) -> Iterator[None]:
    """Seed torch (CPU), numpy and random by `parts` inside the block; outside they go on as if nothing was drawn."""
    seed = key(*parts)
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    # not torch.manual_seed: that would also reset the accelerator's generator
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


class _Fetcher(Dataset):
    """Turns (epoch, index) pairs into a batch; runs in the loader's workers."""

    def __init__(self, source: Source, seed: int) -> None:
        self.source, self.seed = source, seed

    def __getitems__(self, pairs: list[tuple[int, int]]) -> Batch | ZooError:
        try:
            keys = sample_keys(self.seed, pairs)
            if hasattr(self.source, "fetch"):
                batch = self.source.fetch([index for _, index in pairs], keys)
            else:
                samples = []
                for epoch, index in pairs:
                    with seeded(self.seed, epoch, index):
                        samples.append(self.source[index])
                batch = default_collate(samples)
            batch["sample_key"] = torch.from_numpy(keys.view(np.int64))
            return batch
        except ZooError as error:  # handed over as a value: a worker would wrap it in its own traceback text
            return error


def batches(
    source: Source, batch_size: int, seed: int, first: int, steps: int, workers: int | None, share: Share = Share()
) -> Generator[Batch, None, None]:
    """The micro-batches of steps `first` to `steps` - 1 that this rank takes, each with `sample_key` (B,) int64.

    Raises DataError when the source is empty or cannot be read, and whatever ZooError a sample raises. (When a worker is
    killed, torch raises a RuntimeError from a signal handler, wherever the main thread happens to be.)
    """
    if len(source) == 0:
        raise DataError("The data source is empty: 0 samples. Training needs at least one.")
    if workers is None:
        workers = 0 if getattr(source, "in_memory", False) else min(4, max((os.cpu_count() or 1) - 1, 1))
    loader = DataLoader(
        _Fetcher(source, seed),
        batch_sampler=StepBatches(len(source), batch_size, seed, first, steps, share),
        collate_fn=_same,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_quiet_worker,
        generator=torch.Generator().manual_seed(seed),  # else it would draw from the global generator at each start
    )
    stream = None
    try:
        while True:
            stream = iter(loader) if stream is None else stream
            try:
                batch = next(stream)
            except StopIteration:
                return
            if isinstance(batch, ZooError):
                raise batch
            yield batch
    except OSError as error:
        # one that comes from a worker carries its traceback in its text
        raise DataError(f"Cannot read the training data: {str(error).strip().splitlines()[-1]}. Is it still where it was?") from error
    finally:
        if workers and stream is not None:
            stream._shutdown_workers()  # now, not when the traceback that holds it goes: at the end of the process torch relies on SIGTERM


def ordered_batches(source: Source, batch_size: int) -> Iterator[Batch]:
    """All samples once, in order, the last batch perhaps smaller: for evaluation. Each sample's `sample_key` follows from its index."""
    for start in range(0, len(source), batch_size):
        indices = list(range(start, min(start + batch_size, len(source))))
        batch = source.fetch(indices) if hasattr(source, "fetch") else default_collate([source[i] for i in indices])
        batch["sample_key"] = torch.from_numpy(sample_keys(0, [(0, i) for i in indices]).view(np.int64))
        yield batch


def to_device(batch: Any, device: torch.device, channels_last: bool = False) -> Any:
    """A batch (dict of tensors, or anything with `.to`) on a device, without waiting for the copy.

    `channels_last` lays images (4 axes) and volumes or videos (5 axes) out with the channels innermost.
    """
    if isinstance(batch, dict):
        return {k: to_device(v, device, channels_last) for k, v in batch.items()}
    if not isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True) if hasattr(batch, "to") else batch
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d} if channels_last else {}
    return batch.to(device, non_blocking=True, memory_format=layouts.get(batch.ndim, torch.preserve_format))


def _same(batch: Any) -> Any:
    return batch


def _quiet_worker(_: int) -> None:
    """Ctrl-C and SIGTERM are the main process's business, though terminals, torchrun and clusters send them to all of a group:
    workers go on while it saves, and end when it says so (or much later by themselves). One thread each."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(SURVIVAL))
    torch.set_num_threads(1)
