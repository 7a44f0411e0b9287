"""Pictures with other than one or three channels, such as those of a multi-spectral camera: arrays, and tif files of several bands.

Nothing is known of what the channels mean, so none is made of others: a file must have as many as the model reads.
"""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modalities.vision.tiff import samples_per_pixel, tiff_pixels
from modalities.vision.values import MAGIC, content_of, in_unit_range, stored_array
from trainer.decoders import npy_header
from trainer.errors import DataError
from trainer.image_files import opened

MOST = 13
"""Channels that a picture may have: those of Sentinel-2."""
USUAL = (1, 3)
"""Channels of pictures of which every kind can be made: grey and RGB."""


def as_bands(raw: Any, channels: int, where: str | None = None) -> Tensor:
    """A picture as float32 (C, H, W) in 0..1, its channels as they are stored.

    `raw`: the path or the content of an .npy file, of a tif with so many samples per pixel or grey pages, or of another image with so many channels
    (RGBA as 4, grey with transparency as 2); a PIL image; an array (H, W, C) or (C, H, W); a tensor (C, H, W). Values as for `in_unit_range`. Raises
    DataError that names it, for another number of channels too.
    """
    where = where or getattr(raw, "where", None) or (str(raw) if isinstance(raw, (str, os.PathLike)) else "the image")
    if isinstance(raw, Tensor):
        array, first = raw.detach().cpu().float().numpy() if raw.dtype == torch.bfloat16 else raw.detach().cpu().numpy(), True
    else:
        array, first = raw if isinstance(raw, np.ndarray) else _read(raw, where), False
    if array.ndim == 2:
        array = array[None] if first else array[:, :, None]
    if array.ndim != 3 or array.size == 0:
        raise DataError(f"{where} has the shape {array.shape}; expected {channels} channels of pixels: (H, W, {channels}) or ({channels}, H, W).")
    axes = (0,) if first else (2, 0)
    axis = next((axis for axis in axes if array.shape[axis] == channels), None)
    if axis is None:
        found = array.shape[0] if first else min(array.shape[2], array.shape[0])
        raise DataError(
            f"{where} has {found} channel(s) (shape {tuple(array.shape)}), and the model reads {channels}. All images of a set need the same channels: "
            f"remove or convert this one, or, for a new model, set its in_chans to {found}."
        )
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(in_unit_range(array, where), axis, 0)))


def own_channels(content: bytes, where: str) -> int:
    """How many channels a picture has that is read with as many: of an array, and of a tif that Pillow does not know; 0 for any other file.

    Raises DataError for an array that is no picture: (H, W), or (H, W, C) or (C, H, W) with up to 13 channels.
    """
    if not content.startswith(MAGIC):
        samples = samples_per_pixel(content)
        return samples if samples == 2 or samples > 4 else 0
    shape = npy_header(io.BytesIO(content), where)[0]
    if len(shape) == 2:
        return 1
    channels = next((shape[axis] for axis in (2, 0) if len(shape) == 3 and 0 < shape[axis] <= MOST), None)
    if channels is None:
        raise DataError(f"{where} has the shape {shape}, which is no picture; expected (H, W), or (H, W, C) or (C, H, W) with up to {MOST} channels.")
    return channels


def _read(raw: Any, where: str) -> np.ndarray:
    """The numbers of a file, of its content or of a PIL image, (H, W) or (H, W, C)."""
    if isinstance(raw, Image.Image):
        return _pages(raw, where)
    if not isinstance(raw, (str, os.PathLike, bytes)):
        raise DataError(f"{where} is a {type(raw).__name__}; expected a path, a PIL image, an array or a tensor.")
    array = stored_array(raw, where)
    if array is not None:
        return array
    content = raw if isinstance(raw, bytes) else content_of(Path(raw), where)
    if samples_per_pixel(content) > 1:
        return tiff_pixels(content, where)
    with opened(content, where) as image:
        return _pages(image, where)


def _pages(image: Image.Image, where: str) -> np.ndarray:
    """The numbers of an opened image; of several grey pages each is a channel."""
    count = getattr(image, "n_frames", 1)
    if count > MOST or count == 1 or len(image.getbands()) > 1:
        return _numbers(image)
    pages = []
    for page in range(count):
        image.seek(page)
        pages.append(_numbers(image))
    if len({(page.shape, page.dtype) for page in pages}) > 1:
        raise DataError(f"{where} has pages of different sizes or types ({', '.join(f'{p.shape} {p.dtype}' for p in pages[:4])}), and they should be its channels.")
    return np.stack(pages, axis=2)


def _numbers(image: Image.Image) -> np.ndarray:
    values = np.asarray(image)
    return values.astype(np.uint16) if image.mode == "I" and values.min() >= 0 and values.max() <= 65535 else values
