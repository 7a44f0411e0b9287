"""From a source of samples to a stream of batches that is a pure function of (seed, step).

The stream is endless: the samples of epoch 0 in a random order, then those of epoch 1, and so on, cut into
batches. Which samples make up the batch of a step follows from the seed and the step alone, and so does
the randomness of each sample (augmentation). Resuming is starting at another step: nothing is replayed and
nothing needs to be saved, whatever the number of loader workers. Samples are fetched by index, so shards are
not dealt out to processes or workers, and there may be fewer shards than readers.
"""

import gc
import os
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trainer.collate import collated
from trainer.errors import CheckpointError, DataError, ZooError
from trainer.multigrid import resample
from trainer.objective import Batch
from trainer.order import Positions, positions_of
from trainer.plan import Even, Plan, Size
from trainer.randomness import reseed, sample_keys, split_keys, undisturbed

BOOKMARK = 8
"""Samples whose ids are kept with a checkpoint."""
SURVIVAL = 600
"""Seconds that a loader worker lives on after SIGTERM."""


@runtime_checkable
class Source(Protocol):
    """Where samples come from: any map-style dataset whose samples are dicts of tensors.

    Randomness is drawn from the global generators (torch, numpy, random), which the loader seeds for each
    sample. Optional attributes:

    - `fetch(indices, keys=None) -> Batch`: a whole batch at once (for sets in memory; what it changes at random it
      draws from `keys` by `randomness.draws`, and without keys nothing is changed);
    - `rows`: how many rows of a batch a sample becomes, when it is several (clips of one video, put one after another by `collate`);
    - `collate(samples) -> Batch`: one batch of several samples, where stacking does not do (see trainer.collate);
    - `id(index) -> str`: what a sample is called, whatever the machine and the folder; else the index;
    - `order(seed, epoch) -> Order`: the order of an epoch; else a full shuffle;
    - `positions(seed, total) -> Positions`: the whole sequence, where it does not consist of epochs;
    - `counts(seed, total, position) -> dict`: samples seen of each part before a position, for the log;
    - `sized(size) -> Source`: the same samples at a smaller size, for plans that change it; else finished samples are made smaller;
    - `compact() -> (Source, finish)`: the same samples in a form that is smaller to hand over from worker processes (uint8 pixels), and what makes
      the usual batch of one of theirs, here;
    - `in_memory`: true when samples cost too little to need worker processes;
    - `describe()`: facts about the data for logs and cards.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


def sample_id(source: Source, index: int) -> str:
    """What a sample is called in messages and checkpoints."""
    return str(source.id(index)) if hasattr(source, "id") else str(index)


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


Pairs = list[tuple[int, int]]
"""(epoch, index) of samples."""


class Sized(NamedTuple):
    """Samples that shall have another size than the source gives them."""

    pairs: Pairs
    """Which ones."""
    size: Size
    """Their lengths along the axes."""


class StepBatches:
    """Batch sampler: yields, for each step from `first` on, the (epoch, index) pairs of this rank's micro-batches."""

    def __init__(self, positions: Positions, plan: Plan, first: int, share: Share = Share()) -> None:
        self.positions, self.plan, self.first, self.share = positions, plan, first, share

    def __len__(self) -> int:
        return max(self.plan.steps - self.first, 0) * self.share.accumulate

    def __iter__(self) -> Iterator[Pairs | Sized]:
        for step in range(self.first, self.plan.steps):
            pairs, size = self.pairs(step), self.plan.size(step)
            for part in self.share.slices(len(pairs)):
                yield pairs[part] if size is None else Sized(pairs[part], size)

    def pairs(self, step: int) -> Pairs:
        """(epoch, index) of all samples of a step, over all ranks."""
        epochs, indices = self.positions.pairs(self.plan.start(step), self.plan.start(step + 1))
        return list(zip(epochs.tolist(), indices.tolist()))


class _Fetcher(Dataset):
    """Turns (epoch, index) pairs into a batch; runs in the loader's workers."""

    def __init__(self, source: Source, seed: int, entry: str | None) -> None:
        """`entry`: the one of the batch whose size a plan changes."""
        self.source, self.seed, self.entry = source, seed, entry
        self._sized: dict[Size, Source] = {}

    def __getitems__(self, wanted: Pairs | Sized) -> Batch | ZooError:
        try:
            pairs, size = wanted if isinstance(wanted, Sized) else (wanted, None)
            source = self._source(size)
            keys = sample_keys(self.seed, pairs)
            if hasattr(source, "fetch"):
                batch = source.fetch([index for _, index in pairs], keys)
            else:
                batch = collated(source, list(_samples(source, pairs, keys.tolist())))
            if size is not None:
                if self.entry not in batch:
                    raise DataError(f"The plan of this run changes the size of batch[{self.entry!r}]; the source gives {', '.join(batch)}.")
                if tuple(batch[self.entry].shape[2:]) != size:
                    batch[self.entry] = resample(batch[self.entry], size)
            batch["sample_key"] = _row_keys(source, keys)
            batch["sample_index"] = torch.tensor([index for _, index in pairs])
            return batch
        except ZooError as error:  # handed over as a value: a worker would wrap it in its own traceback text
            return error

    def _source(self, size: Size | None) -> Source:
        """The source of samples of a size, where it can give them itself."""
        if size is None or not hasattr(self.source, "sized"):
            return self.source
        if size not in self._sized:
            self._sized[size] = self.source.sized(size)
        return self._sized[size]


def _samples(source: Source, pairs: Pairs, keys: list[int]) -> Iterator[dict[str, Any]]:
    """The samples, each made with its own random numbers; those of the process are kept once for all of them."""
    with undisturbed():
        for (_, index), sample_key in zip(pairs, keys):
            reseed(sample_key)
            yield source[index]


class Stream:
    """The batches of a run of `steps` steps of `batch_size` samples, or as a plan says."""

    def __init__(self, source: Source, batch_size: int, seed: int, steps: int, plan: Plan | None = None) -> None:
        """`plan` replaces `batch_size` and `steps`. DataError when the source is empty."""
        if len(source) == 0:
            raise DataError("The data source is empty: 0 samples. Training needs at least one.")
        self.source, self.seed, self.plan = source, seed, plan or Even(batch_size, steps)
        self.total = self.plan.start(self.plan.steps)
        self.positions = positions_of(source, seed, self.total)

    def batches(self, first: int, workers: int | None = None, share: Share = Share(), device: torch.device | None = None) -> Generator[Batch, None, None]:
        """The micro-batches that this rank takes from step `first` to the end, each with `sample_key` (B,) int64 and, where it lies in the source, `sample_index` (B,).

        What workers hand over in a smaller form (see `Source`) goes to `device` as it is and is finished there, where that is an accelerator.
        The same worker processes serve all epochs. Raises whatever ZooError a sample raises, DataError when the source cannot be read. (When a
        worker is killed, torch raises a RuntimeError from a signal handler, wherever the main thread happens to be.)
        """
        source, finish = self._handed_over()
        loader = DataLoader(
            _Fetcher(source, self.seed, self.plan.entry),
            batch_sampler=StepBatches(self.positions, self.plan, first, share),
            collate_fn=_same,
            num_workers=worker_count(self.source, workers),
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_quiet_worker,
            generator=torch.Generator().manual_seed(self.seed),  # else it would draw from the global generator at each start
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
                if finish is _same:
                    yield batch
                elif device is not None and device.type != "cpu":
                    yield finish(to_device(batch, device))
                else:
                    with _one_thread() if loader.num_workers else nullcontext():
                        batch = finish(batch)
                    yield batch
        except OSError as error:
            # one that comes from a worker carries its traceback in its text
            raise DataError(f"Cannot read the training data: {str(error).strip().splitlines()[-1]}. Is it still where it was?") from error
        finally:
            if loader.num_workers and stream is not None:
                stream._shutdown_workers()  # now, not when the traceback that holds it goes: at the end of the process torch relies on SIGTERM

    def _handed_over(self) -> tuple[Source, Callable[[Batch], Batch]]:
        """What the workers read, and what then makes the batch. Not asked of wrapped sources (they read in their own way), nor where a plan changes sizes."""
        if hasattr(type(self.source), "compact") and self.plan.entry is None:
            return self.source.compact()
        return self.source, _same

    def samples(self, step: int, some: int = BOOKMARK) -> list[tuple[int, str]]:
        """(epoch, id) of the first samples of a step."""
        start = self.plan.start(step)
        epochs, indices = self.positions.pairs(start, start + min(some, self.plan.batch_size(step)))
        return [(e, sample_id(self.source, i)) for e, i in zip(epochs.tolist(), indices.tolist())]

    def counts(self, step: int) -> dict[str, float]:
        """`seen/NAME`: samples taken of each part of a mixture in the steps before `step`; empty for other sources."""
        if not hasattr(self.source, "counts"):
            return {}
        return {f"seen/{name}": count for name, count in self.source.counts(self.seed, self.total, self.plan.start(step)).items()}

    def bookmark(self, step: int) -> dict[str, Any]:
        """What a checkpoint keeps of the data, to notice another set on resume: its size and the next samples."""
        return {"samples": len(self.source), "next": [list(pair) for pair in self.samples(step)]}

    def check(self, bookmark: dict[str, Any], step: int, where: str) -> None:
        """CheckpointError unless the data are those of the bookmark that was made at `step`; `where` is the checkpoint."""
        now = self.bookmark(step)
        if now == bookmark:
            return
        (_, old), (_, new) = next((pair for pair in zip(bookmark["next"], now["next"]) if pair[0] != pair[1]), (bookmark["next"][0], now["next"][0]))
        names = f"the next sample was to be {old}, now it is {new}" if old != new else f"the next sample is {new} in both"
        raise CheckpointError(
            f"The data are not those that {where} was trained on: it had {bookmark['samples']:,} samples, now there are {now['samples']:,}; {names}. "
            "Put the data back as they were, or begin a new run with the weights of this one (init_from)."
        )


def batches(
    source: Source, batch_size: int, seed: int, first: int, steps: int, workers: int | None, share: Share = Share()
) -> Generator[Batch, None, None]:
    """The micro-batches of steps `first` to `steps` - 1 of a `Stream`, whose errors it raises."""
    yield from Stream(source, batch_size, seed, steps).batches(first, workers, share)


def worker_count(source: Source, workers: int | None) -> int:
    """Worker processes: `workers`, or by default none for sets in memory, else one less than the cores, at most 4."""
    if workers is not None:
        return workers
    return 0 if getattr(source, "in_memory", False) else min(4, max((os.cpu_count() or 1) - 1, 1))


def ordered_batches(source: Source, batch_size: int) -> Iterator[Batch]:
    """All samples once, in order, the last batch perhaps smaller: for evaluation. Each sample's `sample_key` follows from its index."""
    for start in range(0, len(source), batch_size):
        indices = list(range(start, min(start + batch_size, len(source))))
        batch = source.fetch(indices) if hasattr(source, "fetch") else collated(source, [source[i] for i in indices])
        batch["sample_key"] = _row_keys(source, sample_keys(0, [(0, i) for i in indices]))
        batch["sample_index"] = torch.tensor(indices)
        yield batch


def _row_keys(source: Source, keys: np.ndarray) -> Tensor:
    """A random number for each row of a batch, (B * rows,) int64: those of the samples (B,), or others drawn from them where a sample has several rows."""
    rows = getattr(source, "rows", 1)
    return torch.from_numpy((keys if rows == 1 else split_keys(keys, rows)).view(np.int64))


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


@contextmanager
def _one_thread() -> Iterator[None]:
    """Computes with one thread: several would wait for each other, at full speed, while worker processes keep the cores busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _quiet_worker(_: int) -> None:
    """Ctrl-C and SIGTERM are the main process's business, though terminals, torchrun and clusters send them to all of a group:
    workers go on while it saves, and end when it says so (or much later by themselves). One thread each.

    What was there before is left out of garbage collection, which would take time and copy the memory that is shared with the main process.
    """
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(SURVIVAL))
    torch.set_num_threads(1)
