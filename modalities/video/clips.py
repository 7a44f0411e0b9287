"""Reading clips of one video, whatever it comes as: a file, a folder of frames, an array or a tensor.

A clip, once read, is a tensor (T, C, H, W), uint8, or float in 0..1 where 8 bits would lose something.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from trainer.decoders import decode, npy_header
from trainer.errors import DataError
from trainer.image_files import EXTENSIONS as IMAGES
from trainer.image_files import opened
from trainer.video_files import VideoFile

Choice = Callable[[int], np.ndarray]
"""Number of frames of a video -> the frames (clips, T) that are wanted."""
NPY = b"\x93NUMPY"
"""How an npy file begins."""
ROUNDING = 1e-3
"""How far outside 0..1 a float frame may lie."""


def as_clips(raw: Any, choose: Choice, channels: int, where: str | None = None) -> list[Tensor]:
    """The chosen clips of any single video, each (T, C, H, W) in `channels` (1 or 3) channels. The video is opened once.

    `raw`: the path of a video file, of an .npy file or of a folder of frames; the content of such a file; an array (T, H, W) or
    (T, H, W, C); a tensor (T, H, W) or (T, C, H, W). Arrays and tensors hold uint8, bool, or floats in 0..1. Raises DataError for anything else,
    and for a video without frames.
    """
    if isinstance(raw, (str, os.PathLike)):
        return _of_path(Path(raw), choose, channels)
    where = where or getattr(raw, "where", "the video")
    if isinstance(raw, bytes) and raw.startswith(NPY):
        raw = decode("npy", raw, where)
    if isinstance(raw, bytes):
        with VideoFile(raw, where) as video:
            return _grouped(video.frames, choose(video.count), channels, where)
    if isinstance(raw, Tensor):
        raw = raw.detach().cpu()
        raw = raw.permute(0, 2, 3, 1).numpy() if raw.ndim == 4 else raw.numpy()
    if isinstance(raw, np.ndarray):
        return _of_array(raw, choose, channels, where)
    raise DataError(f"{where} is a {type(raw).__name__}; expected a path, the content of a video file, an array or a tensor.")


def _of_path(path: Path, choose: Choice, channels: int) -> list[Tensor]:
    where = str(path)
    if path.is_dir():
        return _of_folder(path, choose, channels)
    if path.suffix.lower() == ".npy":
        return _of_array(map_array(path), choose, channels, where)
    with VideoFile(path, where) as video:
        return _grouped(video.frames, choose(video.count), channels, where)


def frame_files(folder: Path) -> list[Path]:
    """The frames of a folder: its image files, by the numbers in their names and then by their names. DataError when there are none."""
    try:
        files = [file for file in folder.iterdir() if file.suffix.lower() in IMAGES and not file.name.startswith(".")]
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be read ({error.strerror}).") from error
    if not files:
        raise DataError(f"{folder} holds no frames; expected a video file, or a folder with image files ({', '.join(IMAGES)}).")
    return sorted(files, key=lambda file: (int("".join(c for c in file.stem if c.isdigit()) or 0), file.name))


def map_array(path: Path) -> np.ndarray:
    """The array of an .npy file, mapped: only the frames that are asked for are read. DataError for Python objects and damage."""
    where = str(path)
    try:
        with open(path, "rb") as file:
            shape, fortran, dtype = npy_header(file, where)
            begin = file.tell()
        needed = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if needed != path.stat().st_size - begin or needed == 0:
            raise DataError(f"{where} claims {shape} of {dtype}, and {path.stat().st_size - begin:,} bytes follow. It is empty or damaged: save it again.")
        return np.memmap(path, dtype, "r", begin, shape, "F" if fortran else "C")
    except OSError as error:
        raise DataError(f"{where} cannot be read ({error.strerror or error}).") from error


def _of_folder(folder: Path, choose: Choice, channels: int) -> list[Tensor]:
    files = frame_files(folder)

    def read(indices: list[int]) -> np.ndarray:
        frames = []
        for index in indices:
            with opened(files[index]) as image:
                frames.append(np.asarray(image.convert("L" if channels == 1 else "RGB")))
            if frames[-1].shape != frames[0].shape:
                raise DataError(f"{files[index]} has {frames[-1].shape[0]} x {frames[-1].shape[1]} pixels and an earlier frame {frames[0].shape[0]} x {frames[0].shape[1]}. Resize the frames of a video alike.")
        found = np.stack(frames)
        return found[..., None] if found.ndim == 3 else found

    return _grouped(read, choose(len(files)), channels, str(folder))


def _of_array(array: np.ndarray, choose: Choice, channels: int, where: str) -> list[Tensor]:
    array = array_frames(array, where)
    return _grouped(lambda indices: array[indices], choose(len(array)), channels, where)


def array_frames(array: np.ndarray, where: str) -> np.ndarray:
    """An array as frames (T, H, W, C); every check of shape and type is here. DataError for any other."""
    array = array[..., None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[3] not in (1, 3) or array.size == 0:
        hint = " It looks like (T, C, H, W): give a torch tensor, or use array.transpose(0, 2, 3, 1)." if array.ndim == 4 and array.shape[1] in (1, 3) else ""
        raise DataError(f"{where} has the shape {array.shape}; expected (frames, height, width) or (frames, height, width, channels) with 1 or 3 channels.{hint}")
    if array.dtype not in (np.uint8, bool) and not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{where} has the type {array.dtype}; expected uint8, bool, or floats in 0..1.")
    return array


def _grouped(read: Callable[[list[int]], np.ndarray], wanted: np.ndarray, channels: int, where: str) -> list[Tensor]:
    """The wanted frames (clips, T), each read once, as clips."""
    numbers, places = np.unique(wanted, return_inverse=True)
    frames = _channels(torch.from_numpy(np.ascontiguousarray(read(numbers.tolist()))), channels, where)
    if wanted.size == len(numbers) and (places.ravel()[:-1] < places.ravel()[1:]).all():  # each frame once, in its order: nothing to copy
        return list(frames.split(wanted.shape[1]))
    return [frames[torch.from_numpy(row)] for row in places.reshape(wanted.shape)]


def _channels(frames: Tensor, channels: int, where: str) -> Tensor:
    """(n, H, W, C) of any type -> (n, channels, H, W), uint8 or float32 in 0..1."""
    frames = frames.permute(0, 3, 1, 2)
    if frames.dtype != torch.uint8:
        frames = frames.float()
        low, high = float(frames.min()), float(frames.max())
        if not -ROUNDING <= low <= high <= 1 + ROUNDING:  # NaN fails it, too
            raise DataError(f"{where} holds floats from {low:.4g} to {high:.4g}; expected 0..1. Give plain pixels, divided by their full range.")
        frames = frames.clamp(0, 1)
    if frames.shape[1] == channels:
        return frames
    return F.rgb_to_grayscale(frames) if channels == 1 else frames.expand(-1, 3, -1, -1)
