"""Reading one picture, whatever it comes as: a file, a PIL image, an array or a tensor.

A picture, once read, is one of two things: an 8-bit PIL image of mode "L" (grey) or "RGB", or, where 8 bits
would lose something or the channels are others, a float tensor (C, H, W) in 0..1. Colour profiles are ignored, as in the papers.
"""

import os
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from modalities.common.sources import Encoded
from modalities.vision.bands import USUAL, as_bands
from modalities.vision.values import in_unit_range, stored_array
from trainer.errors import DataError
from trainer.image_files import explained, opened

Picture = Image.Image | Tensor
"""PIL image of mode "L" or "RGB", or float tensor (C, H, W) in 0..1."""

SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
PHOTOMETRIC = 262
"""TIFF tag; 0: the largest value is black, as in some X-ray scans."""


def as_picture(raw: Any, channels: int, where: str = "the image") -> Picture:
    """Any single picture in `channels` channels. Other than 1 or 3 are as `as_bands` says.

    `raw`: a path; the content of an image file; a PIL image; an array (H, W) or (H, W, C); a tensor (H, W) or (C, H, W). Arrays and tensors
    hold uint8, uint16 (scaled by 65535), bool, or floats in 0..1, in 1 or 3 channels. `where` names it in
    errors. Raises DataError for anything else.
    """
    if channels not in USUAL:
        return as_bands(raw, channels, None if isinstance(raw, (str, os.PathLike)) else where)
    if isinstance(raw, (str, os.PathLike)):
        return read_image(raw, channels)
    if isinstance(raw, (bytes, Image.Image)):
        return read_image(raw, channels, where)
    if isinstance(raw, np.ndarray):
        return _from_array(raw, channels, where)
    if isinstance(raw, Tensor):
        if raw.ndim == 3 and raw.shape[0] not in (1, 3):
            hint = " It looks like (H, W, C): use tensor.permute(2, 0, 1)." if raw.shape[2] in (1, 3) else ""
            raise DataError(f"{where} is a tensor of shape {tuple(raw.shape)}; expected (C, H, W) with 1 or 3 channels.{hint}")
        if raw.layout is not torch.strided or raw.is_meta or raw.is_quantized:
            raise DataError(f"{where} is a tensor without plain values ({raw.layout}, {raw.device}, {raw.dtype}); expected a dense one, as from .to_dense().")
        raw = raw.detach().cpu()
        raw = raw.float() if raw.dtype == torch.bfloat16 else raw  # numpy has no bfloat16
        return _from_array((raw.permute(1, 2, 0) if raw.ndim == 3 else raw).numpy(), channels, where)
    raise DataError(f"{where} is a {type(raw).__name__}; expected a path, a PIL image, an array or a tensor.")


def read_image(source: str | os.PathLike | Image.Image | bytes, channels: int, where: str | None = None) -> Picture:
    """A file, its content or a PIL image, upright (EXIF), without transparency (on white), in `channels` channels; other than 1 or 3 as `as_bands` says.

    An .npy file holds what an array may hold (see `as_picture`), its channels last or first. 16-bit grey is scaled by its full range and becomes a float tensor; palettes, 1-bit and CMYK become 8-bit
    grey or RGB. Of animations and multi-page files the first picture is taken. `where` names it in errors, by default
    the path. Raises DataError that names it, says what it really is, and what to do.
    """
    if channels not in USUAL:
        return as_bands(source, channels, where)
    if isinstance(source, Image.Image):
        where = where or "the PIL image"
        with explained(where):
            return _flatten(source.copy(), channels, where)
    if isinstance(source, Encoded):
        where = source.where
    where = where or ("the image" if isinstance(source, bytes) else str(source))
    array = stored_array(source, where)
    if array is not None:
        channels_first = array.ndim == 3 and array.shape[0] in USUAL and array.shape[2] not in USUAL
        return _from_array(array.transpose(1, 2, 0) if channels_first else array, channels, where)
    with opened(source, where) as image:
        return _flatten(image, channels, where)


def to_tensor(picture: Picture) -> Tensor:
    """A picture as a float32 tensor (C, H, W) in 0..1."""
    if isinstance(picture, Tensor):
        return picture.clamp(0, 1)  # bicubic overshoots; 8-bit pictures are clipped by Pillow itself
    return F.pil_to_tensor(picture).float().div_(255)


def to_eight_bit(picture: Picture) -> Image.Image:
    """A picture as a PIL image of mode "L" or "RGB" (rounded to 8 bits when it was finer)."""
    if isinstance(picture, Image.Image):
        return picture
    return F.to_pil_image((picture.clamp(0, 1) * 255).round().to(torch.uint8))


def _flatten(image: Image.Image, channels: int, where: str) -> Picture:
    """An opened PIL image, which may be changed, as a picture; Pillow's own errors pass through."""
    image.load()
    if 0 in image.size:
        raise DataError(f"{where} is empty: {image.size[0]} x {image.size[1]} pixels.")
    white_is_zero = getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode in (*SIXTEEN_BIT, "I", "F"):
        picture = _high_depth(image, channels, where)
        return 1 - picture if white_is_zero else picture  # for 8 bits Pillow does it
    if image.has_transparency_data or image.mode == "PA":
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _high_depth(image: Image.Image, channels: int, where: str) -> Tensor:
    """Grey of more than 8 bits as float (C, H, W): 16 bits by 65535, floats as they are."""
    values = np.asarray(image, dtype=np.float32)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F":
        return _from_array(values, channels, where)
    if low < 0 or high > 65535:
        raise DataError(
            f"{where} holds {image.mode!r} integers from {low:,.0f} to {high:,.0f}, whose full range is not known. "
            "Save it as 8-bit or 16-bit grey, or as floats in 0..1."
        )
    return _from_array(values / 65535, channels, where)


def _from_array(array: np.ndarray, channels: int, where: str) -> Picture:
    """An array (H, W) or (H, W, C) as a picture; every check of shape, type and range is here."""
    if array.ndim == 2:
        array = array[:, :, None]  # (H, W, 1)
    if array.ndim != 3 or array.shape[2] not in (1, 3) or array.size == 0:
        hint = ""
        if array.ndim == 3 and array.shape[2] == 4:
            hint = " For transparency give a PIL image, which is put on white."
        elif array.ndim == 3 and array.shape[0] in (1, 3):
            hint = " It looks like (C, H, W): give a torch tensor, or use array.transpose(1, 2, 0)."
        elif array.ndim == 3:
            hint = " For a batch of grey images give (B, H, W, 1) or a list."
        raise DataError(f"{where} has the shape {array.shape}; expected (H, W) or (H, W, C) with 1 or 3 channels.{hint}")
    if array.dtype == np.uint8:
        image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
        return image.convert("L" if channels == 1 else "RGB")
    values = in_unit_range(array, where)
    tensor = torch.from_numpy(values).permute(2, 0, 1).contiguous()  # (C, H, W)
    if tensor.shape[0] == channels:
        return tensor
    return F.rgb_to_grayscale(tensor) if channels == 1 else tensor.expand(3, -1, -1).contiguous()
