"""Opening encoded videos, from a file or from bytes, without trusting them. Needs av (PyAV).

Only the containers below are tried, by the first bytes: FFmpeg knows more, and some of those name other files. Frames are
numbered in the order in which they are shown, whatever their times; a reader decodes only from the last key frame on.
"""

import io
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from trainer.errors import DataError, ZooError
from trainer.optional import library

EXTENSIONS = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")
LIMIT = 4 * 2**30
"""Bytes of frames that are decoded at once."""
LARGEST_SIDE = 16384
"""Pixels."""
SKIPPING = ("h264", "hevc")
"""Codecs of which frames that no other frame is made of are passed over; in others packets and frames need not belong together."""


class VideoFile:
    """An opened video: how many frames it has, and any of them. Use it in a `with` block.

    Raises DataError: missing, no video, no frames, cut off, damaged. MissingDependencyError without PyAV.
    """

    def __init__(self, source: str | os.PathLike | bytes, where: str | None = None) -> None:
        self.where = where or ("the video" if isinstance(source, bytes) else str(source))
        self._av = library("av", self.where)
        self._converter = self._av.video.reformatter.VideoReformatter()
        self._shape: tuple[int, ...] | None = None
        self._file = io.BytesIO(source) if isinstance(source, bytes) else _open(Path(source), self.where)
        try:
            self._container = self._opened()
            try:
                self._read_index()
            except BaseException:
                self._container.close()
                raise
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._container.close()
        self._file.close()

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self._times)

    @property
    def rate(self) -> float:
        """Frames per second, on average; 0 when the file does not say it."""
        return float(self._stream.average_rate or 0)

    @property
    def codec(self) -> str:
        """Name of the codec."""
        return self._stream.codec_context.name

    def frames(self, indices: Sequence[int], limit: int = LIMIT) -> np.ndarray:
        """The frames of some numbers, ascending, (n, H, W, 3) uint8 RGB. DataError when one cannot be decoded or has another size."""
        found = np.empty((0, 0, 0, 3), np.uint8)
        for number, (index, frame) in enumerate(zip(indices, self._decoded(indices))):
            self._shape = self._shape or frame.shape
            if frame.shape != self._shape:
                (h, w), (height, width) = self._shape[:2], frame.shape[:2]
                raise DataError(f"{self.where} changes its size from {w} x {h} to {width} x {height} pixels at frame {index}. Encode it again in one size.")
            if frame.nbytes * (number + 1) > limit:
                raise DataError(f"{self.where} is longer than {limit:,} bytes of frames. Cut it into clips.")
            if number == 0:
                found = np.empty((min(len(indices), limit // frame.nbytes), *frame.shape), np.uint8)
            found[number] = frame
        return found

    def _opened(self) -> Any:
        head = self._file.read(12)
        self._file.seek(0)
        form = container_of(head)
        if form is None:
            raise DataError(f"{self.where} is no video that is read here (it begins with {head[:12]!r}). Expected {', '.join(EXTENSIONS)}.")
        try:
            container = self._av.open(self._file, format=form)
        except Exception as error:  # on damage FFmpeg raises nearly anything
            raise DataError(f"{self.where} is a damaged or cut off {form} file ({error}). Fetch it again or remove it.") from error
        if not container.streams.video:
            sound = len(container.streams.audio)
            container.close()
            if sound:
                raise DataError(f"{self.where} has no video in it, only sound.")
            raise DataError(f"{self.where} is a damaged or cut off {form} file (there is no video in it). Fetch it again or remove it.")
        self._stream = container.streams.video[0]
        context = self._stream.codec_context
        context.thread_count = 1  # the loader's workers are the parallel part
        if max(context.width, context.height) > LARGEST_SIDE:
            container.close()
            raise DataError(f"{self.where} claims {context.width} x {context.height} pixels; at most {LARGEST_SIDE} on a side are read.")
        return container

    def _read_index(self) -> None:
        """When each frame is shown and which are key frames, from the packets alone: nothing is decoded."""
        packets = []
        try:
            for packet in self._container.demux(self._stream):
                if packet.size and not packet.is_discard:
                    packets.append((packet.pts if packet.pts is not None else packet.dts, packet.is_keyframe, packet.is_corrupt))
        except Exception as error:
            raise DataError(f"{self.where} is damaged or cut off after {len(packets)} frames ({error}). Fetch it again or remove it.") from error
        said = self._stream.frames
        if len(packets) < said or any(corrupt for _, _, corrupt in packets):
            raise DataError(f"{self.where} is cut off: {len(packets):,} of {said:,} frames are there. Fetch it again or remove it.")
        if not packets or any(time is None for time, _, _ in packets):
            raise DataError(f"{self.where} has {'no frames' if not packets else 'frames without times'}. Encode it again or remove it.")
        packets.sort()
        self._times = [time for time, _, _ in packets]
        self._keys = [number for number, (_, key, _) in enumerate(packets) if key]

    def _decoded(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames of ascending numbers one by one, from as few key frames as possible."""
        position, decoder, wanted = -1, None, {self._times[index] for index in indices}
        try:
            for index in indices:
                key = max((k for k in self._keys if k <= index), default=0)
                if decoder is None or key > position + 1:
                    decoder = self._from(key, wanted)
                for frame in decoder:
                    time = _time(frame)
                    if time is not None and time >= self._times[index]:
                        yield self._pixels(frame)
                        position = index
                        break
                else:
                    raise DataError(f"{self.where} ends before frame {index} of {self.count}. It is cut off or damaged: fetch it again or remove it.")
        except ZooError:
            raise
        except Exception as error:
            raise DataError(f"{self.where} cannot be decoded near frame {position + 1} ({error}). Fetch it again or remove it.") from error

    def _pixels(self, frame: Any) -> np.ndarray:
        """A frame as (H, W, 3) RGB. With one converter for the whole file, as setting one up takes longer than using it."""
        plane = self._converter.reformat(frame, format="rgb24").planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        return rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3)

    def _from(self, key: int, wanted: set[int]) -> Iterator[Any]:
        """The frames from a key frame on. Containers seek by other times than those of showing, so where one lands too late it goes back further."""
        self._container.seek(self._times[key], stream=self._stream)
        frames = self._shown(wanted)
        first = next(frames, None)
        if first is not None and key > 0 and (_time(first) or 0) > self._times[key]:
            return self._from(max((k for k in self._keys if k < key), default=0), wanted)
        return itertools.chain([] if first is None else [first], frames)

    def _shown(self, wanted: set[int]) -> Iterator[Any]:
        """The frames from here on; those that are not shown at a time in `wanted` and that no other frame is made of are not decoded."""
        context, skipping = self._stream.codec_context, self.codec in SKIPPING
        for packet in self._container.demux(self._stream):
            context.skip_frame = "NONREF" if skipping and packet.pts is not None and packet.pts not in wanted else "DEFAULT"
            yield from packet.decode()


def _time(frame: Any) -> int | None:
    return frame.pts if frame.pts is not None else frame.dts


def container_of(head: bytes) -> str | None:
    """FFmpeg's name of the container that begins with `head` (12 bytes), or None when it is none that is read."""
    if head[4:8] == b"ftyp":
        return "mp4"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    return "avi" if head.startswith(b"RIFF") and head[8:12] == b"AVI " else None


def _open(path: Path, where: str) -> Any:
    try:
        return open(path, "rb")
    except FileNotFoundError as error:
        raise DataError(f"There is no file {where}.") from error
    except OSError as error:
        raise DataError(f"{where} cannot be read ({error.strerror}).") from error
