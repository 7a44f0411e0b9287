"""Pictures as the files that they are stored in: for packing, checking and showing."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from modalities.common import raw
from modalities.vision.files import ENDINGS, ImageTable
from modalities.vision.images import read_image, to_eight_bit, to_tensor
from modalities.vision.pictures import contact_sheet
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.sources import ImageFolder
from trainer.image_files import opened

SIDE = 160
"""Pictures of different sizes are fitted into squares of this side for a sheet."""


def _look(content: bytes, where: str) -> tuple[str, tuple[int, ...]]:
    """Decode a picture as training does."""
    with opened(content, where) as image:
        form, (width, height) = f"{image.format} {image.mode}", image.size
        read_image(image, 3, where)
    return form, (height, width)


def _picture(content: bytes, where: str) -> Image.Image:
    return to_eight_bit(read_image(content, 3, where))


def _sheet(pictures: list[Image.Image | None], captions: list[str] | None, path: Path, title: str) -> None:
    contact_sheet(_same_size(pictures), captions, path, title)


KIND = raw.Kind("vision", "pictures", ENDINGS, _look, _picture, _sheet, ImageFolder, ImageTable, ImagePreprocess.default(SIDE))
open_raw = partial(raw.open_raw, KIND)
"""(path, labelled=True, classes=None) -> the pictures of a path or URL as files."""


def _same_size(pictures: Sequence[Image.Image | None]) -> Tensor:
    """Pictures as (B, 3, H, W) in 0..1: as they are when all have one size, else each within a square on white; missing ones are NaN."""
    sizes = {picture.size for picture in pictures if picture is not None}
    size = next(iter(sizes)) if len(sizes) == 1 else (SIDE, SIDE)
    tensors = []
    for picture in pictures:
        if picture is None:
            tensors.append(torch.full((3, size[1], size[0]), torch.nan))
            continue
        if picture.size != size:
            scale = min(SIDE / picture.width, SIDE / picture.height)
            fitted = picture.resize((max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)), Image.Resampling.LANCZOS)
            picture = Image.new("RGB", size, "white")
            picture.paste(fitted, ((SIDE - fitted.width) // 2, (SIDE - fitted.height) // 2))
        tensors.append(to_tensor(picture))
    return torch.stack(tensors)
