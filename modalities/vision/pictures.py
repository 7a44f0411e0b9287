"""Sheets of pictures as PNG files: reconstructions row by row, samples with captions, attention, nearest neighbours."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modalities.common.sheets import GAP, GREY, INK, TEXT, cell, font, new_sheet, resized, save_sheet, shortened
from modalities.vision.preprocess import ImagePreprocess
from trainer.errors import DataError

FRAME, GREEN, RED = 4, (40, 160, 60), (200, 50, 40)
"""Of neighbours: pixels of a frame, its colour for one of the same class and for another."""


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
    pixels = {label: to_pixels(images[:count], preprocess) for label, images in rows.items()}
    if hidden is not None:
        pixels["masked"][hidden[:count].bool().any(dim=1).cpu().numpy()] = GREY
    return row_sheet(pixels, path, title)


def row_sheet(rows: dict[str, np.ndarray], path: Path | str, title: str = "", legend: dict[str, tuple[int, int, int]] | None = None) -> Path:
    """Draw labelled rows of pictures, each uint8 (B, H, W, 3) of one size, sample by sample in columns. Returns the path of the PNG.

    `legend`: names and their colours, which are listed below the rows.
    """
    first = next(iter(rows.values()))
    samples, height, width = len(first), *cell(first)
    left = 2 * GAP + max(math.ceil(font(TEXT).getlength(label)) for label in rows)
    across, down = left + samples * (width + GAP), len(rows) * (height + GAP)
    places, below = _legend_places(legend or {}, left, across)
    sheet, draw, top = new_sheet(title, across, down + below)
    for (name, colour), (x, y) in zip((legend or {}).items(), places):
        draw.rectangle((x, top + down + y, x + TEXT, top + down + y + TEXT), colour)
        draw.text((x + TEXT + GAP // 2, top + down + y + TEXT // 2), name, INK, font(TEXT), anchor="lm")
    for row, (label, pictures) in enumerate(rows.items()):
        y = top + row * (height + GAP)
        draw.text((left - GAP, y + height // 2), label, INK, font(TEXT), anchor="rm")
        for column, picture in enumerate(pictures):
            sheet.paste(resized(picture, height, width), (left + column * (width + GAP), y))
    return save_sheet(sheet, path)


def _legend_places(names: Iterable[str], left: int, right: int) -> tuple[list[tuple[int, int]], int]:
    """Where the squares of a legend's colours lie (x, y) between two edges, line after line, and the height of all lines."""
    places, x, y = [], left, 0
    for name in names:
        wide = TEXT + GAP // 2 + math.ceil(font(TEXT).getlength(name)) + 2 * GAP
        if x > left and x + wide > right:
            x, y = left, y + TEXT + GAP
        places.append((x, y))
        x += wide
    return places, y + TEXT + GAP if places else 0


def contact_sheet(
    images: Tensor,
    labels: Sequence[str] | None,
    path: Path | str,
    title: str = "",
    preprocess: ImagePreprocess | None = None,
    columns: int = 8,
) -> Path:
    """Draw images (B, C, H, W), in 0..1 or normalised, in a grid with a caption under each. Returns the path of the PNG."""
    pictures = to_pixels(images, preprocess)
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


def attention_sheet(images: Tensor, maps: Tensor, path: Path | str, title: str = "", heads: int = 6) -> Path:
    """Draw images (B, C, H, W) in 0..1 in rows: the image, the mean of its maps (B, heads, h, w) laid over it, and the first `heads` maps alone.

    Each map is drawn from its least (dark) to its largest value (bright). Returns the path of the PNG.
    """
    if maps.ndim != 4 or len(maps) != len(images):
        raise DataError(f"Attention must be (B, heads, rows, columns) for {len(images)} images, found {tuple(maps.shape)}.")
    pictures = to_pixels(images, None)
    height, width = cell(pictures)
    shown = min(heads, maps.shape[1])
    labels = ["image", "all heads", *(f"head {i}" for i in range(shown))]
    sheet, draw, top = new_sheet(title, GAP + len(labels) * (width + GAP), len(pictures) * (height + GAP) + TEXT + GAP)
    for column, label in enumerate(labels):
        draw.text((GAP + column * (width + GAP) + width // 2, top), label, INK, font(TEXT), anchor="ma")
    for row, (plain, found) in enumerate(zip(pictures, maps.float())):
        image = resized(plain, height, width)
        mean = _coloured(found.mean(dim=0), height, width)
        cells = [image, Image.blend(image, mean, 0.6), *(_coloured(one, height, width) for one in found[:shown])]
        for column, picture in enumerate(cells):
            sheet.paste(picture, (GAP + column * (width + GAP), top + TEXT + GAP + row * (height + GAP)))
    return save_sheet(sheet, path)


def neighbour_sheet(
    queries: Tensor, neighbours: Tensor, captions: Sequence[str], found: Sequence[Sequence[str]], right: Sequence[Sequence[bool]] | None, path: Path | str, title: str = ""
) -> Path:
    """Draw queries (B, C, H, W) in 0..1, each in a row with its nearest neighbours (B, k, C, H, W) and a caption under each picture.

    `right` frames a neighbour in green (true) or red. Returns the path of the PNG.
    """
    count, k = neighbours.shape[:2]
    if len(queries) != count or len(captions) != count or any(len(row) != k for row in found):
        raise DataError(f"A sheet of neighbours needs as many queries as rows and a caption for each, found {len(queries)}, {count} x {k} and {len(captions)}.")
    rows = to_pixels(torch.cat([queries[:, None], neighbours], dim=1).flatten(0, 1), None)
    height, width = cell(rows)
    pitch, gap = height + 2 * GAP + TEXT, 3 * GAP
    sheet, draw, top = new_sheet(title, gap + (k + 1) * (width + GAP), count * pitch)
    for row in range(count):
        for column in range(k + 1):
            x, y = GAP + column * (width + GAP) + (gap - GAP if column else 0), top + row * pitch
            if column and right is not None:
                draw.rectangle((x - FRAME, y - FRAME, x + width + FRAME - 1, y + height + FRAME - 1), GREEN if right[row][column - 1] else RED)
            sheet.paste(resized(rows[row * (k + 1) + column], height, width), (x, y))
            caption = found[row][column - 1] if column else captions[row]
            draw.text((x + width // 2, y + height + FRAME + 1), shortened(str(caption), width), INK, font(TEXT), anchor="ma")
    return save_sheet(sheet, path)


def to_pixels(images: Tensor, preprocess: ImagePreprocess | None) -> np.ndarray:
    """(B, C, H, W) -> uint8 (B, H, W, 3); NaN becomes mid-grey. Of other than 1 or 3 channels, with `preprocess`, see its `denormalise`."""
    images = images.detach().float().cpu()
    images = images.clamp(0, 1) if preprocess is None else preprocess.denormalise(images)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise DataError(f"Pictures must be (B, C, H, W) with 1 or 3 channels and at least one sample, found {tuple(images.shape)}.")
    values = (images * 255).round().nan_to_num(GREY).byte()
    return values.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy().copy()


def _coloured(values: Tensor, height: int, width: int) -> Image.Image:
    """A map (h, w) in colours, from its least to its largest value."""
    low, high = values.min(), values.max()
    shares = ((values - low) / (high - low).clamp(min=1e-12)).cpu().numpy()
    return resized((matplotlib.colormaps["inferno"](shares)[:, :, :3] * 255).round().astype(np.uint8), height, width)
