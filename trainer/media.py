"""Decoders of sound, video and volumes. Each needs a library that not everybody has.

What comes out is NumPy, so that data can be read without torch.
"""

import io
import math
from typing import NamedTuple

import numpy as np

from trainer.errors import DataError
from trainer.optional import library
from trainer.video_files import VideoFile


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
    soundfile = library("soundfile", where)
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        size = file.frames * file.channels * 4
        if not 0 < size <= limit:
            raise DataError(f"{where} claims {file.frames:,} samples in {file.channels} channel(s): {size:,} bytes; expected 1 to {limit:,}.")
        samples = file.read(dtype="float32", always_2d=True)
        if len(samples) != file.frames:
            raise DataError(f"{where} is cut off: {len(samples):,} of {file.frames:,} samples are there. Fetch it again.")
        return Waveform(np.ascontiguousarray(samples.T), file.samplerate)


def decode_video(data: bytes, where: str, limit: int) -> Frames:
    """The frames of an mp4, webm, mkv or avi file, at most `limit` bytes when decoded. Needs av (PyAV)."""
    with VideoFile(data, where) as video:
        return Frames(video.frames(range(video.count), limit), video.rate)


def decode_volume(data: bytes, where: str, limit: int) -> Volume:
    """A NIfTI-1 or NIfTI-2 file (unpacked), at most `limit` bytes as float32. Needs nibabel."""
    nibabel = library("nibabel", where)
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
