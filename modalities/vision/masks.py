"""Class ids of pixels as PNG files, at the size of the pictures that they are about."""

from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

from modalities.vision.images import as_picture
from modalities.vision.maps import IGNORED
from modalities.vision.preprocess import ImagePreprocess
from trainer.files import explain

CLASSES = "tab20"
"""Colours of classes, which begin again after twenty."""
BLANK = (127, 127, 127)
"""Colour of pixels that are of no class."""


def palette() -> np.ndarray:
    """The colours of the ids 0 to 255, uint8 (256, 3)."""
    colours = matplotlib.colormaps[CLASSES]
    table = (colours(np.arange(256) % colours.N)[:, :3] * 255).round().astype(np.uint8)
    table[IGNORED] = BLANK
    return table


def whole_mask(logits: Tensor, preprocess: ImagePreprocess, height: int, width: int) -> np.ndarray:
    """Logits (K, h, w) of the part of a picture that the model saw -> class ids of the whole picture, uint8 (height, width); 255 where it did not look."""
    top, left, rows, columns = preprocess.seen(height, width)
    large = F.interpolate(logits[None].float(), size=(rows, columns), mode="bilinear", align_corners=False)[0]
    mask = np.full((height, width), IGNORED, np.uint8)
    mask[top : top + rows, left : left + columns] = large.argmax(dim=0).cpu().numpy()
    return mask


def write_masks(logits: Tensor, files: list[Path], preprocess: ImagePreprocess, beside: Path) -> list[Path]:
    """Write what a segmenter said of picture files, logits (B, K, h, w), as PNGs whose palette indices are the class ids.

    They lie in the folder of `beside` and are called after it and the picture. Returns their paths.
    """
    written: list[Path] = []
    for said, file in zip(logits, files):
        height, width = transforms.get_size(as_picture(file, preprocess.channels))
        mask = Image.fromarray(whole_mask(said, preprocess, height, width))
        mask.putpalette(palette().tobytes())
        path = beside.with_name(f"{beside.stem}-{file.stem}.png")
        if path in written:
            path = beside.with_name(f"{beside.stem}-{file.stem}-{len(written)}.png")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            mask.save(path)
        except OSError as error:
            raise explain(error, path) from error
        written.append(path)
    return written


def coloured_classes(ids: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Class ids (B, h, w) -> uint8 (B, *size, 3); pixels without a label are grey."""
    large = F.interpolate(ids[:, None].detach().float().cpu(), size=size, mode="nearest")[:, 0].to(torch.int64)
    return palette()[torch.where(large == IGNORED, large, large % matplotlib.colormaps[CLASSES].N).numpy()]
