"""Random numbers that belong to a sample and an epoch, not to what was drawn before.

So augmentation and masks are the same whatever the number of processes, workers, micro-batches or restarts.
"""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor


def key(*parts: int) -> int:
    """One 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def sample_keys(seed: int, pairs: list[tuple[int, int]]) -> np.ndarray:
    """One random number for each (epoch, index), (B,) uint64: a hash, so that a batch costs no Python loop."""
    epoch, index = np.asarray(pairs, dtype=np.uint64).T
    return _hash(_hash(_hash(np.uint64(key(seed)) + np.zeros_like(epoch)) + epoch) + index)


def split_keys(keys: np.ndarray, count: int) -> np.ndarray:
    """`count` random numbers for each key, one after another, (B * count,) uint64: keys for the parts of a sample."""
    return _hash(_hash(keys)[:, None] + np.arange(1, count + 1, dtype=np.uint64)).reshape(-1)


def draws(keys: np.ndarray, count: int) -> np.ndarray:
    """`count` uniform numbers in [0, 1) for each key, (B, count) float64."""
    return (_hash(keys[:, None] + np.arange(1, count + 1, dtype=np.uint64)) >> np.uint64(11)) * 2.0**-53


def draws_on_device(keys: Tensor, count: int) -> Tensor:
    """`count` uniform numbers in [0, 1) for each sample key (`batch["sample_key"]`, (B,) int64), (B, count) float32.

    Random numbers of an objective (masks, say) that do not depend on how a batch is shared among processes or cut
    into micro-batches. The stream differs from that of `draws`, which augmentation uses. Made where `keys` are.
    """
    return draws_at(keys[:, None], torch.arange(count, device=keys.device))


def draws_at(keys: Tensor, places: Tensor) -> Tensor:
    """The numbers at some `places` (int64, from 0) of the streams of `draws_on_device`: `draws_on_device(keys, n)` holds those at 0 to n - 1.

    For batches whose samples need different amounts of them. `keys` and `places` are of one shape, or broadcast to it.
    """
    return _shift(_hash(_hash(~keys) + places + 1), 40).float() * 2.0**-24  # 24 bits: what a float32 holds


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
    with undisturbed():
        reseed(key(*parts))
        yield


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever is drawn from torch (CPU), numpy and random inside the block, outside they go on as if nothing was."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def reseed(seed: int) -> None:
    """Seed torch (CPU), numpy and random by a number of up to 64 bits, as `key` and `sample_keys` give."""
    # not torch.manual_seed: that would also reset the accelerator's generator
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)
