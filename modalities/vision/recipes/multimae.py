"""Recipes of MultiMAE: the paper's, and tiny ones that run in minutes on a laptop."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from modalities import registry
from modalities.common.evaluation import ReportedEvaluator
from modalities.common.run import Draw
from modalities.common.sheets import spread
from modalities.vision.augment import PretrainAugment
from modalities.vision.data import UnlabelledImages, preprocess_for
from modalities.vision.digits import LAYERS
from modalities.vision.evaluation import predicted
from modalities.vision.models.multimae import OWN, MultiMAE, MultiMAEConfig
from modalities.vision.objectives.multimae import MultiMAEObjective, MultiMAEObjectiveConfig
from modalities.vision.pictures_maps import cross_sheet
from modalities.vision.preprocess_paired import PairedPreprocess
from modalities.vision.recipes.mae import MAERecipe
from modalities.vision.sources import ImageSource
from trainer import config as settings
from trainer.collate import stack
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig

PICTURES = 6
"""Scenes in a sheet of cross-predictions."""


@dataclass(frozen=True)
class MultiMAERecipe(MAERecipe):
    """Pre-train on aligned pictures, depth maps and segmentations (Bachmann et al. 2022, arXiv 2204.01678)."""

    model: MultiMAEConfig = field(default_factory=MultiMAEConfig)
    """The network: which inputs and outputs, and how large."""
    objective: MultiMAEObjectiveConfig = field(default_factory=MultiMAEObjectiveConfig)
    """Masking and losses."""
    data: UnlabelledImages = field(default_factory=UnlabelledImages)
    """Which scenes (see `modalities.vision.paired`), and how they are changed at random; the same way for all maps of a scene."""

    def build(self) -> tuple[ImageSource, MultiMAEObjective]:
        model = MultiMAE(self.model)
        model.name, model.preprocess = self.recipe, paired_preprocess_for(self.data, self.model)
        wanted = tuple(dict.fromkeys([*self.model.in_domains, *(OWN[output] for output in self.model.out_domains)]))
        source = self.data.build(replace(model.preprocess, domains=wanted))
        return source, self.objective.build(model)

    def evaluators(self, source: ImageSource, objective: MultiMAEObjective) -> list[ReportedEvaluator]:
        """The loss on held-out scenes, where there are some, and the probes of `probe` on features of all inputs."""
        held_out = [predicted(source.held_out, objective)] if source.held_out is not None else []
        return held_out + self.probes(objective.model.preprocess)

    def draw(self, objective: MultiMAEObjective, source: ImageSource) -> Draw:
        """Draws a few scenes (held-out ones, where there are some), and what each input alone says of the others."""
        shown = source.held_out if source.held_out is not None else source
        samples = stack([shown[i] for i in spread(len(shown), PICTURES)])

        def draw(objective: MultiMAEObjective, path: Path, title: str) -> None:
            cross_sheet(objective.model, samples, path, title)

        return draw


def paired_preprocess_for(data: UnlabelledImages, config: MultiMAEConfig) -> PairedPreprocess:
    """The preprocessing of a new model: ImageNet's statistics for RGB, those of the data itself for a built-in set."""
    names = LAYERS if data.path == "digits-cluttered" and config.semseg_classes == len(LAYERS) else ()
    return PairedPreprocess(preprocess_for(data, config.input_size, config.in_chans, paired=True), config.in_domains, config.semseg_classes, config.semseg_stride, names)


def multimae(size: str) -> MultiMAERecipe:
    """MultiMAE's pre-training recipe (specification: the repository's configuration for 1600 epochs) for a size."""
    name = f"vision/multimae-{size}"
    return MultiMAERecipe(
        recipe=name,
        model=registry.config_of(name),
        train=TrainConfig(
            batch_size=2048,
            epochs=1600,
            optim=OptimConfig(base_lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05),
            schedule=ScheduleConfig(warmup=40 / 1600, warmup_start=1e-6 / 8e-4),  # the peak is 1e-4 * 2048 / 256
        ),
    )


def multimae_tiny() -> MultiMAERecipe:
    """MultiMAE's recipe with a batch that a laptop can hold."""
    return settings.replace(multimae("tiny"), {"train.batch_size": 256, "train.optim.base_lr": 1e-3, "train.epochs": 400})


def multimae_base() -> MultiMAERecipe:
    return multimae("base")


def multimae_large() -> MultiMAERecipe:
    return multimae("large")


def multimae_tiny_digits() -> MultiMAERecipe:
    """Cluttered scenes of real digits with synthetic depth; a few minutes on one core."""
    name = "vision/multimae-tiny-digits"
    return MultiMAERecipe(
        recipe=name,
        model=registry.config_of(name),
        objective=MultiMAEObjectiveConfig(num_encoded_tokens=14),
        data=UnlabelledImages("digits-cluttered", augment=PretrainAugment.none()),
        train=TrainConfig(
            batch_size=128,
            steps=1200,
            log_every=20,
            optim=OptimConfig(lr=3e-3, betas=(0.9, 0.95), weight_decay=0.05),
            schedule=ScheduleConfig(warmup=0.05),
        ),
    )
