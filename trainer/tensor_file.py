"""A safetensors file, read with suspicion: its header is checked in full before any byte of the data counts.

Beyond what the safetensors library refuses, a name that stands twice in the header is refused (which of the two
would be loaded?), and a bad file is told apart by what it really is. Tensors are views of the file's memory
map: nothing is copied, and pages come into memory when they are first read.
"""

import math
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.errors import CheckpointError, shorten
from trainer.files import JSON_LIMIT, open_regular, parse_json

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
    "C64": torch.complex64,
}  # fmt: skip
"""Names of types in the header -> torch."""
METADATA = "__metadata__"
RUN = 2**26
"""Bytes that are searched for NaN in one go."""
PICKLE = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How torch.save's files begin: a zip archive, or (before torch 1.6) a bare pickle."""


@dataclass(frozen=True)
class Entry:
    """One tensor as the header describes it."""

    dtype: torch.dtype
    """Type of the elements."""
    shape: tuple[int, ...]
    """Length along each axis."""
    begin: int
    """First byte, from the start of the file."""
    end: int
    """One past the last byte."""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class TensorFile:
    """An open safetensors file. `tensor` gives views of it; they keep the file's memory map alive."""

    def __init__(self, path: Path | str) -> None:
        """Check the header. Raises CheckpointError that says what is wrong, or what the file is instead."""
        self.path = Path(path)
        self.entries, self.metadata = read_header(self.path)
        self._map: mmap.mmap | None = None

    def tensor(self, name: str) -> Tensor:
        """A tensor by name, on the CPU. Writing to it changes the copy in memory, never the file."""
        entry = self.entries[name]
        if entry.size == 0:
            return torch.empty(entry.shape, dtype=entry.dtype)
        return torch.frombuffer(self._mapped(), dtype=entry.dtype, count=entry.size, offset=entry.begin).view(entry.shape)

    def forget(self, name: str) -> None:
        """Give back the memory of a tensor that has been copied elsewhere; no view of it may be in use."""
        if self._map is None or not hasattr(mmap, "MADV_DONTNEED"):  # as on Windows
            return
        entry, page = self.entries[name], mmap.PAGESIZE
        begin, end = -(-entry.begin // page) * page, entry.end // page * page  # neighbours keep the pages they share
        if begin < end:
            self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)

    def searches(self) -> list[Callable[[], list[str]]]:
        """Functions that look for NaN and infinity, each in a part of the file; each returns the names of such tensors.

        Neighbours of one type are looked at together, at the speed of memory: numpy does it in one thread and without holding
        the interpreter, so that other threads can do other parts, or build the network.
        """
        return [partial(self._nonfinite, names) for names in self._runs()]

    def _nonfinite(self, names: list[str]) -> list[str]:
        first, last = self.entries[names[0]], self.entries[names[-1]]
        bits = np.frombuffer(self._mapped(), _BITS[first.dtype], (last.end - first.begin) // first.dtype.itemsize, first.begin)
        return [] if _surely_finite(bits, first.dtype) else [name for name in names if not is_finite(self.tensor(name))]

    def _runs(self) -> list[list[str]]:
        """Weights that lie side by side and have one type, in runs of about `RUN` bytes."""
        runs: list[list[str]] = []
        last = None
        for name, entry in sorted(self.entries.items(), key=lambda item: item[1].begin):
            if entry.size == 0 or entry.dtype not in _BITS:
                continue
            if last is None or (entry.dtype, entry.begin) != (last.dtype, last.end) or entry.end - self.entries[runs[-1][0]].begin > RUN:
                runs.append([])
            runs[-1].append(name)
            last = entry
        return runs

    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            try:
                with open_regular(self.path) as file:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            except (OSError, ValueError) as error:
                raise CheckpointError(f"Cannot read {self.path}: {error}.") from error
            end = max((e.end for e in self.entries.values()), default=0)
            if len(self._map) < end:  # a view past the end would be a crash, not an error
                raise CheckpointError(f"{self.path} became shorter while it was read. Is it still being copied? Load it again.")
        return self._map


def read_header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """(tensors, text metadata) of a safetensors file. CheckpointError when any part of the header is not as it must be."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > min(size - 8, JSON_LIMIT):
            raise CheckpointError(f"{path} {what_is_wrong(path)}.")
        text = file.read(length)
    if not text.startswith(b"{"):
        raise CheckpointError(f"{path} {what_is_wrong(path)}.")
    header = parse_json(text, f"The header of {path}")
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"The header of {path} has {METADATA} that is no mapping of text to text. Fetch or export it again.")
    entries = {name: _entry(name, values, 8 + length, path) for name, values in header.items()}
    _require_gapless(entries, 8 + length, size, path)
    return entries, metadata


def _entry(name: str, values: Any, start: int, path: Path) -> Entry:
    """One line of the header, checked by itself. Its offsets count from `start`."""

    def wrong(what: str) -> CheckpointError:
        return CheckpointError(f"The header of {path} describes the tensor {shorten(name)} with {what}. Fetch or export the file again.")

    if not isinstance(values, dict) or values.keys() != {"dtype", "shape", "data_offsets"}:
        raise wrong(f"{shorten(values)} instead of dtype, shape and data_offsets")
    dtype, shape, offsets = values["dtype"], values["shape"], values["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise wrong(f"the type {shorten(dtype)}; expected one of {', '.join(DTYPES)}")
    if not _whole_numbers(shape):
        raise wrong(f"the shape {shorten(shape)}")
    if not _whole_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise wrong(f"the offsets {shorten(offsets)}")
    entry = Entry(DTYPES[dtype], tuple(shape), start + offsets[0], start + offsets[1])
    if entry.size * entry.dtype.itemsize != entry.end - entry.begin:
        raise wrong(f"the shape {shorten(shape)} of {dtype}, which does not take the {entry.end - entry.begin:,} bytes from {offsets[0]:,} to {offsets[1]:,}")
    return entry


def _require_gapless(entries: dict[str, Entry], start: int, size: int, path: Path) -> None:
    """The tensors must fill the file one after the other, without overlap, hole or rest."""
    place, before = start, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != place:
            how = "overlaps" if entry.begin < place else "leaves a hole after"
            raise CheckpointError(f"{path} is damaged: the tensor {shorten(name)} {how} {before}. Fetch or export it again.")
        place, before = entry.end, shorten(name)
    if place != size:
        raise CheckpointError(f"{path} is truncated or padded: {place:,} bytes were expected and the file has {size:,}. Fetch it again.")


def _whole_numbers(values: Any) -> bool:
    """Whether this is a list of whole numbers that fit 63 bits and are not negative."""
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)


_BITS = {torch.float64: np.float64, torch.float32: np.float32, torch.float16: np.int16, torch.bfloat16: np.int16}
"""Type of weights -> the numpy type under which it is searched; numpy has no bfloat16 and is slow at half precision."""
_INFINITY = {torch.float16: 0x7C00, torch.bfloat16: 0x7F80}
"""Bits of infinity. NaN lies above it, and both again with the bit of the sign."""


def _surely_finite(values: np.ndarray, dtype: torch.dtype) -> bool:
    """False for NaN and infinity, and perhaps for numbers so large that their sum is infinite."""
    if dtype in _INFINITY:
        return values.max() < _INFINITY[dtype] and values.view(np.uint16).max() < _INFINITY[dtype] + 0x8000
    with np.errstate(all="ignore"):
        return bool(np.isfinite(np.einsum("i->", values)))  # neither vanishes in a sum; einsum takes half the time of sum


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity. Without memory of its size, unlike torch.isfinite."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    if tensor.element_size() == 1:
        tensor = tensor.float()  # 8-bit floats cannot be compared
    with torch.no_grad():
        return all(bool(bound.isfinite()) for bound in tensor.aminmax())  # NaN passes through


def what_is_wrong(path: Path) -> str:
    """Say in words what a file that is not readable as safetensors is, and what to do."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(512)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if size == 0:
        return "is empty (0 bytes): the download or the copy stopped before it began. Fetch it again"
    if text.startswith(b"version https://git-lfs"):
        return "is a git-LFS pointer, not the weights. Run `git lfs pull` in that repository, or download the file itself"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is an HTML page, not weights (often a login or error page). Download the file again"
    if head.startswith(PICKLE) and head[8:9] != b"{":
        return "is a PyTorch pickle, which can run code when opened. `zoo convert` makes a safetensors file of an official release"
    if size >= 8:
        header = int.from_bytes(head[:8], "little")
        if header + 8 > size:
            if head[8:9] == b"{":
                return f"is truncated: its header needs {header + 8:,} bytes and the file has {size:,}. Fetch it again"
            return "is not a safetensors file. Expected weights as written by save_pretrained"
        if header > JSON_LIMIT:
            return f"has a header of {header:,} bytes, more than the {JSON_LIMIT:,} that any model needs. Fetch or export it again"
    return "is not a readable safetensors file. Fetch or export it again"
