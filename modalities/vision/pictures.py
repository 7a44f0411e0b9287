"""Sheets of pictures as PNG files: reconstructions row by row, samples with captions."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from modalities.common.sheets import GAP, GREY, INK, TEXT, cell, font, new_sheet, resized, save_sheet, shortened
from modalities.vision.preprocess import ImagePreprocess
from trainer.errors import DataError


def reconstruction_sheet(
    original: Tensor,
    masked: Tensor,
    reconstruction: Tensor,
    path: Path | str,
    title: str = "",
    preprocess: ImagePreprocess | None = None,
    hidden: Tensor | None = None,
    count: int = 8,
) -> Path:
    """Draw the first `count` samples as three rows: original, masked, reconstruction. Returns the path of the PNG.

    The tensors are (B, C, H, W) with C = 1 (drawn in grey) or 3, in 0..1, or normalised when `preprocess` is
    given. Pixels of `masked` that are NaN, or True in `hidden` (B, 1, H, W), are drawn in mid-grey.
    """
    rows = {"original": original, "masked": masked, "reconstruction": reconstruction}
    pixels = {label: _pixels(images[:count], preprocess) for label, images in rows.items()}
    if hidden is not None:
        pixels["masked"][hidden[:count].bool().any(dim=1).cpu().numpy()] = GREY
    samples, height, width = len(pixels["original"]), *cell(pixels["original"])
    left = 2 * GAP + max(math.ceil(font(TEXT).getlength(label)) for label in rows)
    sheet, draw, top = new_sheet(title, left + samples * (width + GAP), len(rows) * (height + GAP))
    for row, (label, pictures) in enumerate(pixels.items()):
        y = top + row * (height + GAP)
        draw.text((left - GAP, y + height // 2), label, INK, font(TEXT), anchor="rm")
        for column, picture in enumerate(pictures):
            sheet.paste(resized(picture, height, width), (left + column * (width + GAP), y))
    return save_sheet(sheet, path)


def contact_sheet(
    images: Tensor,
    labels: Sequence[str] | None,
    path: Path | str,
    title: str = "",
    preprocess: ImagePreprocess | None = None,
    columns: int = 8,
) -> Path:
    """Draw images (B, C, H, W), in 0..1 or normalised, in a grid with a caption under each. Returns the path of the PNG."""
    pictures = _pixels(images, preprocess)
    if labels is not None and len(labels) != len(pictures):
        raise DataError(f"A contact sheet needs one caption per image, found {len(labels)} for {len(pictures)} images.")
    height, width = cell(pictures)
    columns = min(columns, len(pictures))
    pitch = height + GAP + (TEXT + GAP // 2 if labels is not None else 0)
    sheet, draw, top = new_sheet(title, GAP + columns * (width + GAP), math.ceil(len(pictures) / columns) * pitch)
    for i, picture in enumerate(pictures):
        x, y = GAP + i % columns * (width + GAP), top + i // columns * pitch
        sheet.paste(resized(picture, height, width), (x, y))
        if labels is not None:
            draw.text((x + width // 2, y + height + 2), shortened(str(labels[i]), width), INK, font(TEXT), anchor="ma")
    return save_sheet(sheet, path)


def _pixels(images: Tensor, preprocess: ImagePreprocess | None) -> np.ndarray:
    """(B, C, H, W) -> uint8 (B, H, W, 3); NaN becomes mid-grey."""
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise DataError(f"Pictures must be (B, C, H, W) with 1 or 3 channels and at least one sample, found {tuple(images.shape)}.")
    images = images.detach().float().cpu()
    images = images.clamp(0, 1) if preprocess is None else preprocess.denormalise(images)
    values = (images * 255).round().nan_to_num(GREY).byte()
    return values.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy().copy()
