"""Pictures as the files that they are stored in: for packing, checking and showing."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from modalities.common import raw
from modalities.common.folders import is_table
from modalities.vision.bands import MOST, USUAL, own_channels
from modalities.vision.files import ENDINGS, ImageTable
from modalities.vision.images import Picture, read_image, to_eight_bit, to_tensor
from modalities.vision.pictures import contact_sheet
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.sources import ImageFolder, endings_for
from modalities.vision.values import ARRAY, MAGIC
from trainer.errors import DataError
from trainer.image_files import opened

SIDE = 160
"""Pictures of different sizes are fitted into squares of this side for a sheet."""


def _look(content: bytes, where: str) -> tuple[str, tuple[int, ...]]:
    """Decode a picture as training does: with channels of other numbers than 1 and 3 as they are."""
    channels = own_channels(content, where)
    if channels:
        tensor = to_tensor(read_image(content, channels, where))
        return f"{'npy' if content.startswith(MAGIC) else 'TIFF'} of {channels} channel{'s' * (channels > 1)}", tuple(tensor.shape[1:])
    with opened(content, where) as image:
        form, (width, height) = f"{image.format} {image.mode}", image.size
        read_image(image, 3, where)
    return form, (height, width)


def _picture(content: bytes, where: str) -> Image.Image:
    return to_eight_bit(visible(content, where)).convert("RGB")


def visible(content: bytes, where: str) -> Picture:
    """What is shown of a picture: of other than one or three channels the first three (of two the first), from two deviations below their means to two above."""
    channels = own_channels(content, where)
    if channels in (0, *USUAL):
        return read_image(content, 3, where)
    pixels = read_image(content, channels, where)
    deviation, mean = torch.std_mean(pixels, dim=(1, 2), correction=0, keepdim=True)
    return ImagePreprocess.default(SIDE, channels).denormalise((pixels - mean) / deviation.clamp(min=1e-6))


def _sheet(pictures: list[Image.Image | None], captions: list[str] | None, path: Path, title: str) -> None:
    contact_sheet(_same_size(pictures), captions, path, title)


def _is_picture(content: bytes, where: str) -> bool:
    """Whether an array could be one: those of videos could not."""
    try:
        return own_channels(content, where) >= 0
    except DataError:
        return False


KIND = raw.Kind("vision", "pictures", ENDINGS, _look, _picture, _sheet, ImageFolder, ImageTable, ImagePreprocess.default(SIDE))
ARRAYS = replace(KIND, endings=(*ENDINGS, ARRAY.removeprefix(".")), preprocess=ImagePreprocess.default(SIDE, MOST), accepts=_is_picture)
"""The same with arrays, which models of other channels than 1 and 3 read."""
BESIDE_ARRAYS = (".npy", ".tif", ".tiff")
"""Where all pictures of a folder, or of a tar's sample, end like this, arrays are pictures, too; beside others they are not read."""


def open_raw(path: str, labelled: bool = True, classes: Sequence[str] | None = None) -> raw.RawSamples:
    """The pictures of a path or URL as files (see `modalities.common.raw.open_raw`), arrays among them in a table and as BESIDE_ARRAYS says."""
    found = raw.open_raw(ARRAYS, path, labelled, classes)
    if is_table(path) or arrays_count(files_of(found)):
        return found
    if isinstance(found, raw.RawFiles) and any(file.lower().endswith(ARRAY) for file in found.source.files):
        return raw.open_raw(KIND, path, labelled, classes)
    found.kind = KIND
    return found


def files_of(found: raw.RawSamples) -> Sequence[str]:
    """The names of all files, of tars the endings of the first sample."""
    return found.shards.endings(0) if isinstance(found, raw.RawShards) else found.source.files


def arrays_count(files: Sequence[str]) -> bool:
    """Whether arrays among files with these names or endings are pictures."""
    endings = {f".{file.lower().rpartition('.')[2]}" for file in files}
    return endings & set(endings_for(MOST)) <= set(BESIDE_ARRAYS)


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
