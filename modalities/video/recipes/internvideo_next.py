"""Recipes of both stages of InternVideo-Next: the authors', and tiny ones that run in about a minute on one core."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from modalities import registry
from modalities.common import pretrained
from modalities.common.evaluation import HeldOut, ProbeConfig, ReportedEvaluator
from modalities.common.run import Draw, ModelRecipe
from modalities.common.sheets import spread
from modalities.video.augment import PretrainAugment
from modalities.video.data import LabelledVideos, UnlabelledVideos, VideoSource, preprocess_for
from modalities.video.evaluation import FEATURES, probed
from modalities.video.models.internvideo_next import InternVideoNext, InternVideoNextConfig
from modalities.video.models.predictor import PredictorConfig
from modalities.video.motion import MotionConfig
from modalities.video.objectives.block_masks import BlockMaskConfig
from modalities.video.objectives.latent_prediction import LatentPrediction, LatentPredictionConfig
from modalities.video.objectives.semantic_diffusion import SemanticDiffusion, SemanticDiffusionConfig
from modalities.video.pictures import draw_reconstructions
from trainer.config import replace
from trainer.errors import ConfigError
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig

PICTURES = 3
"""Clips in a sheet of reconstructions."""
TINY_PREDICTOR = PredictorConfig(width=64, depth=2, num_heads=4, mlp_width=256)


@dataclass(frozen=True)
class StageOneRecipe(ModelRecipe):
    """Stage 1: hidden pixels by diffusion, meaning from a frozen image teacher (Wang et al. 2026, arXiv 2512.01342)."""

    model: InternVideoNextConfig = field(default_factory=InternVideoNextConfig)
    """The encoder."""
    objective: SemanticDiffusionConfig = field(default_factory=SemanticDiffusionConfig)
    """Masking, teacher, predictor, decoder."""
    data: UnlabelledVideos = field(default_factory=UnlabelledVideos)
    """Which videos, and how they are changed at random."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """Labelled videos for a linear probe and 5-NN on frozen features: a folder of class folders, or a built-in set."""

    def build(self) -> tuple[VideoSource, SemanticDiffusion]:
        source = self.data.build(preprocess_for(self.data, self.model.input_size, self.model.in_chans))
        model = InternVideoNext(self.model)
        model.name, model.preprocess = self.recipe, source.preprocess
        return source, self.objective.build(model)

    def evaluators(self, source: VideoSource, objective: SemanticDiffusion) -> list[ReportedEvaluator]:
        """The loss on held-out videos, where there are some, and the probes of `probe`."""
        words = f"alignment with {self.objective.teacher} and diffusion, {100 * self.objective.mask_ratio:g} % hidden"
        return measured(source, words, self.probe, self.data)

    def draw(self, objective: SemanticDiffusion, source: VideoSource) -> Draw:
        """Draws original | masked | drawn from the diffusion model for a few training clips, frame by frame, always with the same keys."""
        samples = [source[i]["video"] for i in spread(len(source), PICTURES)]
        videos = torch.stack([video if video.ndim == 4 else video[0] for video in samples])
        keys = torch.arange(len(videos)) + 10**6 * self.train.seed

        def draw(objective: SemanticDiffusion, path: Path, title: str) -> None:
            draw_reconstructions(objective, videos, keys, path, title)

        return draw


@dataclass(frozen=True)
class StageTwoRecipe(ModelRecipe):
    """Stage 2: predict what the frozen model of stage 1 says of hidden blocks (Wang et al. 2026, arXiv 2512.01342)."""

    model: str = ""
    """The model of stage 1, with which student and target begin: its run, a folder, or a name of the zoo."""
    input_size: tuple[int, int, int] | None = None
    """Frames, height and width of a clip. Null: those of stage 1 (the authors go from 16 to 32 frames)."""
    drop_path: float = 0.0
    """Stochastic depth of the student: the last block is skipped with this probability, the first never."""
    objective: LatentPredictionConfig = field(default_factory=LatentPredictionConfig)
    """Masks and predictor."""
    data: UnlabelledVideos = field(default_factory=UnlabelledVideos)
    """Which videos, and how they are changed at random."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """Labelled videos for a linear probe and 5-NN on frozen features: a folder of class folders, or a built-in set."""

    def build(self) -> tuple[VideoSource, LatentPrediction]:
        if not self.model:
            raise ConfigError("Stage 2 begins with a model of stage 1: --model RUN_OR_FOLDER (`zoo pretrain video/internvideo-next-tiny-motion` makes one).")
        changes = {} if self.input_size is None else {"input_size": self.input_size}
        model = pretrained.load(self.model, system=InternVideoNext.system, drop_path=self.drop_path, **changes)
        preprocess = preprocess_for(self.data, model.config.input_size, model.config.in_chans)
        if model.preprocess is not None:  # its own statistics and size, the frames as this recipe samples them
            preprocess = replace(model.preprocess, {"stride": preprocess.stride, "sampling": preprocess.sampling})
        source = self.data.build(preprocess)
        model.name, model.preprocess = self.recipe, preprocess
        return source, self.objective.build(model)

    def evaluators(self, source: VideoSource, objective: LatentPrediction) -> list[ReportedEvaluator]:
        """The loss on held-out videos, where there are some, and the probes of `probe`."""
        return measured(source, f"2 - 2 cos to the frozen target, summed over {len(self.objective.masks)} masks", self.probe, self.data)


def measured(source: VideoSource, words: str, probe: ProbeConfig, data: UnlabelledVideos) -> list[ReportedEvaluator]:
    """The loss on held-out videos, where there are some, and the probes of labelled ones."""
    found: list[ReportedEvaluator] = [] if source.held_out is None else [HeldOut(source.held_out, FEATURES, words)]
    if probe.path:
        motion = data.motion if probe.path == data.path else MotionConfig()
        found.append(probed(*LabelledVideos(probe.path, motion=motion, per_class=probe.per_class).build_plain(source.preprocess)))
    return found


def stage1(size: str, drop_path: float) -> StageOneRecipe:
    """The authors' stage 1 for a size: 62 epochs of 2048 clips of 16 frames per step. Theirs has mirror images besides, and the layers of ModernBERT:
    `--objective.predictor.kind modernbert --objective.predictor.weights answerdotai/ModernBERT-large`."""
    name, base_lr = f"video/internvideo-next-{size}", 1e-3
    return StageOneRecipe(
        recipe=name,
        model=registry.config_of(name, drop_path=drop_path),
        train=TrainConfig(
            batch_size=2048,
            epochs=62,
            precision="bf16",
            optim=OptimConfig(base_lr=base_lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.05, clip_norm=5.0),
            schedule=ScheduleConfig(warmup=7 / 62, floor=1e-5 / base_lr),
        ),
    )


def stage2(size: str, drop_path: float) -> StageTwoRecipe:
    """The authors' stage 2 for a size, on 32 frames: 101 epochs, no warm-up. `--model` names the model of stage 1."""
    base_lr = 1e-4
    return StageTwoRecipe(
        recipe=f"video/internvideo-next-{size}-stage2",
        input_size=(32, 224, 224),
        drop_path=drop_path,
        train=TrainConfig(
            batch_size=2048,
            epochs=101,
            precision="bf16",
            optim=OptimConfig(base_lr=base_lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.05, clip_norm=5.0),
            schedule=ScheduleConfig(warmup=0.0, floor=1e-5 / base_lr),
        ),
    )


def stage1_base() -> StageOneRecipe:
    """Stage 1 at the size base."""
    return stage1("base", 0.1)


def stage1_large() -> StageOneRecipe:
    """Stage 1 at the size large."""
    return stage1("large", 0.2)


def stage2_base() -> StageTwoRecipe:
    """Stage 2 at the size base."""
    return stage2("base", 0.1)


def stage2_large() -> StageTwoRecipe:
    """Stage 2 at the size large."""
    return stage2("large", 0.2)


def stage1_1b() -> StageOneRecipe:
    """Stage 1 at the size 1b."""
    return stage1("1b", 0.2)


def stage2_1b() -> StageTwoRecipe:
    """Stage 2 at the size 1b."""
    return stage2("1b", 0.2)


def stage1_tiny_motion() -> StageOneRecipe:
    """Generated moving shapes and the zoo's own model of digits as the teacher: it knows strokes, not these shapes."""
    name = "video/internvideo-next-tiny-motion"
    return StageOneRecipe(
        recipe=name,
        model=registry.config_of(name),
        objective=SemanticDiffusionConfig(
            "vision/mae-tiny-digits", aligned_layers=2, teacher_interval=1.0, predictor=TINY_PREDICTOR, diffusion_width=64, diffusion_depth=2
        ),
        data=UnlabelledVideos("motion", augment=PretrainAugment.none()),
        probe=ProbeConfig("motion"),
        train=_tiny(250, 2e-3),
    )


def stage2_tiny_motion() -> StageTwoRecipe:
    """Generated moving shapes: 4 x 4 places in a frame, so the blocks are larger shares of it than the authors'."""
    return StageTwoRecipe(
        recipe="video/internvideo-next-tiny-motion-stage2",
        objective=LatentPredictionConfig((BlockMaskConfig(3, 0.25), BlockMaskConfig(1, 0.6)), None, TINY_PREDICTOR),
        data=UnlabelledVideos("motion", augment=PretrainAugment.none()),
        probe=ProbeConfig("motion"),
        train=_tiny(250, 1e-3),
    )


def _tiny(steps: int, lr: float) -> TrainConfig:
    return TrainConfig(
        batch_size=64,
        steps=steps,
        log_every=20,
        optim=OptimConfig(lr=lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.05, clip_norm=5.0),
        schedule=ScheduleConfig(warmup=0.05),
    )
