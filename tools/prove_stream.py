"""Does a tar stream resume at once, and does its memory stay flat? `python -m tools.prove_stream`.

Packs small pictures into tars, reads the whole stream once with worker processes while it watches the memory of all processes, and then
begins it again half-way. Exit status 0 only if the batches from there on are the same, beginning there took less than a twentieth of
the time of reading up to it, and memory grew by less than 50 MB.
"""

import dataclasses
import io
import os
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import tyro
from PIL import Image

from modalities.vision.augment import PretrainAugment
from modalities.vision.data import UnlabelledImages
from modalities.vision.preprocess import ImagePreprocess
from trainer.data import Stream
from trainer.remote import CACHE


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    samples: int = 200_000
    """Samples that are read."""
    shards: int = 40
    """Tars."""
    workers: int = 2
    """Worker processes."""
    batch_size: int = 100
    """Samples per batch."""


def make_tars(place: Path, options: Options) -> None:
    """One small picture under as many names as there are samples."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), "uint8")).save(file, "PNG")
    content = file.getvalue()
    for shard in range(options.shards):
        with tarfile.open(place / f"{shard:03d}.tar", "w") as tar:
            for i in range(options.samples * shard // options.shards, options.samples * (shard + 1) // options.shards):
                info = tarfile.TarInfo(f"{i:07d}.png")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def memory() -> float:
    """MB of this process and its workers; what they share counts once."""
    here = psutil.Process()
    return sum(p.memory_full_info().pss for p in (here, *here.children(recursive=True))) / 1e6


def main(options: Options) -> int:
    """Measure and print; the exit status."""
    preprocess, steps = ImagePreprocess.default((16, 16), 3), options.samples // options.batch_size
    half = steps // 2
    with tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE] = str(Path(folder) / "cache")
        make_tars(Path(folder), options)
        data = UnlabelledImages(f"{folder}/{{000..{options.shards - 1:03d}}}.tar", augment=PretrainAugment())
        began = time.perf_counter()
        source = data.build(preprocess)
        indexed = time.perf_counter() - began
        seen, reached, keys = [], 0.0, {}
        began = time.perf_counter()
        for step, batch in enumerate(Stream(source, options.batch_size, 0, steps).batches(0, options.workers)):
            if step == half:
                reached = time.perf_counter() - began
            if step in (half, steps - 1):
                keys[step] = batch["sample_key"], batch["image"].clone()
            if step % max(steps // 40, 1) == 0 and step >= steps // 20:
                seen.append(memory())
        whole = time.perf_counter() - began
        began = time.perf_counter()
        batches = Stream(data.build(preprocess), options.batch_size, 0, steps).batches(half, options.workers)
        key, images = (lambda b: (b["sample_key"], b["image"]))(next(batches))
        resumed = time.perf_counter() - began
        same = key.equal(keys[half][0]) and images.equal(keys[half][1])
    grown = max(seen) - seen[0]
    print(f"{options.samples:,} samples in {options.shards} tars, indexed once in {indexed:.1f} s; read with {options.workers} workers in {whole:.1f} s ({options.samples / whole:,.0f}/s)")
    print(f"memory of all processes: {seen[0]:.0f} MB after a twentieth, at most {max(seen):.0f} MB after that: {grown:+.1f} MB")
    print(f"sample {half * options.batch_size:,}: reached in {reached:.1f} s by reading, in {resumed:.2f} s by resuming (opening the data and starting workers included), 1/{reached / resumed:.0f}; same batch: {same}")
    return 0 if same and grown < 50 and resumed * 20 < reached else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m tools.prove_stream")))
