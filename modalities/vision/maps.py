"""Reading maps that lie beside a picture and show the same pixels: depth, and classes of a segmentation.

Unlike pictures they hold measurements: nothing is rounded, blended or repaired. What cannot be used is an error that names the file.
"""

import os
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modalities.common.sources import Encoded
from modalities.vision.images import SIXTEEN_BIT
from modalities.vision.values import stored_array
from trainer.errors import DataError
from trainer.image_files import opened

ONE_CHANNEL = ("1", "L", "P", "I", "F", *SIXTEEN_BIT)
"""Pillow's modes with one number per pixel; of a palette the index is taken."""
IGNORED = 255
"""In a segmentation that is to be predicted: pixels that nobody labelled. They count for nothing."""


def read_depth(raw: Any, where: str | None = None) -> Tensor:
    """A depth map as float32 (1, H, W), in whatever unit it is stored: later it is standardised, so neither unit nor zero matter.

    `raw`: the path or the content of a picture with one channel (8, 16 or 32 bits) or of an .npy file; an array or a tensor (H, W), (1, H, W)
    or (H, W, 1). Raises DataError for another shape, and for NaN or infinity: a hole has no depth that could be hidden and predicted, so fill
    holes (with the nearest value, say) before.
    """
    values, where = _numbers(raw, where, "depth map")
    values = values.astype(np.float32)
    broken = ~np.isfinite(values)
    if broken.any():
        raise DataError(
            f"{where} holds {int(broken.sum())} NaN or infinite pixels out of {values.size}. A depth map must have a value everywhere: "
            "fill the holes (with the nearest depth, say), or leave the sample out (data.exclude, data.on_error skip)."
        )
    return torch.from_numpy(values)[None]


def read_labels(raw: Any, classes: int, where: str | None = None, ignored: bool = False) -> Tensor:
    """A map of class ids as int32 (1, H, W), each from 0 to `classes` - 1, or, with `ignored`, IGNORED.

    `raw`: as for `read_depth`, with whole numbers. Raises DataError that names the ids which are no classes.
    """
    values, where = _numbers(raw, where, "segmentation")
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.round(values)).all()):
        raise DataError(f"{where} holds fractions, and a segmentation holds whole class ids. Was it resized with blending? Resize with nearest.")
    found = np.unique(values)
    wrong = [int(value) for value in found if not 0 <= value < classes and not (ignored and value == IGNORED)]
    if wrong:
        hint = f" Pixels without a label may be {IGNORED}." if ignored else ""
        if IGNORED in wrong:
            hint = f" A class for pixels without a label needs a number of its own: {IGNORED} is no class here."
        raise DataError(
            f"{where} has the label(s) {', '.join(map(str, wrong[:8]))}{', ...' if len(wrong) > 8 else ''}, and the classes are 0 to {classes - 1}.{hint} "
            "Renumber the labels, or raise the number of classes."
        )
    return torch.from_numpy(values.astype(np.int32))[None]


def _numbers(raw: Any, where: str | None, what: str) -> tuple[np.ndarray, str]:
    """The numbers of a map (H, W), and what errors call it."""
    if isinstance(raw, Encoded):
        where = where or raw.where
    elif isinstance(raw, (str, os.PathLike)):
        where = where or str(raw)
    where = where or f"the {what}"
    array = stored_array(raw, where)
    raw = raw if array is None else array
    if isinstance(raw, (str, os.PathLike, bytes)):
        with opened(raw, where) as image:
            image.load()
            raw = _of_image(image, where, what)
    elif isinstance(raw, Image.Image):
        raw = _of_image(raw, where, what)
    values = raw.detach().cpu().numpy() if isinstance(raw, Tensor) else raw
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        found = f"{type(raw).__name__}{f' of {values.dtype}' if isinstance(values, np.ndarray) else ''}"
        raise DataError(f"{where} is a {found}; expected a {what}: a file, an array or a tensor of real numbers.")
    shape = values.shape
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[0] if values.shape[0] == 1 else values[:, :, 0]
    if values.ndim != 2 or values.size == 0:
        raise DataError(f"{where} has the shape {shape}; expected a {what} with one number per pixel, (H, W).")
    return values, where


def _of_image(image: Image.Image, where: str, what: str) -> np.ndarray:
    if image.mode not in ONE_CHANNEL:
        raise DataError(
            f"{where} is a picture of mode {image.mode!r}; expected a {what} with one number per pixel (8- or 16-bit grey, a palette, .npy). "
            "Colours that stand for values must be turned back into the values first."
        )
    return np.asarray(image)
