"""Which videos a run uses: the config of a data set, the built-in set, splits and labelled subsets.

The batch keys of this modality: "video" (B, C, T, H, W) float32, normalised by `VideoPreprocess`; "label" (B,) int64, an index into the
source's `classes`, when the set is labelled. Where several clips of each video are taken, a batch of n videos has n times as many rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from modalities.common.folders import train_and_test
from modalities.common.raw import RawSamples, parts_of
from modalities.common.sources import Augmented, some_of, without_excluded
from modalities.common.splits import Splits
from modalities.video.augment import FinetuneAugment, PretrainAugment, PretrainTransform
from modalities.video.preprocess import VideoPreprocess
from modalities.video.motion import CLASSES, LICENCE, SOURCE, MotionConfig, Part
from modalities.video.motion import clips as motion_clips
from modalities.video.raw import open_raw, resized
from modalities.video.sources import VideoArray, VideoSource, open_videos
from trainer.collate import stack
from trainer.corrupt import SkipCorrupt, check_policy
from trainer.errors import ConfigError
from trainer.objective import Batch

__all__ = ["BUILT_IN", "LabelledVideos", "UnlabelledVideos", "VideoSet", "built_in", "preprocess_for", "raw_parts", "resized"]

BUILT_IN = ("motion",)
MAX_ERRORS = 100
"""Unreadable videos that a run puts up with, unless it says otherwise."""


@dataclass(frozen=True)
class VideoSet:
    """Which videos, and which of their frames."""

    path: str = ""
    """"motion" (built in: generated moving discs), a folder of video files, .npy files or folders of frames, tar shards (a folder of tars, an
    index.json; also by http(s):// and hf://), or a table (.csv, .tsv, .jsonl, .parquet with a column `path`). A folder may hold `train` and `val` (or `test`)."""
    stride: int = 4
    """Dense sampling: from one frame of a clip to the next, in frames of the video (K400: 4, SSv2: 2). For a new model; a trained one has its own."""
    sampling: Literal["dense", "segment"] = "dense"
    """dense: a run of frames. segment: one frame of each of equal parts of the video (SSv2 fine-tuning; stride 1). For a new model."""
    motion: MotionConfig = field(default_factory=MotionConfig)
    """Drawing of "motion"; other sets have none."""
    on_error: Literal["raise", "skip"] = "raise"
    """When a video cannot be read: stop, or take the next one that can be read in its place."""
    max_errors: int = MAX_ERRORS
    """With `on_error` "skip": how many videos may be unreadable before the run stops."""
    exclude: str | None = None
    """A list of videos of `path` to leave out, as `zoo data check` writes it."""

    def __post_init__(self) -> None:
        check_policy(self.on_error, self.max_errors, MAX_ERRORS)
        if self.path in BUILT_IN and (self.on_error != "raise" or self.exclude):
            raise ConfigError(f"data.on_error and data.exclude are for files, and {self.path!r} is built in.")
        if self.path not in BUILT_IN and self.motion != MotionConfig():
            raise ConfigError(f"data.motion changes only the built-in set 'motion', and data.path is {self.path!r}.")

    def _require_path(self) -> None:
        if not self.path:  # Path("") would be the current folder
            raise ConfigError(f"Say which videos to use: --data.path FOLDER, or one of the built-in sets: {', '.join(BUILT_IN)}.")

    def _open(self, path: str, preprocess: VideoPreprocess, **options: Any) -> VideoSource:
        """The videos of a path without those of `exclude`, whose ids are as seen from `self.path`."""
        source = open_videos(path, preprocess, **options)
        source = without_excluded(source, self.exclude, path, self.path) if self.exclude else source
        if self.on_error == "raise":
            check_videos(source)
        return source

    def _tolerant(self, source: VideoSource) -> VideoSource:
        """The source, with the policy of `on_error`."""
        return source if self.on_error == "raise" else SkipCorrupt(source, self.max_errors)

    def _require_plain(self, augment: Any) -> None:
        if augment != type(augment).none():
            raise ConfigError(f"The clips of {self.path!r} are as long and as large as the model's input, so nothing is cut out of them: augment must be off, found {augment}.")


@dataclass(frozen=True)
class UnlabelledVideos(VideoSet):
    """Videos for pre-training, and how they are changed at random."""

    clips: int = 1
    """Clips that are taken of a video each time it is opened. A batch holds so many times its videos."""
    augment: PretrainAugment = field(default_factory=PretrainAugment)
    """Random changes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clips < 1 or (self.clips > 1 and self.path in BUILT_IN):
            raise ConfigError(f"data.clips must be at least 1, and 1 for a built-in set, found {self.clips}.")

    def build(self, preprocess: VideoPreprocess) -> VideoSource:
        """The training videos without labels, augmented: all of the folder (of `train`, where there is one).

        Held out: the test part of a built-in set, the folder `val` (or `test`) beside `train`, else nothing.
        """
        self._require_path()
        if self.path in BUILT_IN:
            self._require_plain(self.augment)
            source = built_in("train", preprocess, self.motion)
            source.held_out = built_in("test", preprocess, self.motion)
            for part in (source, source.held_out):
                part.classes, part.labels = (), None
            return source
        train, test = train_and_test(self.path, BUILT_IN, "videos")
        source = self._open(train, preprocess, labelled=False)
        if test is not None:
            source.held_out = self._tolerant(self._open(test, preprocess, labelled=False))
        return self._tolerant(several(source, self.augment.build(preprocess), self.clips))


@dataclass(frozen=True)
class LabelledVideos(Splits, VideoSet):
    """Videos in classes for fine-tuning and evaluation: how they are divided, and changed at random in training."""

    augment: FinetuneAugment = field(default_factory=FinetuneAugment)
    """Random changes in training."""

    def build(self, preprocess: VideoPreprocess) -> tuple[VideoSource, VideoSource]:
        """(training set, test set); the first augmented and, with `per_class`, cut down. The second is held out from the first."""
        train, test = self._parts(preprocess)
        train.held_out = test = self._tolerant(test)
        if self.path in BUILT_IN:
            self._require_plain(self.augment)
            return train, test
        return self._tolerant(several(train, self.augment.build(preprocess), self.augment.repeats)), test

    def build_plain(self, preprocess: VideoPreprocess, classes: Sequence[str] | None = None) -> tuple[VideoSource, VideoSource]:
        """The same two sets without augmentation, as probes and nearest neighbours need them. `classes` fixes names and numbers of the classes of a folder."""
        train, test = self._parts(preprocess, classes)
        return self._tolerant(train), self._tolerant(test)

    def _parts(self, preprocess: VideoPreprocess, classes: Sequence[str] | None = None) -> tuple[VideoSource, VideoSource]:
        """(training set, test set) as they lie there: no augmentation, no policy."""
        self._require_path()
        if self.path in BUILT_IN:
            train: VideoSource = built_in("train", preprocess, self.motion)
            test: VideoSource = built_in("test", preprocess, self.motion)
        else:
            train, test = self.divided(self.path, BUILT_IN, "videos", lambda path, known: self._open(path, preprocess, classes=known or classes))
        return self.few(train), test


class SeveralClips(Augmented):
    """Several random clips of each video, which is opened once for them: a sample is `rows` rows of a batch."""

    def __init__(self, source: VideoSource, augment: Any, clips: int) -> None:
        super().__init__(source, augment)
        self.rows = clips

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.sample(index, lambda raw: self.augment.several(raw, self.rows))

    def collate(self, samples: list[dict[str, Tensor]]) -> Batch:
        """Clips (B * rows, C, T, H, W), those of a video one after another, each with the label of its video."""
        batch = stack(samples)
        labels = {"label": batch["label"].repeat_interleave(self.rows)} if "label" in batch else {}
        return {"video": batch["video"].flatten(0, 1), **labels}

    def take(self, indices: Sequence[int]) -> "SeveralClips":
        return SeveralClips(self.source.take(indices), self.augment, self.rows)


class PretrainClips(SeveralClips):
    """Random clips for pre-training, without labels. Workers hand over pixels, a quarter of the bytes, and they are normalised by who takes the batch."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.sample(index, self.augment) if self.rows == 1 else super().__getitem__(index)

    def collate(self, samples: list[dict[str, Tensor]]) -> Batch:
        return stack(samples) if self.rows == 1 else super().collate(samples)

    def take(self, indices: Sequence[int]) -> "PretrainClips":
        return PretrainClips(self.source.take(indices), self.augment, self.rows)

    def compact(self) -> tuple["ClipPixels", Callable[[Batch], Batch]]:
        def finish(batch: Batch) -> Batch:
            return {**batch, "video": self.preprocess.normalise(batch["video"])}

        return ClipPixels(self.source, self.augment, self.rows), finish


class ClipPixels(SeveralClips):
    """Clips (clips, T, C, H, W) as pixels: uint8, or floats in 0..1 where the video holds them."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.sample(index, lambda raw: self.augment.pixels(raw, self.rows))

    def collate(self, samples: list[dict[str, Tensor]]) -> Batch:
        if len({sample["video"].dtype for sample in samples}) > 1:
            samples = [{**sample, "video": sample["video"] / 255 if sample["video"].dtype == torch.uint8 else sample["video"]} for sample in samples]
        return super().collate(samples)


def raw_parts(path: str, labelled: bool = True) -> dict[str, RawSamples]:
    """What lies at a path or URL, in any format, as files: see `modalities.common.raw.parts_of`."""
    return parts_of(path, labelled, BUILT_IN, "videos", open_raw)


def several(source: VideoSource, augment: Callable[[Any], Tensor], clips: int) -> VideoSource:
    """The source with a random transform, `clips` clips of each video."""
    if source.labels is None and isinstance(augment, PretrainTransform):
        return PretrainClips(source, augment, clips)
    return Augmented(source, augment) if clips == 1 else SeveralClips(source, augment, clips)


def built_in(part: Part, preprocess: VideoPreprocess, config: MotionConfig) -> VideoArray:
    """The train or test part of "motion", labelled."""
    clips, labels = motion_clips(part, config)
    about = {
        "source": SOURCE,
        "licence": LICENCE,
        "derivation": f"{len(clips):,} generated clips of {config.frames} frames of {config.canvas}x{config.canvas} pixels: a bright and a dim disc go round at {config.speeds[0]:g} or {config.speeds[1]:g} "
        "radians per frame, over clutter; the class is the motion.",
    }
    clips = clips if preprocess.channels == 1 else clips.expand(-1, -1, 3, -1, -1)
    return VideoArray(clips, preprocess, labels, CLASSES, "motion", about)


def check_videos(source: VideoSource, count: int = 8) -> None:
    """Read a clip of the first, the last and `count` random videos, so that a bad folder is told about at once (DataError)."""
    for index in some_of(source, count):
        source[index]


def pixel_statistics(clips: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of clips (N, T, C, H, W) uint8, as pixels in 0..1: for the `mean` and `std` of a preprocessing."""
    pixels = clips.transpose(1, 2).float().div(255)
    std, mean = torch.std_mean(pixels, dim=(0, 2, 3, 4))
    return tuple(round(v, 4) for v in mean.tolist()), tuple(round(v, 4) for v in std.tolist())


def preprocess_for(data: VideoSet, input_size: tuple[int, int, int], channels: int) -> VideoPreprocess:
    """The preprocessing of a new model: ImageNet's statistics for RGB, those of the data itself for a built-in set."""
    preprocess = VideoPreprocess.usual(input_size, channels)
    if preprocess is None:
        raise ConfigError(f"Videos have 1 channel (grey) or 3 (RGB), and the model reads {channels}. Set model.in_chans.")
    if data.path in BUILT_IN:
        expected = (data.motion.frames, data.motion.canvas, data.motion.canvas)
        if tuple(input_size) != expected:
            raise ConfigError(f"The clips of {data.path!r} are {expected} (frames, height, width), and the model reads {tuple(input_size)}. Set data.motion or model.input_size.")
        mean, std = pixel_statistics(motion_clips("train", data.motion)[0][:1000])
        return replace(preprocess, stride=1, mean=mean * channels, std=std * channels)
    return replace(preprocess, stride=data.stride, sampling=data.sampling)
