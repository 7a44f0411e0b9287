"""Sheets of pictures as PNG files: cells in rows and columns below a title, with text."""

import math
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trainer.files import explain

SMALLEST, LARGEST = 128, 256
"""Sides of a picture on a sheet, in pixels: smaller ones are enlarged by a whole number, larger ones shrunk."""
GAP = 10
TEXT, TITLE = 14, 17
GREY = 127
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
"""Pillow's own font has ASCII only; class names have more, and captions have arrows."""
INK, PAPER = (30, 30, 30), (255, 255, 255)


def spread(length: int, count: int) -> list[int]:
    """`count` indices spread evenly over a range: which samples to show."""
    return [i * length // min(count, length) for i in range(min(count, length))]


def cell(pictures: np.ndarray) -> tuple[int, int]:
    """Height and width at which (B, h, w, 3) are drawn."""
    height, width = pictures.shape[1:3]
    zoom = max(1, math.ceil(SMALLEST / max(height, width)))  # whole: every pixel stays a sharp square
    scale = min(zoom, LARGEST / max(height, width)) if zoom == 1 else zoom
    return max(round(height * scale), 1), max(round(width * scale), 1)


def resized(picture: np.ndarray, height: int, width: int) -> Image.Image:
    """A picture (h, w, 3) at the size of a cell: enlarged in sharp squares, or shrunk."""
    enlarged = height >= picture.shape[0]
    return Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS)


def new_sheet(title: str, width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    """An empty sheet for `width` x `height` pixels of content below a title; and where the content begins."""
    lines = _wrapped(title, width - 2 * GAP)
    top = GAP + len(lines) * (TITLE + 6) + (GAP if lines else 0)
    sheet = Image.new("RGB", (width, top + height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(lines):
        draw.text((width // 2, GAP + i * (TITLE + 6)), line, INK, font(TITLE), anchor="ma")
    return sheet, draw, top


def _wrapped(text: str, width: int) -> list[str]:
    """Words in lines of at most `width` pixels."""
    lines: list[str] = []
    for word in text.split():
        if lines and font(TITLE).getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return [shortened(line, width, TITLE) for line in lines]


def shortened(text: str, width: int, size: int = TEXT) -> str:
    """`text`, cut off with an ellipsis where it does not fit into `width` pixels."""
    short = text
    while short and font(size).getlength(short if short == text else short + "...") > width:
        short = short[:-1]
    return short if short == text else short + "..."


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font of all sheets, by its height in pixels."""
    return ImageFont.truetype(FONT, size)


def save_sheet(sheet: Image.Image, path: Path | str) -> Path:
    """Write a sheet as PNG; CheckpointError when the disk does not take it."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, format="PNG")
    except OSError as error:
        raise explain(error, path) from error
    return path
