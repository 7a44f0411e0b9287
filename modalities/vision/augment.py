"""Random changes of training pictures: MAE's for pre-training, timm's for fine-tuning.

An augmentation maps a raw picture to a normalised tensor (C, H, W), as `ImagePreprocess.transform` does for
evaluation. All randomness comes from the global generators (torch, numpy, random), which the loader seeds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import ImageOps
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp, posterize
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from modalities.vision.augment_paired import PairedTransform
from modalities.vision.bands import USUAL
from modalities.vision.images import Picture, as_picture, to_eight_bit, to_tensor
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.preprocess_paired import PairedPreprocess
from trainer.errors import ConfigError

RATIO = (3 / 4, 4 / 3)
"""Smallest and largest width / height of a random crop in pre-training, torchvision's own."""


@dataclass(frozen=True)
class PretrainAugment:
    """Random resized crop and mirror image: all that MAE does (arXiv 2111.06377, section 4)."""

    crop_scale: tuple[float, float] | None = (0.2, 1.0)
    """Smallest and largest part of the area that a random crop takes. Null: the evaluation transform instead."""
    flip: bool = True
    """Mirror half of the pictures left to right. False where left and right differ in meaning (digits, text)."""

    def __post_init__(self) -> None:
        _check_scale(self.crop_scale, "pretrain.crop_scale")

    @classmethod
    def none(cls) -> "PretrainAugment":
        """No change at all, for tiny grey pictures."""
        return cls(crop_scale=None, flip=False)

    def build(self, preprocess: ImagePreprocess | PairedPreprocess) -> "PretrainTransform | PairedTransform | None":
        """The transform, or None when nothing is random."""
        if isinstance(preprocess, PairedPreprocess) and self != self.none():
            return PairedTransform(preprocess, self.crop_scale, RATIO, self.flip)
        return PretrainTransform(self, preprocess) if self != self.none() else None


class PretrainTransform:
    """Raw picture -> (C, H, W): crop, mirror, normalise."""

    def __init__(self, config: PretrainAugment, preprocess: ImagePreprocess, ratio: tuple[float, float] = RATIO) -> None:
        self.preprocess, self.flip = preprocess, config.flip
        self.cropped: Callable[[Picture], Picture] = preprocess.fit
        if config.crop_scale is not None:
            self.cropped = RandomCrop(config.crop_scale, ratio, preprocess)

    def __call__(self, raw: Any) -> Tensor:
        return self.change(as_picture(raw, self.preprocess.channels))

    def change(self, picture: Picture) -> Tensor:
        """The same of a picture that has been read."""
        picture = self.cropped(picture)
        if self.flip and torch.rand(()) < 0.5:
            picture = F.horizontal_flip(picture)
        return self.preprocess.normalise(to_tensor(picture))


class RandomCrop:
    """torchvision's random resized crop, without its search for pictures in nested inputs, which costs a twentieth of the time."""

    def __init__(self, scale: tuple[float, float], ratio: tuple[float, float], preprocess: ImagePreprocess) -> None:
        mode = v2.InterpolationMode(preprocess.interpolation)
        self.crop = v2.RandomResizedCrop(preprocess.size, scale=scale, ratio=ratio, interpolation=mode, antialias=True)

    def __call__(self, picture: Picture) -> Picture:
        place, crop = self.crop.make_params([picture]), self.crop
        return F.resized_crop(picture, **place, size=list(crop.size), interpolation=crop.interpolation, antialias=crop.antialias)


@dataclass(frozen=True)
class FinetuneAugment:
    """timm's training transform with the values of MAE's fine-tuning."""

    crop_scale: tuple[float, float] | None = (0.08, 1.0)
    """Smallest and largest part of the area that a random crop takes. Null: the evaluation transform's crop."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width / height of a random crop."""
    one_draw: bool = False
    """Draw the shape of a crop once and clip it to the picture (BYOL's rule, which MAE's linear probe uses), instead
    of drawing up to ten times until it fits."""
    shift: int = 0
    """Move the picture by up to this many pixels each way, black where it came from (for tiny pictures, before the crop)."""
    flip: bool = True
    """Mirror half of the pictures left to right. False where left and right differ in meaning (digits, text)."""
    color_jitter: float | None = None
    """Random brightness, contrast and saturation; not used together with auto_augment."""
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    """timm's text for RandAugment, AugMix or AutoAugment. Null: none."""
    erase_prob: float = 0.25
    """Chance that a random rectangle is erased."""
    erase_mode: Literal["const", "rand", "pixel"] = "pixel"
    """What an erased rectangle is filled with: zeros, one random colour, random pixels."""
    erase_count: int = 1
    """Most rectangles erased in a picture."""

    def __post_init__(self) -> None:
        _check_scale(self.crop_scale, "finetune.crop_scale")
        if not 0 <= self.erase_prob <= 1 or self.erase_count < 1 or self.shift < 0:
            raise ConfigError(
                f"finetune needs erase_prob in 0..1, erase_count at least 1 and shift at least 0, "
                f"found {self.erase_prob}, {self.erase_count} and {self.shift}."
            )

    @classmethod
    def none(cls) -> "FinetuneAugment":
        """No change at all, for tiny grey pictures."""
        return cls(crop_scale=None, flip=False, auto_augment=None, erase_prob=0.0)

    @classmethod
    def probe(cls) -> "FinetuneAugment":
        """What MAE's linear probe does: a one-draw crop and the mirror image (specification 1.5)."""
        return cls(one_draw=True, auto_augment=None, erase_prob=0.0)

    def build(self, preprocess: ImagePreprocess | PairedPreprocess) -> "FinetuneTransform | PairedTransform | None":
        """The transform, or None when nothing is random. ConfigError when timm does not know auto_augment, for a change of
        colours or a rectangle that aligned maps would not share, or for a change of colours where there are other than 1 or 3 channels."""
        if isinstance(preprocess, PairedPreprocess) and self != self.none():
            if self.one_draw or self.color_jitter is not None or self.auto_augment is not None or self.erase_prob:
                raise ConfigError(
                    "Depth and segmentation go with the picture through crop, mirror image and shift only. "
                    "Set augment.auto_augment and augment.color_jitter to null, erase_prob to 0 and one_draw to false."
                )
            return PairedTransform(preprocess, self.crop_scale, self.crop_ratio, self.flip, self.shift)
        if self == self.none():
            return None
        return FinetuneTransform(self, preprocess) if preprocess.channels in USUAL else BandsTransform(self, preprocess)


class FinetuneTransform:
    """Raw picture -> (C, H, W): shift, then timm's crop, mirror, auto-augment, normalise, erase."""

    def __init__(self, config: FinetuneAugment, preprocess: ImagePreprocess) -> None:
        self.preprocess, self.shift = preprocess, config.shift
        height, width = preprocess.size
        self.one_draw = OneDrawCrop(config, preprocess) if config.one_draw and config.crop_scale else None
        self.crops = config.crop_scale is not None and self.one_draw is None
        try:
            self.timm = create_transform(
                (preprocess.channels, height, width),
                is_training=True,
                # a crop of the whole picture in its own shape changes nothing
                scale=config.crop_scale if self.crops else (1.0, 1.0),
                ratio=config.crop_ratio if self.crops else (width / height, width / height),
                hflip=0.5 if config.flip else 0.0,
                color_jitter=config.color_jitter,
                auto_augment=config.auto_augment,
                interpolation=preprocess.interpolation,
                mean=preprocess.mean,
                std=preprocess.std,
                re_prob=config.erase_prob,
                re_mode=config.erase_mode,
                re_count=config.erase_count,
            )
        except (AssertionError, KeyError, ValueError, TypeError, IndexError, NotImplementedError) as error:
            raise ConfigError(
                f"timm cannot build finetune.auto_augment={config.auto_augment!r}: {error}. "
                "Expected text as 'rand-m9-mstd0.5-inc1', 'augmix-m3', 'original', or null."
            ) from error
        _repair_posterize(self.timm)

    def __call__(self, raw: Any) -> Tensor:
        picture = to_eight_bit(as_picture(raw, self.preprocess.channels))  # timm's operations are for 8 bits
        if self.one_draw is not None:
            picture = self.one_draw(picture)
        elif not self.crops:
            picture = self.preprocess.fit(picture)
        if self.shift:
            dx, dy = (torch.randint(-self.shift, self.shift + 1, (2,))).tolist()
            width, height = picture.size
            picture = picture.crop((dx, dy, width + dx, height + dy))  # Pillow fills with black outside
        return self.timm(picture)


class BandsTransform:
    """Raw picture of other than 1 or 3 channels -> (C, H, W): shift, crop, mirror, normalise, erase, in the picture's own precision."""

    def __init__(self, config: FinetuneAugment, preprocess: ImagePreprocess) -> None:
        if config.auto_augment is not None or config.color_jitter is not None:
            raise ConfigError(
                f"augment.auto_augment and augment.color_jitter change 8-bit grey or RGB pictures, and these have {preprocess.channels} channels. "
                "Set both to null (--data.augment.auto_augment None); crop, shift, mirror image and erasing work with any channels."
            )
        self.shift = config.shift
        self.erase = RandomErasing(config.erase_prob, mode=config.erase_mode, max_count=config.erase_count, device="cpu") if config.erase_prob else None
        self.rest = PretrainTransform(PretrainAugment(config.crop_scale, config.flip), preprocess, config.crop_ratio)
        if config.one_draw and config.crop_scale:
            self.rest.cropped = OneDrawCrop(config, preprocess)

    def __call__(self, raw: Any) -> Tensor:
        picture = as_picture(raw, self.rest.preprocess.channels)
        if self.shift:
            top, left = torch.randint(-self.shift, self.shift + 1, (2,)).tolist()
            picture = F.crop(picture, top, left, *F.get_size(picture))  # zeros outside
        image = self.rest.change(picture)
        return image if self.erase is None else self.erase(image)


class OneDrawCrop:
    """Random resized crop whose area and shape are drawn once and clipped to the picture; then resized."""

    def __init__(self, config: FinetuneAugment, preprocess: ImagePreprocess) -> None:
        self.scale, self.size = config.crop_scale, preprocess.size
        self.ratio = tuple(math.log(r) for r in config.crop_ratio)
        self.interpolation = v2.InterpolationMode(preprocess.interpolation)

    def __call__(self, picture: Any) -> Any:
        height, width = F.get_size(picture)
        area = width * height * float(torch.empty(()).uniform_(*self.scale))
        ratio = math.exp(float(torch.empty(()).uniform_(*self.ratio)))  # width / height
        w, h = min(max(round((area * ratio) ** 0.5), 1), width), min(max(round((area / ratio) ** 0.5), 1), height)
        top, left = (int(torch.randint(0, room + 1, ())) for room in (height - h, width - w))
        return F.resized_crop(picture, top, left, h, w, self.size, self.interpolation, antialias=True)


def _check_scale(scale: tuple[float, float] | None, where: str) -> None:
    if scale is not None and not 0 < scale[0] <= scale[1] <= 1:
        raise ConfigError(f"{where} must be (smallest, largest) within 0..1, found {scale}.")


def _repair_posterize(transform: Any) -> None:
    """timm asks Pillow to keep 0 bits at the greatest strength, which Pillow 13 refuses: keep 1."""
    if isinstance(transform, AugmentOp):
        if transform.aug_fn is posterize:
            transform.aug_fn = _posterize
    elif isinstance(transform, (list, tuple)):
        for part in transform:
            _repair_posterize(part)
    else:
        for name in ("transforms", "ops", "policy"):
            _repair_posterize(getattr(transform, name, ()))


def _posterize(image: Any, bits: int, **_: Any) -> Any:
    return image if bits >= 8 else ImageOps.posterize(image, max(bits, 1))
