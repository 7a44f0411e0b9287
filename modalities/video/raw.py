"""Videos as the files that they are stored in: for packing, checking and showing; and encoded again, small and quick to seek in."""

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modalities.common import raw
from modalities.common.raw import RawSamples
from modalities.video.clips import NPY, array_frames, frame_files
from modalities.video.pictures import FRAMES, clip_sheet
from modalities.video.preprocess import VideoPreprocess
from modalities.video.sources import ENDINGS, VideoFolder, VideoTable
from trainer.decoders import decode, ending_of
from trainer.errors import ConfigError, DataError
from trainer.image_files import opened
from trainer.optional import library
from trainer.video_files import VideoFile, container_of

SIDE = 128
"""Side of the square that is shown of a frame on a sheet."""
QUALITY = 20
"""Constant rate factor of x264: about 18 is hard to tell from the original, 23 is x264's own choice."""
KEYS = 16
"""Frames from one key frame to the next: a clip that begins anywhere decodes at most so many in vain."""
RATE = 25
"""Frames per second of a video that does not say its own."""
CHUNK = 32
"""Frames that are decoded at once."""


class Resized:
    """Videos encoded again as mp4 (H.264): shorter side at most `side` pixels, a key frame every KEYS frames, no sound; see `trainer.packing.RawData`.

    Everything but the video itself is as in `source`. Frames keep their numbers; their times become regular.
    """

    def __init__(self, source: RawSamples, side: int) -> None:
        """ConfigError for a side that is no even number of at least 16: so the encoder wants it."""
        if side < 16 or side % 2:
            raise ConfigError(f"resize is the shorter side of the frames in pixels, an even number of at least 16, found {side}.")
        self.source, self.side = source, side

    def __len__(self) -> int:
        return len(self.source)

    def __getattr__(self, name: str) -> Any:
        if name == "source":
            raise AttributeError(name)
        return getattr(self.source, name)

    def stamp(self, index: int) -> str:
        return f"{self.source.stamp(index)} resized to {self.side}"

    def members(self, index: int) -> dict[str, bytes]:
        """The members, the video among them encoded again. DataError when it cannot be read."""
        members = self.source.members(index)
        ending = next((e for e in members if ending_of(e) in ENDINGS), None)
        if ending is None:
            raise DataError(f"{self.source.id(index)} has no video ({', '.join(members) or 'no files'}); expected one that ends in {', '.join(ENDINGS)}.")
        where = self.source.where(index, ending)
        return {"mp4": encode(*frames_of(members[ending], where), where, self.side), **{e: content for e, content in members.items() if e != ending}}


def resized(source: RawSamples, side: int) -> Resized:
    """What `zoo pack --resize` makes of videos."""
    return Resized(source, side)


def frames_of(content: bytes, where: str) -> tuple[Iterator[np.ndarray], float]:
    """All frames (H, W, 3) uint8 of a video file or an npy file, and how many there are per second (0: unknown)."""
    if content.startswith(NPY):
        array = array_frames(decode("npy", content, where), where)
        array = array if array.dtype == np.uint8 else (array.astype(np.float32) * 255).round().clip(0, 255).astype(np.uint8)
        return iter(array if array.shape[3] == 3 else np.repeat(array, 3, axis=3)), 0.0
    video = VideoFile(content, where)
    return _all(video), video.rate


def _all(video: VideoFile) -> Iterator[np.ndarray]:
    with video:
        for begin in range(0, video.count, CHUNK):
            yield from video.frames(range(begin, min(begin + CHUNK, video.count)))


def encode(frames: Iterator[np.ndarray], rate: float, where: str, side: int | None = None) -> bytes:
    """Frames (H, W, 3) uint8 of one size as an mp4 file, the shorter side shrunk to `side` if it is longer. DataError when there are none."""
    av = library("av", where)
    try:
        return _encoded(av, frames, rate, where, side)
    except av.error.FFmpegError as error:  # an OSError, which would be taken for one of the disk
        raise DataError(f"{where} cannot be encoded as mp4 ({error}).") from error


def _encoded(av: ModuleType, frames: Iterator[np.ndarray], rate: float, where: str, side: int | None) -> bytes:
    file, stream, count = io.BytesIO(), None, 0
    # bit-exact, with one thread and without macroblock trees (which read memory that nobody set), so that packing twice gives the same bytes
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        for frame in frames:
            if stream is None:
                height, width = _even(*frame.shape[:2], side)
                options = {"crf": str(QUALITY), "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
                stream = container.add_stream("libx264", rate=max(round(rate), 1) if rate else RATE, options=options)
                stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", KEYS
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(width, height, interpolation="AREA" if side else "BICUBIC")
            picture.pts = count
            count += 1
            container.mux(stream.encode(picture))
        if stream is None:
            raise DataError(f"{where} has no frames.")
        container.mux(stream.encode())
    return file.getvalue()


def _even(height: int, width: int, side: int | None) -> tuple[int, int]:
    """The size to encode: even numbers, the shorter at most `side`."""
    scale = min(1.0, side / min(height, width)) if side else 1.0
    return tuple(max(2 * round(value * scale / 2), 2) for value in (height, width))


def _look(content: bytes, where: str) -> tuple[str, tuple[int, ...]]:
    """Decode a whole video."""
    if content.startswith(NPY):
        array = array_frames(decode("npy", content, where), where)
        return f"npy {array.dtype}", array.shape[:3]
    with VideoFile(content, where) as video:
        for begin in range(0, video.count, CHUNK):
            frames = video.frames(range(begin, min(begin + CHUNK, video.count)))
        return f"{container_of(content[:12])} {video.codec}", (video.count, *frames.shape[1:3])


def _picture(content: bytes, where: str) -> Tensor:
    """The middle of a few frames spread over a video, (3, T, SIDE, SIDE) in 0..1."""
    preprocess = VideoPreprocess(frames=FRAMES, stride=1, sampling="segment", size=(SIDE, SIDE), mean=(0.0,) * 3, std=(1.0,) * 3)
    return preprocess.transform(content, where)


def _sheet(pictures: list[Tensor | None], captions: list[str] | None, path: Path, title: str) -> None:
    missing = torch.full((3, FRAMES, SIDE, SIDE), torch.nan)
    clip_sheet(torch.stack([missing if picture is None else picture for picture in pictures]), captions, path, title)


def _files(path: Path) -> list[Path]:
    return frame_files(path) if path.is_dir() else [path]


def _load(path: Path) -> dict[str, bytes]:
    """A file as it is; a folder of frames as an mp4 file of their size."""
    if not path.is_dir():
        return raw.read_file(path)
    return {"mp4": encode((_frame(file) for file in frame_files(path)), 0.0, str(path))}


def _frame(file: Path) -> np.ndarray:
    with opened(file) as image:
        return np.asarray(image.convert("RGB"))


KIND = raw.Kind("video", "videos", ENDINGS, _look, _picture, _sheet, VideoFolder, VideoTable, VideoPreprocess(), _files, _load)
open_raw = partial(raw.open_raw, KIND)
"""(path, labelled=True, classes=None) -> the videos of a path or URL as files."""
