"""The demo of videos: generated moving shapes, whose class is the motion, with few labels per class."""

from pathlib import Path

import numpy as np
import torch

from modalities.common.demo import Demo, vectors
from modalities.common.model import Model
from modalities.video.augment import FinetuneAugment
from modalities.video.data import LabelledVideos, UnlabelledVideos
from modalities.video.evaluation import CLASSIFICATION, probed
from modalities.video.finetune import motion_recipe
from modalities.video.pictures import draw_reconstructions
from modalities.video.recipes.videomae import videomae_tiny_motion
from modalities.video.sources import VideoArray
from trainer.randomness import seeded

PER_CLASS = 10


def labelled(data: UnlabelledVideos, seed: int) -> LabelledVideos:
    """PER_CLASS labelled training clips of each motion, drawn by `seed`."""
    return LabelledVideos(data.path, motion=data.motion, per_class=PER_CLASS, subset_seed=seed, augment=FinetuneAugment.none())


def middle_frame(source: VideoArray) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of the middle frame of each clip, and the labels."""
    batch = source.fetch(list(range(len(source))))
    video = batch["video"]
    return video[:, :, video.shape[2] // 2].flatten(1).numpy(), batch["label"].numpy()


def draw(model: Model, test: VideoArray, path: Path, title: str) -> None:
    """Reconstructions of test clips, which pre-training has not seen."""
    with seeded(0):
        videos = test.fetch(torch.randperm(len(test))[:3].tolist())["video"]
        noise = torch.rand(len(videos), model.noise_length)
    draw_reconstructions(videomae_tiny_motion().objective.build(model), videos, noise, path, title)


def write(test: VideoArray, index: int, path: Path) -> Path:
    """A test clip as an .npy file."""
    path = path.with_suffix(".npy")
    np.save(path, test.clips[index].permute(0, 2, 3, 1).numpy())
    return path


DEMO = Demo(
    recipe="video/videomae-tiny-motion",
    title="Moving shapes",
    samples="clips",
    published="videomae-tiny-motion",
    task=CLASSIFICATION,
    per_class=PER_CLASS,
    labelled=labelled,
    finetune=motion_recipe,
    frozen=probed,
    objective=videomae_tiny_motion().objective.build,
    baselines={"raw pixels": vectors, "one frame": middle_frame},
    draw=draw,
    caption="Test clips: tubes hidden, then filled in",
    write=write,
)
