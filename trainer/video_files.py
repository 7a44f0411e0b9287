"""Opening encoded videos, from a file or from bytes, without trusting them. Needs av (PyAV).

Only the containers below are tried, by the first bytes: FFmpeg knows more, and some of those name other files. Frames are
numbered in the order in which they are shown, whatever their times; a reader decodes only from the last key frame on.
"""

import bisect
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
EBML = b"\x1aE\xdf\xa3"
"""What Matroska and WebM files begin with."""
HEAD = 256
"""Bytes at the beginning that say what a file is."""
LARGEST_SIDE = 16384
"""Pixels."""
SKIPPING = ("h264", "hevc")
"""Codecs of which frames that no other frame is made of are passed over; in others packets and frames need not belong together."""
QUICK = ("mp4", "matroska")
"""Containers with a time of showing for each frame. They are opened without decoding: FFmpeg would decode up to twenty frames to guess what their times say."""


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
            self._form, end = self._told()
            self._quick = self._form in QUICK
            self._container = self._opened()
            try:
                self._read_index(end)
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
        try:
            return self._gathered(indices, limit)
        except DataError:
            if not self._quick:
                raise
            self._quick = False  # the decoder may not have known how many frames it has to put in order
            self._container.close()
            self._container = self._opened()
            return self._gathered(indices, limit)

    def _gathered(self, indices: Sequence[int], limit: int) -> np.ndarray:
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

    def _told(self) -> tuple[str, int | None]:
        """What the first bytes say: the container, and where its contents end, if they say it. DataError when it is none that is read here."""
        head = self._file.read(HEAD)
        form = container_of(head)
        if form is None:
            what = f"no video that is read here (it begins with {head[:12]!r}). Expected {', '.join(EXTENSIONS)}." if head else "empty: it has 0 bytes. Fetch it again or remove it."
            raise DataError(f"{self.where} is {what}")
        return form, {"matroska": matroska_end, "avi": riff_end}.get(form, lambda _: None)(head)

    def _opened(self) -> Any:
        form = self._form
        self._file.seek(0)
        try:
            container = self._av.open(self._file, format=form, options={"skip_frame": "all"} if self._quick else {})
        except Exception as error:  # on damage FFmpeg raises nearly anything
            raise DataError(f"{self.where} is a damaged or cut off {form} file ({_cause(error)}). Fetch it again or remove it.") from error
        if not container.streams.video:
            sound = len(container.streams.audio)
            container.close()
            if sound:
                raise DataError(f"{self.where} has no video in it, only sound.")
            raise DataError(f"{self.where} is a damaged or cut off {form} file (there is no video in it). Fetch it again or remove it.")
        self._stream = container.streams.video[0]
        context = self._stream.codec_context
        context.thread_count = 1  # the loader's workers are the parallel part
        try:
            self._check_sides(context)
        except DataError:
            container.close()
            raise
        return container

    def _check_sides(self, of: Any) -> None:
        """DataError when a stream, or a frame (they need not agree), is too large."""
        if max(of.width, of.height) > LARGEST_SIDE:
            raise DataError(f"{self.where} claims {of.width} x {of.height} pixels; at most {LARGEST_SIDE} on a side are read.")

    def _read_index(self, end: int | None) -> None:
        """When each frame is shown and which are key frames, from the packets alone: nothing is decoded. `end`: where the file should end, if it is known."""
        packets, listed = [], len(self._stream.index_entries)
        try:
            for packet in self._container.demux(self._stream):
                if packet.size and not packet.is_discard:
                    packets.append((packet.pts if packet.pts is not None else packet.dts, packet.is_keyframe, packet.is_corrupt))
        except Exception as error:
            raise DataError(f"{self.where} is damaged or cut off after {len(packets)} frames ({_cause(error)}). Fetch it again or remove it.") from error
        if not packets or any(time is None for time, _, _ in packets):
            raise DataError(f"{self.where} has {'no frames' if not packets else 'frames without times'}. Encode it again or remove it.")
        self._first = packets[0][0]
        packets.sort()
        said, size = self._stream.frames, self._file.seek(0, os.SEEK_END)
        short = end is not None and size < end
        if short and self._form == "matroska":  # which does not say how many frames it has
            raise DataError(f"{self.where} is cut off: {size:,} of {end:,} bytes are there, {len(packets):,} frames. Fetch it again or remove it.")
        if self._form == "avi" and not short and listed == len(packets):
            said = len(packets)  # what an avi says counts times at which nothing new is shown, too; its index does not
        if len(packets) < said or any(corrupt for _, _, corrupt in packets):
            raise DataError(f"{self.where} is cut off: {len(packets):,} of {said:,} frames are there. Fetch it again or remove it.")
        self._times = [time for time, _, _ in packets]
        self._keys = [number for number, (_, key, _) in enumerate(packets) if key] or [0]
        self._counted = self._form == "avi" and self.codec in SKIPPING and self._stream.codec_context.has_b_frames
        """An avi has no times of showing. Where frames are stored in another order, they are counted from the beginning."""
        if self._counted:
            self._times, self._keys = list(range(len(packets))), [0]

    def _decoded(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The frames of ascending numbers one by one, from as few key frames as possible."""
        position, frames, wanted = -1, None, {self._times[index] for index in indices}
        try:
            for index in indices:
                key = self._keys[max(bisect.bisect_right(self._keys, index) - 1, 0)]
                if frames is None or key > position + 1:
                    frames, last = self._from(key, wanted), None
                for time, frame in frames:
                    if self._quick and (time is None or time > self._times[index] or (last is not None and time < last)):
                        raise DataError(f"{self.where} gives its frames in another order than it says.")
                    last = time
                    if time is not None and time >= self._times[index]:
                        yield self._pixels(frame)
                        position = index
                        break
                else:
                    raise DataError(f"{self.where} ends before frame {index} of {self.count}. It is cut off or damaged: fetch it again or remove it.")
        except ZooError:
            raise
        except Exception as error:
            raise DataError(f"{self.where} cannot be decoded near frame {position + 1} ({_cause(error)}). Fetch it again or remove it.") from error

    def _pixels(self, frame: Any) -> np.ndarray:
        """A frame as (H, W, 3) RGB, upright where the file says how it was held. With one converter for the whole file, as setting one up takes longer than using it."""
        self._check_sides(frame)
        plane = self._converter.reformat(frame, format="rgb24").planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        return np.rot90(rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3), round(frame.rotation / 90))

    def _from(self, key: int, wanted: set[int]) -> Iterator[tuple[int | None, Any]]:
        """Times and frames from a key frame on. Containers seek by other times than those of showing, so where one lands too late it goes back further."""
        self._container.seek(self._first if self._counted else self._times[key], stream=self._stream)
        frames = enumerate(self._shown(None)) if self._counted else ((_time(frame), frame) for frame in self._shown(wanted))
        first = next(frames, None)
        if first is not None and key > 0 and (first[0] or 0) > self._times[key]:
            return self._from(self._keys[max(bisect.bisect_left(self._keys, key) - 1, 0)], wanted)
        return itertools.chain([] if first is None else [first], frames)

    def _shown(self, wanted: set[int] | None) -> Iterator[Any]:
        """The frames from here on; those that are not shown at a time in `wanted` and that no other frame is made of are not decoded. None: all are."""
        context, skipping = self._stream.codec_context, wanted is not None and self.codec in SKIPPING
        for packet in self._container.demux(self._stream):
            context.skip_frame = "NONREF" if skipping and packet.pts is not None and packet.pts not in wanted else "DEFAULT"
            yield from packet.decode()


def _cause(error: Exception) -> str:
    """What FFmpeg says, without its numbers and names."""
    return getattr(error, "strerror", None) or str(error)


def _time(frame: Any) -> int | None:
    return frame.pts if frame.pts is not None else frame.dts


def container_of(head: bytes) -> str | None:
    """FFmpeg's name of the container that begins with `head` (12 bytes), or None when it is none that is read."""
    if head[4:8] == b"ftyp":
        return "mp4"
    if head.startswith(EBML):
        return "matroska"
    return "avi" if head.startswith(b"RIFF") and head[8:12] == b"AVI " else None


def matroska_end(head: bytes) -> int | None:
    """Where the contents of a Matroska or WebM file end, by its first HEAD bytes; None when they do not say it (a recording that goes on)."""
    place = 0
    for name in (EBML, b"\x18\x53\x80\x67"):  # the header, the segment: each has a name, its size, and so many bytes
        size = _sized(head, place + 4) if head[place : place + 4] == name else None
        if size is None:
            return None
        place = sum(size)
    return place


def riff_end(head: bytes) -> int | None:
    """Where the (first) part of an avi file ends, by its first bytes; None when they do not say it."""
    return 8 + int.from_bytes(head[4:8], "little") if any(head[4:8]) else None


def _sized(head: bytes, place: int) -> tuple[int, int] | None:
    """(where it begins, how many bytes it has) of what follows a size of Matroska at `place`; None when the size is not known."""
    length = 9 - head[place].bit_length() if place < len(head) and head[place] else 9
    value = int.from_bytes(head[place : place + length], "big") - (1 << 7 * length)
    known = length <= 8 and place + length <= len(head) and value < (1 << 7 * length) - 1
    return (place + length, value) if known else None


def _open(path: Path, where: str) -> Any:
    try:
        return open(path, "rb")
    except FileNotFoundError as error:
        raise DataError(f"There is no file {where}.") from error
    except OSError as error:
        raise DataError(f"{where} cannot be read ({error.strerror}).") from error
