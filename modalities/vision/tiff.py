"""TIFF files with many samples per pixel, or of more than 8 bits, which Pillow does not read: plain or deflated, in strips or tiles (TIFF 6.0).

Of files with several pages or overviews the first is taken, as GDAL writes it.
"""

import struct
import zlib
from typing import NamedTuple

import numpy as np

from trainer.decoders import LIMITS
from trainer.errors import DataError

ORDERS = {b"II*\x00": "<", b"MM\x00*": ">"}
"""What a file begins with -> order of its bytes."""
SIZES = {1: "B", 2: "c", 3: "H", 4: "I", 12: "d", 16: "Q"}
"""Types of entries that are read."""
WIDTH, HEIGHT, BITS, COMPRESSION, OFFSETS, SAMPLES, ROWS, COUNTS, PLANAR, PREDICTOR = 256, 257, 258, 259, 273, 277, 278, 279, 284, 317
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS, FORMAT = 322, 323, 324, 325, 339
TYPES = {(8, 1): "u1", (16, 1): "u2", (16, 2): "i2", (32, 1): "u4", (32, 2): "i4", (32, 3): "f4", (64, 3): "f8"}
"""(bits, sample format) -> type of numpy."""
PLAIN, DEFLATED = (1,), (8, 32946)
"""Compressions that are read."""


class _Layout(NamedTuple):
    """How the pixels lie: parts of (height, width, samples), the first ones a plane of one sample each where `planes` is above 1."""

    height: int
    width: int
    samples: int
    planes: int
    offsets: tuple[int, ...]
    counts: tuple[int, ...]


def samples_per_pixel(content: bytes) -> int:
    """Of the first page of a TIFF file; 0 for what is none or is damaged."""
    try:
        return _tags(content).get(SAMPLES, (1,))[0]
    except (struct.error, IndexError, ValueError):
        return 0


def tiff_pixels(content: bytes, where: str) -> np.ndarray:
    """The first page of a TIFF file, (H, W, samples). Raises DataError for damage and for ways of storing that are not read."""
    try:
        return _pixels(content, where)
    except (struct.error, IndexError, KeyError, ValueError, zlib.error) as error:
        raise DataError(f"{where} is a truncated or damaged tif ({error or type(error).__name__}). Fetch it again or remove it.") from error


def _tags(content: bytes) -> dict[int, tuple]:
    """The entries of the first directory; ValueError when there is none."""
    order = ORDERS.get(content[:4])
    if order is None:
        raise ValueError("no TIFF header")
    (place,) = struct.unpack_from(f"{order}I", content, 4)
    (entries,) = struct.unpack_from(f"{order}H", content, place)
    tags = {}
    for i in range(entries):
        at = place + 2 + 12 * i
        tag, kind, count = struct.unpack_from(f"{order}HHI", content, at)
        if kind not in SIZES or kind == 2:
            continue
        form = SIZES[kind]
        if count * struct.calcsize(form) > 4:
            (at,) = struct.unpack_from(f"{order}I", content, at + 8)
        else:
            at += 8
        if at + count * struct.calcsize(form) > len(content):
            raise ValueError(f"entry {tag} lies beyond the end")
        tags[tag] = struct.unpack_from(f"{order}{count}{form}", content, at)
    return tags


def _pixels(content: bytes, where: str) -> np.ndarray:
    tags = _tags(content)
    (width,), (height,), (samples,) = tags[WIDTH], tags[HEIGHT], tags[SAMPLES]
    bits, forms = set(tags[BITS]), set(tags.get(FORMAT, (1,)))
    compression, predictor = tags.get(COMPRESSION, (1,))[0], tags.get(PREDICTOR, (1,))[0]
    kind = TYPES.get((min(bits), min(forms)))
    if len(bits) > 1 or len(forms) > 1 or kind is None or compression not in (*PLAIN, *DEFLATED) or predictor not in (1, 2) or (predictor == 2 and kind[0] == "f"):
        raise DataError(
            f"{where} stores {samples} samples per pixel of {'/'.join(map(str, sorted(bits)))} bits with compression {compression} and predictor {predictor}; such "
            "tifs are read plain or deflated (8), with predictor 1 or 2. Save it so, or as .npy."
        )
    planes = samples if tags.get(PLANAR, (1,))[0] == 2 else 1
    dtype = np.dtype(ORDERS[content[:4]] + kind)
    if width * height * samples * dtype.itemsize > LIMITS.decoded or 0 in (width, height):
        raise DataError(f"{where} claims {height} x {width} pixels of {samples} samples, which is not read. Cut it into smaller pictures.")
    if TILE_OFFSETS in tags:
        layout = _Layout(tags[TILE_HEIGHT][0], tags[TILE_WIDTH][0], samples // planes, planes, tags[TILE_OFFSETS], tags[TILE_COUNTS])
    else:
        layout = _Layout(min(tags.get(ROWS, (height,))[0], height), width, samples // planes, planes, tags[OFFSETS], tags[COUNTS])
    down, across = -(-height // layout.height), -(-width // layout.width)
    if len(layout.offsets) != planes * down * across or len(layout.counts) != len(layout.offsets):
        raise ValueError(f"{len(layout.offsets)} parts in place of {planes * down * across}")
    made = np.empty((height, width, samples), dtype.newbyteorder("="))
    for i in range(len(layout.offsets)):
        plane, rest = divmod(i, down * across)
        top, left = rest // across * layout.height, rest % across * layout.width
        tiled = TILE_OFFSETS in tags
        rows = layout.height if tiled else min(layout.height, height - top)
        part = _part(content, layout, i, rows, dtype, compression, predictor)
        part = part[: height - top, : width - left]
        made[top : top + layout.height, left : left + layout.width, plane : plane + layout.samples if planes > 1 else samples] = part
    return made


def _part(content: bytes, layout: _Layout, i: int, rows: int, dtype: np.dtype, compression: int, predictor: int) -> np.ndarray:
    """A strip or tile, (rows, width, samples)."""
    shape = (rows, layout.width, layout.samples)
    size = int(np.prod(shape)) * dtype.itemsize
    data = content[layout.offsets[i] : layout.offsets[i] + layout.counts[i]]
    if compression in DEFLATED:
        data = zlib.decompressobj().decompress(data, size)
    if len(data) < size:
        raise ValueError(f"part {i} has {len(data):,} of {size:,} bytes")
    values = np.frombuffer(data, dtype, size // dtype.itemsize).reshape(shape).astype(dtype.newbyteorder("="))
    return np.cumsum(values, axis=1, dtype=values.dtype) if predictor == 2 else values
