"""Video preprocessing: what is stored with a checkpoint so that inference sees what training saw."""

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
from modalities.video.clips import as_clips
from modalities.video.sampling import ClipSampler
from trainer.errors import CheckpointError, ConfigError, DataError, shorten
from trainer.objective import Batch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LARGEST = 16384
"""Longest side of an input, in pixels."""
CHUNK = 2**18
"""Values that are normalised at once on a CPU: as many as a core's own cache holds."""


@dataclass(frozen=True)
class VideoPreprocess(Preprocess):
    """Video -> normalised clip: choose frames, resize the shorter side, cut out the centre, (x - mean) / std.

    One view of VideoMAE's test transform (Tong et al. 2022, arXiv 2203.12602); `views` gives all of them.
    """

    type: ClassVar[str] = "video"

    frames: int = 16
    """Frames of a clip."""
    stride: int = 4
    """Dense sampling: from one frame of the clip to the next, in frames of the video."""
    sampling: Literal["dense", "segment"] = "dense"
    """dense: a run of frames. segment: one frame of each of `frames` equal parts of the video; stride is 1 then."""
    size: tuple[int, int] = (224, 224)
    """Height and width of what the model sees, in pixels."""
    channels: int = 3
    """1 (grey) or 3 (RGB). Grey videos are repeated for 3, coloured ones made grey (ITU-R 601) for 1."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Per channel, of pixels in 0..1."""
    std: tuple[float, ...] = IMAGENET_STD
    """Per channel, of pixels in 0..1."""
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    """How frames are resized (anti-aliased)."""

    def __post_init__(self) -> None:
        ClipSampler(self.frames, self.stride, self.sampling)
        if len(self.size) != 2 or not 1 <= min(self.size) <= max(self.size) <= LARGEST:
            raise ConfigError(f"preprocess.size must be (height, width) in pixels, 1 to {LARGEST} each, found {shorten(self.size)}.")
        if self.channels not in (1, 3):
            raise ConfigError(f"preprocess.channels must be 1 (grey) or 3 (RGB), found {self.channels}.")
        statistics = (*self.mean, *self.std)
        if not len(self.mean) == len(self.std) == self.channels or min(self.std) <= 0 or not all(map(math.isfinite, statistics)):
            raise ConfigError(
                f"preprocess.mean and .std need {self.channels} finite number(s) each, std above 0; found {shorten(self.mean)} and {shorten(self.std)}."
            )

    @property
    def sampler(self) -> ClipSampler:
        """How frames are chosen."""
        return ClipSampler(self.frames, self.stride, self.sampling)

    @classmethod
    def usual(cls, input_size: tuple[int, ...], channels: int) -> "VideoPreprocess | None":
        """ImageNet's statistics for RGB, 0.5 / 0.5 (range -1..1) for grey, every fourth frame; None for other channels."""
        if len(input_size) != 3 or channels not in (1, 3):
            return None
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,), (0.5,))
        return cls(frames=input_size[0], size=tuple(input_size[1:]), channels=channels, mean=mean, std=std)

    def adapted(self, input_shape: tuple[int, ...]) -> "VideoPreprocess | None":
        """For another size or length; for other channels the mean statistics of the old ones. None above three channels."""
        channels, *size = input_shape
        if len(size) != 3 or channels not in (1, 3):
            return None
        changes: dict[str, Any] = {"frames": size[0], "size": tuple(size[1:])}
        if channels != self.channels:
            mean, std = (sum(values) / self.channels for values in (self.mean, self.std))
            changes |= {"channels": channels, "mean": (mean,) * channels, "std": (std,) * channels}
        return replace(self, **changes)

    def require_shape(self, input_shape: tuple[int, ...], where: str) -> None:
        if (self.channels, self.frames, *self.size) != tuple(input_shape):
            raise CheckpointError(
                f"{where}: its preprocessing makes clips of {self.channels} channel(s), {self.frames} frames and {self.size} pixels, and its model reads "
                f"{input_shape[0]} channel(s) and {tuple(input_shape[1:])}. Use the preprocessor_config.json that came with this model."
            )

    def __call__(self, raw: Any) -> Batch:
        """One video or several -> {"video": (B, C, T, H, W) float32}, the middle clip and the centre of each.

        `raw`: whatever `as_clips` takes (a video file, its content, a folder of frames, an .npy file, an array (T, H, W[, C]), a tensor
        (T, C, H, W)), a list of such, an array (B, T, H, W, C) or a tensor (B, T, C, H, W). Raises DataError.
        """
        several = isinstance(raw, (list, tuple)) or (isinstance(raw, (np.ndarray, Tensor)) and raw.ndim == 5)
        if several and len(raw) == 0:
            raise DataError("There is no video: the list is empty. Expected at least one.")
        videos = raw if several else [raw]
        return {"video": torch.stack([self.transform(v, f"video {i} of the batch" if several else "the video") for i, v in enumerate(videos)])}

    def transform(self, raw: Any, where: str | None = None) -> Tensor:
        """The deterministic transform of one video: (C, T, H, W)."""
        return self.finish(as_clips(raw, lambda count: self.sampler.spread(count), self.channels, where)[0])

    def views(self, raw: Any, clips: int, crops: int, where: str | None = None) -> Tensor:
        """Views of one video for testing, (clips * crops, C, T, H, W): clips spread over time, each in `crops` crops along its longer side.

        K400: 5 x 3, SSv2: 2 x 3. The file is opened once.
        """
        found = [self.fit(clip) for clip in as_clips(raw, lambda count: self.sampler.spread(count, clips), self.channels, where)]
        return torch.stack([self.normalise(part) for clip in found for part in self._crops(clip, crops)])

    def finish(self, clip: Tensor) -> Tensor:
        """A clip (T, C, h, w), uint8 or float in 0..1, resized, cut and normalised: (C, T, H, W)."""
        return self.normalise(F.center_crop(self.fit(clip), list(self.size)))

    def fit(self, clip: Tensor) -> Tensor:
        """(T, C, h, w) resized to the smallest size that covers `size` at its own aspect."""
        scale = max(side / old for side, old in zip(self.size, clip.shape[2:]))
        new = [max(round(old * scale), side) for side, old in zip(self.size, clip.shape[2:])]
        return clip if new == list(clip.shape[2:]) else F.resize(clip, new, InterpolationMode(self.interpolation), antialias=True).clamp(0, 255 if clip.dtype == torch.uint8 else 1)

    def normalise(self, clip: Tensor) -> Tensor:
        """(..., T, C, H, W) in 0..1, or uint8 -> (..., C, T, H, W) float32 with the stored statistics."""
        std = _statistic(self.std, clip.device) * (255 if clip.dtype == torch.uint8 else 1)
        shift = _statistic(self.mean, clip.device) / _statistic(self.std, clip.device)
        clips, factor = clip.reshape(-1, *clip.shape[-4:]).transpose(1, 2), 1 / std
        found = torch.empty(clips.shape, device=clip.device)
        chunk = CHUNK if clip.device.type == "cpu" else max(clip.numel(), 1)
        frames = max(chunk // math.prod(clip.shape[-3:]), 1)
        each = max(frames // clips.shape[2], 1)
        for own, part in zip(found.split(each), clips.split(each)):
            for into, values in zip(own.split(frames, dim=2), part.split(frames, dim=2)):
                into.copy_(values).mul_(factor).sub_(shift)  # the copy changes type and order of axes in one go
        return found.reshape(*clip.shape[:-4], *found.shape[1:])

    def pixels(self, video: Tensor) -> Tensor:
        """The reverse of `normalise` but for the order of axes: (..., C, T, H, W) in 0..1, not clipped."""
        return video.float() * _statistic(self.std, video.device) + _statistic(self.mean, video.device)

    def _crops(self, clip: Tensor, count: int) -> list[Tensor]:
        """`count` crops spread along the longer side; a single one is the centre."""
        height, width = (side - own for side, own in zip(clip.shape[2:], self.size))
        places = [0.5] if count == 1 else [i / (count - 1) for i in range(count)]
        return [F.crop(clip, round(height * p), round(width * p), *self.size) for p in places]


@lru_cache(maxsize=16)
def _statistic(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(C, 1, 1, 1) float32. Kept: it is asked for with every clip."""
    return torch.tensor(values, device=device).view(-1, 1, 1, 1)
