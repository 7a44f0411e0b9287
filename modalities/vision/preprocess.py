"""Image preprocessing: what is stored with a checkpoint so that inference sees what training saw."""

import logging
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from modalities.common.preprocess import Preprocess
from modalities.vision.bands import MOST, USUAL
from modalities.vision.images import Picture, as_picture, to_tensor
from trainer.errors import CheckpointError, ConfigError, DataError, shorten
from trainer.objective import Batch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DARK = 1 / 15
"""A picture whose brightest pixel is below this share of its range is warned about: 12 bits stored in 16 are 1/16."""
ENLARGED = 4
"""A picture that has to be enlarged more than so many times is warned about."""
SMALL = 64
"""Below this side length nothing is cut off at evaluation: the margin would be a part of the object."""
LARGEST = 16384
"""Longest side of an input, in pixels."""
LONGEST = 20
"""Pictures longer than 20:1 are first cut to that about their centre; the rest would never be seen, only resized."""

SPAN = 2.0
"""Deviations to either side of the mean that a picture of other than 1 or 3 channels shows."""

log = logging.getLogger("zoo")


@dataclass(frozen=True)
class ImagePreprocess(Preprocess):
    """Picture -> normalised tensor: resize, centre crop, (x - mean) / std.

    The evaluation transform of MAE (He et al. 2021, arXiv 2111.06377) and of timm: the shorter side is resized
    to `size / crop_pct`, then the centre is cut out. 8-bit pictures are resized by Pillow in 8 bits, so that
    the numbers equal theirs.
    """

    type: ClassVar[str] = "image"

    size: tuple[int, int] = (224, 224)
    """Height and width of what the model sees, in pixels."""
    channels: int = 3
    """1 (grey), 3 (RGB), or another number up to 13. Grey pictures are repeated for 3, coloured ones made grey (ITU-R 601) for 1; for any other number pictures must have it."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Per channel, of pixels in 0..1."""
    std: tuple[float, ...] = IMAGENET_STD
    """Per channel, of pixels in 0..1."""
    interpolation: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    """How pictures are resized (anti-aliased)."""
    crop_pct: float = 0.875
    """Fraction of the resized picture that the centre crop keeps along a side. 1: nothing is cut off a square."""

    def __post_init__(self) -> None:
        if len(self.size) != 2 or not 1 <= min(self.size) <= max(self.size) <= LARGEST:
            raise ConfigError(f"preprocess.size must be (height, width) in pixels, 1 to {LARGEST} each, found {shorten(self.size)}.")
        if not 1 <= self.channels <= MOST:
            raise ConfigError(f"preprocess.channels must be 1 (grey), 3 (RGB) or another number up to {MOST}, found {self.channels}.")
        statistics = (*self.mean, *self.std)
        if not len(self.mean) == len(self.std) == self.channels or min(self.std) <= 0 or not all(map(math.isfinite, statistics)):
            raise ConfigError(
                f"preprocess.mean and .std need {self.channels} finite number(s) each, std above 0; found {shorten(self.mean)} and {shorten(self.std)}."
            )
        if not 0 < self.crop_pct <= 1:
            raise ConfigError(f"preprocess.crop_pct must be above 0 and at most 1, found {self.crop_pct}.")

    @classmethod
    def default(cls, input_size: int | tuple[int, int], channels: int = 3) -> "ImagePreprocess":
        """The usual preprocessing for a size: ImageNet statistics for RGB, 0.5 / 0.5 (range -1..1) for other channels.

        crop_pct is MAE's rule: 224/256 up to 224 pixels, 1 above; and 1 for inputs below 64 pixels.
        """
        size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,) * channels, (0.5,) * channels)
        crop_pct = 0.875 if SMALL <= max(size) <= 224 else 1.0
        return cls(size=size, channels=channels, mean=mean, std=std, crop_pct=crop_pct)

    @classmethod
    def usual(cls, input_size: tuple[int, ...], channels: int) -> "ImagePreprocess | None":
        """`default` where it exists: two spatial axes and 1 or 3 channels."""
        return cls.default(input_size, channels) if len(input_size) == 2 and channels in USUAL else None

    def adapted(self, input_shape: tuple[int, ...]) -> "ImagePreprocess | None":
        """For another size the usual crop of that size; for other channels the mean statistics of the old ones. None for other than 1 or 3 channels, which have no usual ones."""
        channels, *size = input_shape
        if len(size) != 2 or (channels != self.channels and not {channels, self.channels} <= set(USUAL)):
            return None
        changes: dict[str, Any] = {}
        if tuple(size) != self.size:
            changes = {"size": tuple(size), "crop_pct": self.default(tuple(size), channels).crop_pct}
        if channels != self.channels:
            mean, std = (sum(values) / self.channels for values in (self.mean, self.std))
            changes |= {"channels": channels, "mean": (mean,) * channels, "std": (std,) * channels}
        return replace(self, **changes)

    def require_shape(self, input_shape: tuple[int, ...], where: str) -> None:
        if (self.channels, *self.size) != tuple(input_shape):
            raise CheckpointError(
                f"{where}: its preprocessing makes images of {self.channels} channel(s) and {self.size} pixels, and its model reads {input_shape[0]} "
                f"channel(s) and {tuple(input_shape[1:])}. Use the preprocessor_config.json that came with this model."
            )

    def __call__(self, raw: Any) -> Batch:
        """One picture or several -> {"image": (B, C, H, W) float32}.

        `raw`: whatever `as_picture` takes (path, PIL image, array (H, W[, C]), tensor ([C,] H, W)), a list of
        such, an array (B, H, W, C) or a tensor (B, C, H, W). Sizes may differ within a list. Raises DataError.
        """
        several = isinstance(raw, (list, tuple)) or (isinstance(raw, (np.ndarray, Tensor)) and raw.ndim == 4)
        if several and len(raw) == 0:
            raise DataError("There is no image: the list is empty. Expected at least one.")
        where = "image {} of the batch" if several else "the image"
        images, remarks = [], {}
        for i, one in enumerate(raw if several else [raw]):
            picture = as_picture(one, self.channels, where.format(i))
            for kind, remark in self._remarks(picture).items():
                remarks.setdefault(kind, []).append(f"{where.format(i)} {remark}")
            images.append(self._finish(picture))
        for found in remarks.values():  # one line for each kind, however many images
            log.warning("%s", found[0] if len(found) == 1 else f"{found[0]} The same holds for {len(found) - 1} more.")
        return {"image": torch.stack(images)}

    def transform(self, raw: Any, where: str = "the image") -> Tensor:
        """The deterministic transform of one picture: (C, H, W). Evaluation in training and inference both use it."""
        return self._finish(as_picture(raw, self.channels, where))

    def _finish(self, picture: Picture) -> Tensor:
        return self.normalise(to_tensor(self.fit(picture)))

    def _remarks(self, picture: Picture) -> dict[str, str]:
        """What is no error but hardly what training saw, by kind, with the numbers."""
        height, width = F.get_size(picture)
        brightest = _brightest(picture)
        remarks = {}
        if 0 < brightest < DARK and self.channels in USUAL:  # the numbers of other cameras may fill a small part of their range
            remarks["dark"] = (
                f"is nearly black: its brightest pixel is {brightest:.4f} of the full range 0..1. "
                "Was it scaled twice, is it a mask, or are its bits fewer than its type holds?"
            )
        if min(height / self.size[0], width / self.size[1]) < 1 / ENLARGED:
            remarks["small"] = f"has only {height} x {width} pixels and is enlarged to {self.size[0]} x {self.size[1]}."
        if max(height, width) > LONGEST * min(height, width):
            remarks["long"] = f"has {height} x {width} pixels; what lies beyond {LONGEST}:1 about its centre is cut off."
        return remarks

    def fit(self, picture: Picture, interpolation: str | None = None) -> Picture:
        """Resize (by `interpolation`, where it is another than that of pictures) and centre crop to `size`, pixels otherwise as they were."""
        sides = list(F.get_size(picture))
        middle, new = self._resizing(*sides)
        picture = picture if middle == sides else F.center_crop(picture, middle)
        if new != middle:
            mode = interpolation or self.interpolation
            picture = F.resize(picture, new, InterpolationMode(mode), antialias=not mode.startswith("nearest"))
        return F.center_crop(picture, list(self.size))

    def seen(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Which part of a picture of this size the model sees after `fit`: top, left, height, width, in pixels of the picture, rounded."""
        middle, new = self._resizing(height, width)
        edges = []
        for side, kept, resized, size in zip((height, width), middle, new, self.size):
            half = min(size / resized, 1) * kept / 2
            edges.append((round(side / 2 - half), round(side / 2 + half)))
        (top, bottom), (left, right) = edges
        return top, left, bottom - top, right - left

    def _resizing(self, height: int, width: int) -> tuple[list[int], list[int]]:
        """What is left of a picture that is extremely long, and the size that this is resized to before the crop."""
        short = min(height, width)
        height, width = min(height, LONGEST * short), min(width, LONGEST * short)
        h, w = (int(side / self.crop_pct) for side in self.size)
        # The smallest size that covers (h, w) at the picture's own aspect; torchvision's rounding.
        return [height, width], [h, int(h * width / height)] if h * width >= w * height else [int(w * height / width), w]

    def normalise(self, pixels: Tensor) -> Tensor:
        """(..., C, H, W) in 0..1, or uint8 -> float32 with the stored statistics."""
        if pixels.dtype == torch.uint8:
            pixels = pixels.float() / 255
        return (pixels - _statistic(self.mean, pixels.device)).div_(_statistic(self.std, pixels.device))

    def denormalise(self, images: Tensor) -> Tensor:
        """The reverse of `normalise`, clipped to 0..1: (..., C, H, W) for looking at.

        Of other than 1 or 3 channels the first three (of two the first), from SPAN deviations below their means to as many above: (..., 3 or 1, H, W).
        """
        images = images.detach().float()
        if self.channels not in USUAL:
            return (images[..., : 3 if self.channels > 3 else 1, :, :] / (2 * SPAN) + 0.5).clamp(0, 1)
        return (images * _statistic(self.std, images.device) + _statistic(self.mean, images.device)).clamp(0, 1)


@lru_cache(maxsize=16)
def _statistic(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(C, 1, 1) float32. Kept: it is asked for with every picture."""
    return torch.tensor(values, device=device).view(-1, 1, 1)


def _brightest(picture: Picture) -> float:
    """The largest value of any channel, in 0..1."""
    if isinstance(picture, Tensor):
        return float(picture.max())
    extrema = picture.getextrema()
    return max(high for _, high in (extrema if picture.mode == "RGB" else [extrema])) / 255
