"""Random changes of training clips: VideoMAE's for pre-training and for fine-tuning.

An augmentation maps a raw video to a normalised clip (C, T, H, W), as `VideoPreprocess.transform` does for evaluation. What is drawn for a
clip is the same for all of its frames. All randomness comes from the global generators (torch, numpy, random), which the loader seeds.
"""

import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from modalities.video.clips import as_clips
from modalities.video.preprocess import VideoPreprocess
from trainer.errors import ConfigError

SCALES = (1.0, 0.875, 0.75, 0.66)
"""Sides of a multi-scale crop, as shares of the shorter side of the frame."""


@dataclass(frozen=True)
class PretrainAugment:
    """A clip at a random place and a multi-scale crop: all that VideoMAE does in pre-training. No mirror image, no colours."""

    scales: tuple[float, ...] | None = SCALES
    """Sides of the crop, as shares of the shorter side. Height and width are drawn from neighbours in this list. Null: the evaluation's crop."""

    def __post_init__(self) -> None:
        if self.scales is not None and (not self.scales or not all(0 < s <= 1 for s in self.scales)):
            raise ConfigError(f"augment.scales must be shares of the shorter side, above 0 and at most 1, found {self.scales}.")

    @classmethod
    def none(cls) -> "PretrainAugment":
        """No change but the place of the clip."""
        return cls(scales=None)

    def build(self, preprocess: VideoPreprocess) -> "PretrainTransform":
        """The transform."""
        return PretrainTransform(self, preprocess)


class PretrainTransform:
    """Raw video -> (C, T, H, W): a random clip, cropped, resized, normalised. Several `clips` of one video: (clips, C, T, H, W)."""

    def __init__(self, config: PretrainAugment, preprocess: VideoPreprocess) -> None:
        self.config, self.preprocess = config, preprocess

    def __call__(self, raw: Any) -> Tensor:
        return self.several(raw, 1)[0]

    def several(self, raw: Any, clips: int) -> Tensor:
        """`clips` random clips of one video, which is opened once."""
        return self.preprocess.normalise(self.pixels(raw, clips))

    def pixels(self, raw: Any, clips: int) -> Tensor:
        """The same before they are normalised: (clips, T, C, H, W), uint8, or floats in 0..1 where the video holds them."""
        return torch.stack([self._crop(clip) for clip in random_clips(raw, self.preprocess, clips)])

    def _crop(self, clip: Tensor) -> Tensor:
        if self.config.scales is None:
            return F.center_crop(self.preprocess.fit(clip), list(self.preprocess.size))
        top, left, height, width = multi_scale_crop(*clip.shape[2:], self.config.scales)
        return _resized(clip[:, :, top : top + height, left : left + width], self.preprocess)


def multi_scale_crop(height: int, width: int, scales: tuple[float, ...]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop whose sides are shares of the shorter side, at one of 13 fixed places.

    Height and width use scales at most one place apart in the list. The places are the corners, the middles of the sides and the
    centre, and the centres of the four quarters.
    """
    sides = [int(min(height, width) * scale) for scale in scales]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    h, w = pairs[int(torch.randint(len(pairs), ()))]
    quarters = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (2, 0), (2, 4), (0, 2), (4, 2), (1, 1), (1, 3), (3, 1), (3, 3)]
    row, column = quarters[int(torch.randint(len(quarters), ()))]
    return row * ((height - h) // 4), column * ((width - w) // 4), h, w


@dataclass(frozen=True)
class FinetuneAugment:
    """VideoMAE's fine-tuning: RandAugment, random resized crop, mirror image, random erasing, alike in all frames of a clip."""

    repeats: int = 2
    """Clips of each video that is read, each changed in its own way (repeated augmentation). A batch holds so many times its videos."""
    auto_augment: str | None = "rand-m7-n4-mstd0.5-inc1"
    """timm's text for RandAugment. Null: none."""
    crop_scale: tuple[float, float] | None = (0.08, 1.0)
    """Smallest and largest part of the area that a random crop takes. Null: the evaluation's crop."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width / height of a random crop."""
    flip: bool = True
    """Mirror half of the clips left to right. False where left and right differ in meaning (SSv2)."""
    erase_prob: float = 0.25
    """Chance that a random rectangle is erased, the same one in all frames."""

    def __post_init__(self) -> None:
        if self.crop_scale is not None and not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ConfigError(f"augment.crop_scale must be (smallest, largest) within 0..1, found {self.crop_scale}.")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1] or not 0 <= self.erase_prob <= 1 or self.repeats < 1:
            raise ConfigError(f"augment needs crop_ratio as (smallest, largest), erase_prob in 0..1 and repeats at least 1, found {self.crop_ratio}, {self.erase_prob} and {self.repeats}.")

    @classmethod
    def none(cls) -> "FinetuneAugment":
        """No change but the place of the clip."""
        return cls(repeats=1, auto_augment=None, crop_scale=None, flip=False, erase_prob=0.0)

    def build(self, preprocess: VideoPreprocess) -> "FinetuneTransform":
        """The transform. ConfigError when timm does not know auto_augment."""
        return FinetuneTransform(self, preprocess)


class FinetuneTransform:
    """Raw video -> (C, T, H, W), changed alike in all frames. Several `clips` of one video: (clips, C, T, H, W)."""

    def __init__(self, config: FinetuneAugment, preprocess: VideoPreprocess) -> None:
        self.config, self.preprocess, self.colours = config, preprocess, None
        if config.auto_augment is not None:
            fill = tuple(round(255 * m) for m in preprocess.mean) if preprocess.channels == 3 else round(255 * preprocess.mean[0])
            try:  # timm checks its text nowhere, and fails with whatever a wrong part of it leads to
                self.colours = rand_augment_transform(config.auto_augment, {"translate_const": int(min(preprocess.size) * 0.45), "img_mean": fill})
            except (AssertionError, KeyError, ValueError, TypeError, IndexError, NotImplementedError) as error:
                raise ConfigError(f"timm cannot build augment.auto_augment={config.auto_augment!r}: {error}. Expected text as 'rand-m7-n4-mstd0.5-inc1', or null.") from error
        self.erase = RandomErasing(config.erase_prob, mode="pixel", max_count=1, device="cpu")

    def __call__(self, raw: Any) -> Tensor:
        return self._change(random_clips(raw, self.preprocess, 1)[0])

    def several(self, raw: Any, clips: int) -> Tensor:
        """`clips` random clips of one video, each changed in its own way; the video is opened once."""
        return torch.stack([self._change(clip) for clip in random_clips(raw, self.preprocess, clips)])

    def _change(self, clip: Tensor) -> Tensor:
        p, c = self.preprocess, self.config
        if self.colours is not None:
            clip = self._augmented(p.fit(clip))
        if c.crop_scale is None:
            clip = F.center_crop(p.fit(clip), list(p.size))
        else:
            top, left, height, width = resized_crop(*clip.shape[2:], c.crop_scale, c.crop_ratio)
            clip = _resized(clip[:, :, top : top + height, left : left + width], p)
        if c.flip and torch.rand(()) < 0.5:
            clip = clip.flip(3)
        video = p.normalise(clip)
        # one image of T * C channels: one rectangle for all frames
        return self.erase(video.flatten(0, 1)).unflatten(0, video.shape[:2]) if c.erase_prob else video

    def _augmented(self, clip: Tensor) -> Tensor:
        """timm's operations on each frame, with the same draws for all."""
        clip = clip if clip.dtype == torch.uint8 else (clip * 255).round().to(torch.uint8)
        python, numpy = random.getstate(), np.random.get_state()
        frames = []
        for frame in clip.permute(0, 2, 3, 1).numpy():
            random.setstate(python)
            np.random.set_state(numpy)
            changed = self.colours(Image.fromarray(frame if frame.shape[2] == 3 else np.repeat(frame, 3, axis=2)))
            frames.append(np.asarray(changed)[:, :, : frame.shape[2]])
        return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def resized_crop(height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop of random area and shape; after ten that do not fit, the largest that does."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area = height * width * float(torch.empty(()).uniform_(*scale))
        shape = math.exp(float(torch.empty(()).uniform_(low, high)))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return int(torch.randint(height - h + 1, ())), int(torch.randint(width - w + 1, ())), h, w
    shape = min(max(width / height, ratio[0]), ratio[1])
    w, h = (width, min(round(width / shape), height)) if width / height < shape else (min(round(height * shape), width), height)
    return (height - h) // 2, (width - w) // 2, h, w


def random_clips(raw: Any, preprocess: VideoPreprocess, clips: int) -> list[Tensor]:
    """Clips (T, C, H, W) at random places of one video, which is opened once."""
    return as_clips(raw, lambda count: np.stack([preprocess.sampler.random(count) for _ in range(clips)]), preprocess.channels)


def _resized(clip: Tensor, preprocess: VideoPreprocess) -> Tensor:
    """A part of the frames at the model's size."""
    if tuple(clip.shape[2:]) == preprocess.size:
        return clip
    resized = F.resize(clip, list(preprocess.size), InterpolationMode(preprocess.interpolation), antialias=True)
    return resized.clamp(0, 255 if clip.dtype == torch.uint8 else 1)
