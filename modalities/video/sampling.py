"""Which frames of a video make a clip: dense (a run with a stride) or segment (one frame of each of equal parts).

Frames are counted, not timed, as in VideoMAE's code: with a variable frame rate a clip spans what its frames span.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from trainer.errors import ConfigError, DataError


@dataclass(frozen=True)
class ClipSampler:
    """Frame numbers of clips of one length."""

    frames: int = 16
    """Frames of a clip."""
    stride: int = 4
    """Dense: from one frame of the clip to the next, in frames of the video (K400: 4, SSv2: 2)."""
    sampling: Literal["dense", "segment"] = "dense"
    """dense: a run of frames. segment: the video is cut into as many equal parts as the clip has frames (SSv2 fine-tuning)."""

    def __post_init__(self) -> None:
        if self.frames < 1 or self.stride < 1:
            raise ConfigError(f"A clip needs frames and stride of at least 1, found {self.frames} and {self.stride}.")
        if self.sampling == "segment" and self.stride != 1:
            raise ConfigError(f"Segment sampling spans the whole video and has no stride: set stride to 1, found {self.stride}.")

    def random(self, count: int) -> np.ndarray:
        """The frames (T,) of a clip at a random place of a video of `count` frames, from torch's global generator."""
        _require_frames(count)
        if self.sampling == "segment":
            return self._segments(count, torch.rand(self.frames).numpy())
        return self._run(count, int(torch.randint(self._starts(count), ())))

    def spread(self, count: int, clips: int = 1) -> np.ndarray:
        """The frames (clips, T) of clips spread evenly over a video; a single one lies in its middle. Nothing is random."""
        _require_frames(count)
        if self.sampling == "segment":
            return np.stack([self._segments(count, np.full(self.frames, (2 * i + 1) / (2 * clips))) for i in range(clips)])
        last = self._starts(count) - 1
        starts = [last // 2] if clips == 1 else [round(last * i / (clips - 1)) for i in range(clips)]
        return np.stack([self._run(count, start) for start in starts])

    def _starts(self, count: int) -> int:
        """How many frames a dense clip can begin at."""
        return max(count - self.frames * self.stride, 0) + 1

    def _run(self, count: int, start: int) -> np.ndarray:
        """A dense clip; where the video is too short, the last frame that the stride reaches repeats."""
        reachable = (count - 1 - start) // self.stride
        return start + np.minimum(np.arange(self.frames), reachable) * self.stride

    def _segments(self, count: int, places: np.ndarray) -> np.ndarray:
        """One frame of each part, at `places` (T,) in 0..1 of the part; in a video that is too short frames repeat."""
        return np.minimum(((np.arange(self.frames) + places) * count / self.frames).astype(np.int64), count - 1)


def _require_frames(count: int) -> None:
    if count < 1:
        raise DataError("A video without frames has no clips.")
