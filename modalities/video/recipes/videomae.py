"""Recipes of VideoMAE: the paper's, and tiny ones that run in minutes on a laptop."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from modalities import registry
from modalities.common.evaluation import ProbeConfig, ReportedEvaluator
from modalities.common.run import Draw, ModelRecipe
from modalities.common.sheets import spread
from modalities.video.augment import PretrainAugment
from modalities.video.data import LabelledVideos, UnlabelledVideos, VideoSource, preprocess_for
from modalities.video.evaluation import probed, reconstructed
from modalities.video.models.videomae import VideoMAE, VideoMAEConfig
from modalities.video.motion import MotionConfig
from modalities.video.objectives.videomae import TubeletReconstruction, VideoMAEObjectiveConfig
from modalities.video.pictures import draw_reconstructions
from trainer.config import replace
from trainer.optim import OptimConfig
from trainer.randomness import seeded
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig

PICTURES = 3
"""Clips in a sheet of reconstructions."""


@dataclass(frozen=True)
class VideoMAERecipe(ModelRecipe):
    """Pre-train a masked auto-encoder on videos without labels (Tong et al. 2022, arXiv 2203.12602)."""

    model: VideoMAEConfig = field(default_factory=VideoMAEConfig)
    """The network."""
    objective: VideoMAEObjectiveConfig = field(default_factory=VideoMAEObjectiveConfig)
    """Masking and loss."""
    data: UnlabelledVideos = field(default_factory=UnlabelledVideos)
    """Which videos, and how they are changed at random."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """Labelled videos for a linear probe and 5-NN on frozen features: a folder of class folders, or a built-in set."""

    def build(self) -> tuple[VideoSource, TubeletReconstruction]:
        source = self.data.build(preprocess_for(self.data, self.model.input_size, self.model.in_chans))
        model = VideoMAE(self.model)
        model.name, model.preprocess = self.recipe, source.preprocess
        return source, self.objective.build(model)

    def evaluators(self, source: VideoSource, objective: TubeletReconstruction) -> list[ReportedEvaluator]:
        """The loss on held-out videos, where there are some, and the probes of `probe`."""
        found: list[ReportedEvaluator] = []
        if source.held_out is not None:
            found.append(reconstructed(source.held_out, objective))
        if self.probe.path:
            motion = self.data.motion if self.probe.path == self.data.path else MotionConfig()
            found.append(probed(*LabelledVideos(self.probe.path, motion=motion, per_class=self.probe.per_class).build_plain(source.preprocess)))
        return found

    def draw(self, objective: TubeletReconstruction, source: VideoSource) -> Draw:
        """Draws original | masked | reconstructed for a few training clips, frame by frame, always with the same masks."""
        with seeded(self.train.seed):
            samples = [source[i]["video"] for i in spread(len(source), PICTURES)]
            videos = torch.stack([video if video.ndim == 4 else video[0] for video in samples])
            noise = torch.rand(len(videos), objective.model.noise_length)

        def draw(objective: TubeletReconstruction, path: Path, title: str) -> None:
            draw_reconstructions(objective, videos, noise, path, title)

        return draw


def videomae(size: str) -> VideoMAERecipe:
    """VideoMAE's pre-training on Kinetics-400 for a size: 1600 epochs at a batch of 2048 (large 512, huge 1024), learning rate per 256 samples."""
    name = f"video/videomae-{size}"
    base_lr, epochs = 1.5e-4, 1600
    return VideoMAERecipe(
        recipe=name,
        model=registry.config_of(name),
        train=TrainConfig(
            batch_size={"large": 512, "huge": 1024}.get(size, 2048),
            epochs=epochs,
            optim=OptimConfig(base_lr=base_lr, betas=(0.9, 0.95), weight_decay=0.05),
            # the official last and first learning rates are scaled by the batch, too
            schedule=ScheduleConfig(warmup=40 / epochs, warmup_start=1e-6 / base_lr, floor=1e-5 / base_lr),
        ),
    )


def videomae_tiny() -> VideoMAERecipe:
    """VideoMAE's recipe with a batch and a length that a laptop can hold."""
    return replace(videomae("tiny"), {"train.batch_size": 128, "train.optim.base_lr": 1e-3, "train.epochs": 100, "train.schedule.warmup": 0.05})


def videomae_small() -> VideoMAERecipe:
    """The paper's recipe at the size small."""
    return videomae("small")


def videomae_base() -> VideoMAERecipe:
    """The paper's recipe at the size base."""
    return videomae("base")


def videomae_large() -> VideoMAERecipe:
    """The paper's recipe at the size large."""
    return videomae("large")


def videomae_huge() -> VideoMAERecipe:
    """The paper's recipe at the size huge."""
    return videomae("huge")


def videomae_tiny_motion() -> VideoMAERecipe:
    """The demo's recipe: generated moving discs, a few minutes on one core. Three quarters of the 16 places are hidden; pixels as they are, since most tubelets
    show nothing but noise."""
    name = "video/videomae-tiny-motion"
    return VideoMAERecipe(
        recipe=name,
        model=registry.config_of(name),
        objective=VideoMAEObjectiveConfig(mask_ratio=0.75, norm_pix_loss=False),
        data=UnlabelledVideos("motion", augment=PretrainAugment.none()),
        train=TrainConfig(
            batch_size=64,
            steps=1200,
            log_every=20,
            optim=OptimConfig(lr=3e-3, betas=(0.9, 0.95), weight_decay=0.05),
            schedule=ScheduleConfig(warmup=0.05),
        ),
    )
