"""Where videos come from: files and frame folders on disk, tars, and arrays in memory.

A sample is {"video": (C, T, H, W) float32, normalised} and, when the set has labels, "label": () int64.
"""

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import Tensor

from modalities.common.folders import JUNK, files_below, is_table
from modalities.common.sources import FolderSource, LabelledSource, ShardSource, TableSource, index_tensor
from modalities.video.preprocess import VideoPreprocess
from trainer.errors import DataError
from trainer.image_files import EXTENSIONS as IMAGES
from trainer.objective import Batch
from trainer.shards import is_shards
from trainer.video_files import EXTENSIONS

FILES = (*EXTENSIONS, ".npy")
"""Endings of files that are one video each."""
ENDINGS = tuple(ending.removeprefix(".") for ending in FILES)


class VideoSource(LabelledSource):
    """A set of videos."""

    key = "video"
    preprocess: VideoPreprocess


class VideoFolder(FolderSource, VideoSource):
    """Videos below a folder: files, or folders with the frames as image files."""

    noun = "video"

    def find(self, root: Path) -> list[str]:
        return videos_below(root)


class VideoTable(TableSource, VideoFolder):
    """Videos that a table names: files, or folders of frames."""


class VideoShards(ShardSource, VideoSource):
    """Videos in tars."""

    endings, noun = ENDINGS, "videos"


class VideoArray(VideoSource):
    """Clips in memory: uint8 (N, T, C, H, W) of the model's own size, with or without labels (N,)."""

    in_memory = True

    def __init__(
        self, clips: Tensor, preprocess: VideoPreprocess, labels: Tensor | None = None, classes: Sequence[str] = (), name: str = "array", about: dict[str, Any] | None = None
    ) -> None:
        expected = (preprocess.frames, preprocess.channels, *preprocess.size)
        if tuple(clips.shape[1:]) != expected or len(clips) == 0:
            raise DataError(f"Clips in memory must be (N, {', '.join(map(str, expected))}) as the preprocessing says, found {tuple(clips.shape)}.")
        self.clips, self.preprocess, self.name, self.about = clips, preprocess, name, about or {}
        self.labels, self.classes = labels, tuple(classes) if labels is not None else ()

    def __len__(self) -> int:
        return len(self.clips)

    def item(self, index: int) -> Tensor:
        return self.clips[index]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.sample(index, self.preprocess.normalise)

    def fetch(self, indices: Sequence[int], keys: np.ndarray | None = None) -> Batch:
        """A whole batch at once; nothing in it is random."""
        chosen = index_tensor(indices)
        batch = {"video": self.preprocess.normalise(self.clips[chosen])}
        return batch if self.labels is None else {**batch, "label": self.labels[chosen]}

    def take(self, indices: Sequence[int]) -> Self:
        part, chosen = copy.copy(self), index_tensor(indices)
        part.clips = self.clips[chosen]
        part.labels = None if self.labels is None else self.labels[chosen]
        return part

    def describe(self) -> dict[str, Any]:
        facts = {"name": self.name, "samples": len(self), **self.about}
        return {**facts, "classes": len(self.classes)} if self.classes else facts


def open_videos(path: str | Path, preprocess: VideoPreprocess, labelled: bool = True, classes: Sequence[str] | None = None) -> VideoSource:
    """The videos that a path or URL names: shards, a table (.csv, .tsv, .jsonl, .parquet), or a folder. DataError when they are not as expected."""
    path = str(path)
    kind = VideoShards if is_shards(path) else VideoTable if is_table(path) else VideoFolder
    return kind(path, preprocess, labelled, classes)


def videos_below(root: Path) -> list[str]:
    """All videos below `root` as sorted relative paths: files, and the innermost folders that hold image files. DataError when there are none."""
    found: list[str] = []
    for folder, subfolders, files in os.walk(root, followlinks=False):
        subfolders[:] = sorted(s for s in subfolders if not s.startswith(".") and s not in JUNK)
        plain = [file for file in files if not file.startswith(".")]
        found += [os.path.relpath(os.path.join(folder, file), root) for file in plain if file.lower().endswith(FILES)]
        if not subfolders and Path(folder) != root and any(file.lower().endswith(IMAGES) for file in plain):
            found.append(os.path.relpath(folder, root))
    return sorted(found, key=lambda file: Path(file).parts) or files_below(root, FILES, "videos")  # which says what is there instead
