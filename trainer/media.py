"""Decoders of sound, video and volumes. Each needs a library that not everybody has.

What comes out is NumPy, so that data can be read without torch.
"""

import importlib
import io
import math
from types import ModuleType
from typing import NamedTuple

import numpy as np

from trainer.errors import DataError, MissingDependencyError


class Waveform(NamedTuple):
    """A sound."""

    samples: np.ndarray
    """(channels, samples) float32, full scale at -1 and 1."""
    rate: int
    """Samples per second."""


class Frames(NamedTuple):
    """A video, all of it, without its sound."""

    frames: np.ndarray
    """(T, H, W, 3) uint8, RGB."""
    rate: float
    """Frames per second, on average."""


class Volume(NamedTuple):
    """A scan."""

    values: np.ndarray
    """(X, Y, Z[, ...]) float32 in the units of the file (Hounsfield units for CT), its scaling applied."""
    affine: np.ndarray
    """(4, 4) float64: voxel indices to millimetres, right-anterior-superior."""


def decode_sound(data: bytes, where: str, limit: int) -> Waveform:
    """A wav, flac, ogg or mp3 file, at most `limit` bytes when decoded. Needs soundfile."""
    soundfile = _library("soundfile", where)
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        size = file.frames * file.channels * 4
        if not 0 < size <= limit:
            raise DataError(f"{where} claims {file.frames:,} samples in {file.channels} channel(s): {size:,} bytes; expected 1 to {limit:,}.")
        samples = file.read(dtype="float32", always_2d=True)
        if len(samples) != file.frames:
            raise DataError(f"{where} is cut off: {len(samples):,} of {file.frames:,} samples are there. Fetch it again.")
        return Waveform(np.ascontiguousarray(samples.T), file.samplerate)


def decode_video(data: bytes, where: str, limit: int) -> Frames:
    """The frames of an mp4 file, at most `limit` bytes when decoded. Needs av (PyAV)."""
    if data[4:8] != b"ftyp":  # FFmpeg would also read play lists, which name other files
        raise DataError(f"{where} is no mp4 file: it does not begin with an ftyp box.")
    av = _library("av", where)
    frames, size = [], 0
    with av.open(io.BytesIO(data), format="mp4") as container:
        if not container.streams.video:
            raise DataError(f"{where} has no video in it.")
        stream = container.streams.video[0]
        stream.thread_count = 1  # the loader's workers are the parallel part
        for frame in container.decode(stream):
            size += frame.width * frame.height * 3
            if size > limit:
                raise DataError(f"{where} is longer than {limit:,} bytes of frames. Cut it into clips.")
            frames.append(frame.to_ndarray(format="rgb24"))
        if len({frame.shape for frame in frames}) != 1:
            raise DataError(f"{where} has {'no frame' if not frames else 'frames of several sizes'}. Encode it again.")
        return Frames(np.stack(frames), float(stream.average_rate or 0))


def decode_volume(data: bytes, where: str, limit: int) -> Volume:
    """A NIfTI-1 or NIfTI-2 file (unpacked), at most `limit` bytes as float32. Needs nibabel."""
    nibabel = _library("nibabel", where)
    kind = nibabel.Nifti2Image if data[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") else nibabel.Nifti1Image
    image = kind.from_bytes(data)
    shape, stored = image.shape, image.get_data_dtype()
    size, there = math.prod(map(int, shape)), len(data) - int(image.header["vox_offset"])
    if stored.kind not in "iuf" or not 0 < 4 * size <= limit or size * stored.itemsize > there or min(shape) < 1:
        raise DataError(
            f"{where} claims {shape} voxels of {stored}, and {max(there, 0):,} bytes are there; "
            f"expected whole or real numbers, all there, and at most {limit:,} bytes as float32."
        )
    return Volume(image.get_fdata(dtype=np.float32, caching="unchanged"), image.affine.astype(np.float64))


def _library(name: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(f"{where} needs the library {name!r}, which is not installed: pip install {name}.") from error
