"""Is our stream as fast as what others use? `python -m tools.bench_data`.

Two pairs, while shuffling: our folder stream against torchvision's ImageFolder with a DataLoader, and our tar stream against plain
webdataset with its usual pipeline. All decode the same JPEGs by Pillow to RGB, each in its own way of opening them, and apply the same
transforms (torchvision's: random resized crop, mirror, normalise) in as many worker processes. An epoch of each in turn, from new
worker processes on, so that a slow moment of the machine hits all; which of a pair goes first changes.
Ours is deterministic and can begin anywhere. Exit status 0 only if the medians of both ratios are at least 1.
"""

import dataclasses
import io
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
import webdataset
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder as TorchvisionFolder
from torchvision.transforms import v2

from modalities.common.sources import Augmented
from modalities.vision.augment import PretrainAugment
from modalities.vision.files import ImageShards
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.sources import ImageFolder
from trainer.data import Stream
from trainer.remote import CACHE


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    images: int = 2048
    """Pictures in the set."""
    side: int = 256
    """Their width; the height is three quarters of it."""
    size: int = 64
    """Side of the random crops that come out."""
    shards: int = 8
    """Tars that they are packed into."""
    batch_size: int = 64
    """Pictures per batch."""
    workers: int = 2
    """Worker processes."""
    repeats: int = 9
    """Epochs of each, after one that does not count."""


def make_pictures(place: Path, options: Options) -> None:
    """Smooth random JPEGs in two class folders, and the same in tars."""
    rng = np.random.default_rng(0)
    for label in "01":
        (place / "folder" / label).mkdir(parents=True)
    (place / "tars").mkdir()
    tars = [tarfile.open(place / "tars" / f"{s:03d}.tar", "w") for s in range(options.shards)]
    for i in range(options.images):
        coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), "uint8"))
        file = io.BytesIO()
        coarse.resize((options.side, options.side * 3 // 4), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        (place / "folder" / str(i % 2) / f"{i:06d}.jpg").write_bytes(file.getvalue())
        for ending, content in (("jpg", file.getvalue()), ("cls", str(i % 2).encode())):
            info = tarfile.TarInfo(f"{i:06d}.{ending}")
            info.size = len(content)
            tars[i * options.shards // options.images].addfile(info, io.BytesIO(content))
    for tar in tars:
        tar.close()


def ours(source: Any, options: Options) -> Callable[[int], Iterable[Any]]:
    """Epoch number -> its batches."""
    steps = options.images // options.batch_size
    return lambda epoch: Stream(source, options.batch_size, 0, (epoch + 1) * steps).batches(epoch * steps, options.workers)


def usual_transform(preprocess: ImagePreprocess) -> v2.Compose:
    """What `PretrainAugment` does, as torchvision's documentation writes it: PIL image -> (C, H, W)."""
    crop = v2.RandomResizedCrop(preprocess.size, scale=(0.2, 1.0), interpolation=v2.InterpolationMode(preprocess.interpolation), antialias=True)
    tensor = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(preprocess.mean, preprocess.std)]
    return v2.Compose([crop, v2.RandomHorizontalFlip(), *tensor])


def torchvision_folder(folder: Path, transform: v2.Compose, options: Options) -> Callable[[int], Iterable[Any]]:
    """torchvision's folder with its own loader."""
    data = TorchvisionFolder(str(folder), transform)
    return lambda epoch: DataLoader(data, options.batch_size, shuffle=True, num_workers=options.workers, drop_last=True)


def plain_webdataset(tars: Path, transform: v2.Compose, options: Options) -> Callable[[int], Iterable[Any]]:
    """webdataset's usual pipeline: shuffled shards, a buffer, batches made in the workers."""
    urls = sorted(str(tar) for tar in tars.glob("*.tar"))

    def epoch(number: int) -> Iterable[Any]:
        data = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=number)
        data = data.shuffle(1000).decode("pil").to_tuple("jpg", "cls").map_tuple(transform).batched(options.batch_size, partial=False)
        return webdataset.WebLoader(data, batch_size=None, num_workers=options.workers)

    return epoch


def seconds(batches: Iterable[Any]) -> tuple[float, int]:
    """Time to read all batches, and how many pictures came."""
    began, seen = time.perf_counter(), 0
    for batch in batches:
        images = batch["image"] if isinstance(batch, dict) else batch[0]
        seen += len(images)
    return time.perf_counter() - began, seen


def main(options: Options) -> int:
    """Measure and print; the exit status."""
    preprocess = ImagePreprocess.default((options.size, options.size), 3)
    ours_transform, theirs = PretrainAugment().build(preprocess), usual_transform(preprocess)
    torch.manual_seed(0)
    slower = 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ[CACHE] = str(place / "cache")
        make_pictures(place, options)
        pairs = {
            "folder": (ours(Augmented(ImageFolder(place / "folder", preprocess), ours_transform), options), torchvision_folder(place / "folder", theirs, options)),
            "tars": (ours(Augmented(ImageShards(str(place / "tars"), preprocess), ours_transform), options), plain_webdataset(place / "tars", theirs, options)),
        }
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name in pairs}
        for epoch in range(options.repeats + 1):
            for name, pair in pairs.items():
                measured = {}
                for side in (0, 1) if epoch % 2 else (1, 0):
                    took, seen = seconds(pair[side](epoch))
                    measured[side] = seen / took
                if epoch:
                    rates[name].append((measured[0], measured[1]))
    print(
        f"{options.images:,} JPEGs of {options.side}x{options.side * 3 // 4}, random crops to {options.size}, batches of {options.batch_size}, {options.workers} workers, "
        f"{len(os.sched_getaffinity(0))} cores, {options.repeats} epochs of each"
    )
    for name, other in (("folder", "torchvision ImageFolder"), ("tars", "webdataset")):
        ratio = statistics.median(a / b for a, b in rates[name])
        medians = [statistics.median(column) for column in zip(*rates[name])]
        slower += ratio < 1
        print(f"{name}: ours {medians[0]:,.0f} pictures/s, {other} {medians[1]:,.0f}; median of the paired ratios {ratio:.3f}, ratio of the medians {medians[0] / medians[1]:.3f}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m tools.bench_data")))
