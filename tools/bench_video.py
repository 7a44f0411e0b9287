"""Does our video pipeline keep the decoders busy? `python -m tools.bench_video`

Generated mp4 files, each as long as a clip, so that nearly all frames have to be decoded and seeking gains nothing. Two sides read the same files,
each in as many processes with one decoder thread in each:

- ours: the stream that training reads: index, clip, decoding, multi-scale crop, resize, normalise, batch, hand over to the training process;
- plain PyAV: `for frame in container.decode(video=0)`, and the frames of the clip as arrays. Nothing is cropped, nothing is handed over.

A round of each in turn, from new processes on, so that a slow moment of the machine hits both; which goes first changes. Then: what several clips of an
opened file save, and the share of a training run that waits for data. Exit status 0 only if the median of the paired ratios is at least 0.9.
"""

import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
import tyro

from modalities.common.run import run
from modalities.registry import find_recipe
from modalities.video.augment import PretrainAugment
from modalities.video.data import several
from modalities.video.preprocess import VideoPreprocess
from modalities.video.raw import encode
from modalities.video.sources import VideoFolder
from trainer.config import replace
from trainer.data import Stream
from trainer.logs import read_lines

LEAST = 0.9
"""What our frames per second must be, as a share of those of the plain loop."""
RATE = 25
"""Frames per second in the files."""
NOISE = 6
"""Standard deviation of the noise, of 255. It decides the bits per second, which are printed."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    videos: int = 64
    """Files in the set."""
    height: int = 320
    """Of their frames, in pixels (the paper's data: 320); the width is four thirds of it."""
    frames: int = 16
    """Frames of a clip."""
    stride: int = 4
    """From one frame of the clip to the next. A file has frames x stride frames."""
    size: int = 224
    """Side of the clips that come out."""
    batch_size: int = 8
    """Videos per batch."""
    workers: int = 2
    """Processes that decode, on both sides."""
    passes: int = 2
    """How many times a round reads each file."""
    repeats: int = 7
    """Rounds of each, after one that does not count."""
    clips: int = 4
    """Clips of an opened file, compared with one."""
    recipe: str = "video/videomae-small"
    """What the training run trains, on clips as above."""
    train_steps: int = 12
    """Steps of the training run. 0: none."""

    @property
    def length(self) -> int:
        """Frames of a file."""
        return self.frames * self.stride


def make_videos(folder: Path, options: Options) -> None:
    """Coarse random grounds that drift under the noise of a camera, encoded as `zoo pack --resize` does it."""
    rng = np.random.default_rng(0)
    height, width = options.height, options.height * 4 // 3 // 2 * 2
    noise = rng.normal(0, NOISE, (height, width, 3)).astype(np.float32)
    folder.mkdir()
    for number in range(options.videos):
        coarse = rng.integers(0, 255, (height // 16 + 1, width // 16 + 1, 3)).astype(np.float32)
        ground, speed = np.kron(coarse, np.ones((16, 16, 1), np.float32)), rng.integers(-3, 4, 2)
        (folder / f"{number:04d}.mp4").write_bytes(encode(_drifting(ground, speed, noise, options.length, rng), RATE, f"video {number}"))


def _drifting(ground: np.ndarray, speed: np.ndarray, noise: np.ndarray, length: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8 of a ground that moves by `speed` pixels per frame."""
    for number in range(length):
        moved = np.roll(ground, tuple(number * speed), axis=(0, 1))[: noise.shape[0], : noise.shape[1]]
        yield (moved + np.roll(noise, rng.integers(0, 1000, 2), axis=(0, 1))).clip(0, 255).astype(np.uint8)


def plain(path: Path, stride: int) -> int:
    """Decode a file with PyAV and take every `stride`-th frame as an array. Returns how many frames there were."""
    taken, count = [], 0
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for frame in container.decode(video=0):
            if count % stride == 0:
                taken.append(frame.to_ndarray(format="rgb24"))
            count += 1
    np.stack(taken)
    return count


def plain_round(paths: list[Path], options: Options) -> float:
    """Frames per second of the plain loop, in processes that start now."""
    began = time.perf_counter()
    with get_context("fork").Pool(options.workers) as pool:
        seen = sum(pool.starmap(plain, [(path, options.stride) for path in options.passes * paths], chunksize=options.batch_size))
    return seen / (time.perf_counter() - began)


def our_round(folder: Path, options: Options, number: int = 0, clips: int = 1) -> float:
    """Frames per second of the stream that training reads, in workers that start now: a file counts with the frames that it has."""
    preprocess = VideoPreprocess(frames=options.frames, stride=options.stride, size=(options.size, options.size))
    source = several(VideoFolder(folder, preprocess, labelled=False), PretrainAugment().build(preprocess), clips)
    steps = options.passes * options.videos // options.batch_size
    began = time.perf_counter()
    batches = Stream(source, options.batch_size, 0, (number + 1) * steps).batches(number * steps, options.workers)
    seen = sum(len(batch["video"]) // clips for batch in batches)
    return seen * options.length / (time.perf_counter() - began)


def show_training(folder: Path, to: Path, options: Options) -> None:
    """Train for a few steps and print the share of the time that training waited for data, without the first step, which starts the workers."""
    recipe = find_recipe(options.recipe)
    changes = {
        "model.input_size": (options.frames, options.size, options.size), "data.path": str(folder), "data.stride": options.stride, "train.batch_size": options.batch_size,
        "train.epochs": None, "train.steps": options.train_steps, "train.workers": options.workers, "train.log_every": 1, "train.pictures": 0, "train.schedule.warmup": 0.0,
    }  # fmt: skip
    run(replace(recipe, changes), to)
    lines = [line for line in read_lines(to / "metrics.jsonl") if "data_wait" in line][1:]
    seconds = [line["seconds"] for line in lines]
    waits = [line["data_wait"] for line in lines]
    print(
        f"training {options.recipe}, batches of {options.batch_size}, {len(lines)} steps: {100 * float(np.average(waits, weights=seconds)):.1f} % of the time is waiting for data "
        f"({statistics.median(seconds):.2f} s per step)"
    )


def main(options: Options) -> int:
    """Measure and print; the exit status."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "videos"
        make_videos(folder, options)
        paths, pairs = sorted(folder.iterdir()), []
        width = options.height * 4 // 3 // 2 * 2
        bits = 8 * sum(path.stat().st_size for path in paths) * RATE / (len(paths) * options.length)
        print(
            f"{len(paths)} mp4 files (H.264, {bits / 1e6:.1f} Mbit/s) of {options.length} frames of {width}x{options.height}, clips of {options.frames} with stride {options.stride}, {options.size}x{options.size}; "
            f"{options.workers} workers, {len(os.sched_getaffinity(0))} cores, {options.repeats} rounds of each"
        )
        for number in range(options.repeats + 1):
            sides = [lambda: our_round(folder, options, number), lambda: plain_round(paths, options)]
            found = {side: sides[side]() for side in ((0, 1) if number % 2 else (1, 0))}
            if number:
                pairs.append((found[0], found[1]))
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        ours, theirs = (statistics.median(column) for column in zip(*pairs))
        print(f"ours {ours:,.0f} frames/s, plain PyAV {theirs:,.0f}; median of the paired ratios {ratio:.3f}")
        many = statistics.median(our_round(folder, options, clips=options.clips) for _ in range(3)) / options.length
        print(f"{options.clips} clips of each opened file: {options.clips * many:,.1f} clips/s, against {ours / options.length:,.1f} with one")
        if options.train_steps:
            show_training(folder, Path(place) / "run", options)
    return 0 if ratio >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m tools.bench_video")))
