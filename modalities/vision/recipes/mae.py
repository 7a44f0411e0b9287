"""Recipes of MAE: the paper's, and tiny ones that run in minutes on a laptop."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch

from modalities import registry
from modalities.common.evaluation import ProbeConfig, ReportedEvaluator
from modalities.common.model import Model
from modalities.common.reconstruction import MaskedReconstruction
from modalities.common.run import Draw, ModelRecipe
from modalities.common.sheets import spread
from modalities.vision.augment import PretrainAugment
from modalities.vision.data import ImageSource, LabelledImages, UnlabelledImages, preprocess_for
from modalities.vision.digits import SceneConfig
from modalities.vision.evaluation import probed, reconstructed
from modalities.vision.models.mae import MAE, MAEConfig
from modalities.vision.objectives.mae import MAEObjectiveConfig
from modalities.vision.pictures import reconstruction_sheet
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.preprocess_paired import PairedPreprocess
from modalities.vision.views import encoder_views
from trainer.config import replace
from trainer.evaluation import evaluating
from trainer.optim import OptimConfig
from trainer.randomness import seeded
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig

PICTURES = 8
"""Images in a reconstruction sheet."""


@dataclass(frozen=True)
class MAERecipe(ModelRecipe):
    """Pre-train a masked auto-encoder on images without labels (He et al. 2021, arXiv 2111.06377)."""

    network: ClassVar[type[Model]] = MAE

    model: MAEConfig = field(default_factory=MAEConfig)
    """The network."""
    objective: MAEObjectiveConfig = field(default_factory=MAEObjectiveConfig)
    """Masking and loss."""
    data: UnlabelledImages = field(default_factory=UnlabelledImages)
    """Which images, and how they are changed at random."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """Labelled images for a linear probe and 5-NN on frozen features: a folder of class folders, or a built-in set."""

    def build(self) -> tuple[ImageSource, MaskedReconstruction]:
        source = self.data.build(preprocess_for(self.data, self.model.input_size, self.model.in_chans))
        model = self.network(self.model)
        model.name, model.preprocess = self.recipe, source.preprocess
        return source, self.objective.build(model)

    def evaluators(self, source: ImageSource, objective: MaskedReconstruction) -> list[ReportedEvaluator]:
        """The loss on held-out images, where there are some, and the probes of `probe`."""
        found: list[ReportedEvaluator] = []
        if source.held_out is not None:
            found.append(reconstructed(source.held_out, objective))
        return found + self.probes(source.preprocess)

    def probes(self, preprocess: ImagePreprocess | PairedPreprocess) -> list[ReportedEvaluator]:
        """What `probe` asks for, on data as `preprocess` makes it."""
        found: list[ReportedEvaluator] = []
        if self.probe.path:
            scenes = self.data.scenes if self.probe.path == self.data.path else SceneConfig()
            data = LabelledImages(self.probe.path, scenes, per_class=self.probe.per_class)
            found.append(probed(*data.build_plain(preprocess)))
        return found

    def draw(self, objective: MaskedReconstruction, source: ImageSource) -> Draw:
        """Draws original | masked | reconstructed for a few training images, always with the same masks."""
        with seeded(self.train.seed):
            images = torch.stack([source[i]["image"] for i in spread(len(source), PICTURES)])
            noise = torch.rand(len(images), math.prod(objective.model.config.grid))

        def draw(objective: MaskedReconstruction, path: Path, title: str) -> None:
            draw_reconstructions(objective, images, noise, path, title)

        return draw

    def views(self, objective: MaskedReconstruction, source: ImageSource) -> dict[str, Draw]:
        """What the encoder looks at, and which images have features alike."""
        return encoder_views(source, self.train.seed) if isinstance(objective.export(), MAE) else {}


def draw_reconstructions(
    objective: MaskedReconstruction, images: torch.Tensor, noise: torch.Tensor | None, path: Path, title: str
) -> None:
    """A sheet original | masked | reconstructed of normalised images (B, C, H, W)."""
    device = objective.model.device
    with evaluating(objective):
        shown = objective.reconstruct({"image": images.to(device)}, None if noise is None else noise.to(device))
    back = objective.model.preprocess.denormalise
    rows = {key: back(value.float().cpu()) for key, value in shown.items()}
    reconstruction_sheet(rows["original"], rows["masked"], rows["reconstruction"], path, title)


def mae(size: str) -> MAERecipe:
    """MAE's pre-training recipe (spec: table of the paper's appendix A.1 and the repository's PRETRAIN.md) for a size."""
    name = f"vision/mae-{size}"
    return MAERecipe(
        recipe=name,
        model=registry.config_of(name),
        train=TrainConfig(
            batch_size=4096,
            epochs=800,
            optim=OptimConfig(base_lr=1.5e-4, betas=(0.9, 0.95), weight_decay=0.05),
            schedule=ScheduleConfig(warmup=0.05),  # 40 of 800 epochs
        ),
    )


def mae_tiny() -> MAERecipe:
    """MAE's recipe with a batch that a laptop can hold."""
    return replace(mae("tiny"), {"train.batch_size": 256, "train.optim.base_lr": 1e-3})


def mae_small() -> MAERecipe:
    return mae("small")


def mae_base() -> MAERecipe:
    return mae("base")


def mae_large() -> MAERecipe:
    return mae("large")


def mae_huge() -> MAERecipe:
    return mae("huge")


def mae_tiny_digits() -> MAERecipe:
    """The demo's recipe: cluttered scenes of real digits, one to two minutes on two cores."""
    name = "vision/mae-tiny-digits"
    return MAERecipe(
        recipe=name,
        model=registry.config_of(name),
        data=UnlabelledImages("digits-cluttered", augment=PretrainAugment.none()),
        train=TrainConfig(
            batch_size=128,
            steps=2400,
            log_every=20,
            optim=OptimConfig(lr=4e-3, betas=(0.9, 0.95), weight_decay=0.05),
            schedule=ScheduleConfig(warmup=0.05),
        ),
    )
