"""Recipes of POA: the paper's, which was not run here, and tiny ones."""

from dataclasses import dataclass, field

from modalities import registry
from modalities.common.evaluation import ProbeConfig, ReportedEvaluator
from modalities.common.run import Draw, ModelRecipe
from modalities.vision.data import ImageSource, LabelledImages, preprocess_for
from modalities.vision.digits import SceneConfig
from modalities.vision.evaluation import probed
from modalities.vision.models.poa import POA, POAConfig
from modalities.vision.multicrop import MultiCropAugment, MultiCropImages
from modalities.vision.objectives.poa import POAObjectiveConfig, SelfDistillation
from modalities.vision.views import encoder_views
from trainer.config import replace
from trainer.errors import ConfigError
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig

SHARP = 0.01
"""The teacher's temperature for tiny networks. At the start their heads say nearly the same of all images; by the paper's 0.04 to 0.07 the
targets are then so even that student and teacher agree to tell no images apart, and the loss stays at the logarithm of the prototypes."""


@dataclass(frozen=True)
class POARecipe(ModelRecipe):
    """Pre-train one network for all sizes, without labels (Zhang et al. 2024, arXiv 2408.01031)."""

    model: POAConfig = field(default_factory=POAConfig)
    """The network and its range of sizes."""
    objective: POAObjectiveConfig = field(default_factory=POAObjectiveConfig)
    """Losses and their schedules."""
    data: MultiCropImages = field(default_factory=MultiCropImages)
    """Which images, and their crops."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """Labelled images for a linear probe and 5-NN on frozen features of the intact network: a folder of class folders, or a built-in set."""

    def build(self) -> tuple[ImageSource, SelfDistillation]:
        wrong = [side for side, patch in zip(self.data.augment.local_size, self.model.patch_size) if side % patch]
        if wrong and self.data.augment.local_count:
            raise ConfigError(f"data.augment.local_size must be whole patches of {self.model.patch_size}, found {self.data.augment.local_size}.")
        source = self.data.build(preprocess_for(self.data, self.model.input_size, self.model.in_chans))
        model = POA(self.model)
        model.name, model.preprocess = self.recipe, source.preprocess
        return source, self.objective.build(model, self.train.seed)

    def evaluators(self, source: ImageSource, objective: SelfDistillation) -> list[ReportedEvaluator]:
        """The probes of `probe`."""
        if not self.probe.path:
            return []
        scenes = self.data.scenes if self.probe.path == self.data.path else SceneConfig()
        data = LabelledImages(self.probe.path, scenes, per_class=self.probe.per_class)
        return [probed(*data.build_plain(source.preprocess))]

    def views(self, objective: SelfDistillation, source: ImageSource) -> dict[str, Draw]:
        """What the teacher's class token looks at, and which images have features alike."""
        return encoder_views(source, self.train.seed)


def poa() -> POARecipe:
    """The paper's recipe for ImageNet-1k (`vit_ee1200.yaml`): 346 epochs of 800 steps, 1600 samples each.

    Here the gradient of backbone and heads is clipped as one and not each for itself, and stochastic depth skips samples by chance
    rather than a fixed share of a batch.
    """
    name, epochs, horizon = "vision/poa-large", 346, 1 / 0.78
    optim = OptimConfig(base_lr=2e-3, scaling="sqrt", betas=(0.9, 0.999), weight_decay=0.04, weight_decay_end=0.4, layer_decay=0.9, clip_norm=1.5)
    return POARecipe(
        recipe=name,
        model=registry.config_of(name, drop_path=0.2),
        objective=POAObjectiveConfig(horizon=horizon),
        train=TrainConfig(
            batch_size=1600,
            steps=epochs * 800,
            optim=optim,
            schedule=ScheduleConfig(warmup=10 / epochs, floor=2e-5 / 5e-3, horizon=horizon),
        ),
    )


def poa_tiny() -> POARecipe:
    """The paper's recipe for a small network, a batch that a laptop can hold, and the sharper teacher of `poa_tiny_digits`. It has not been shown to learn."""
    name = "vision/poa-tiny"
    base = poa()
    return replace(
        base,
        {
            "recipe": name,
            "model": registry.config_of(name),
            "objective": replace(base.objective, {"teacher_temperature": (SHARP, SHARP), "fixed_gains": True}),
            "data.augment": MultiCropAugment(local_count=4, local_size=(16, 16)),
            "train.batch_size": 128,
            "train.steps": 20_000,
        },
    )


def poa_tiny_digits() -> POARecipe:
    """Cluttered scenes of real digits, five to ten minutes on one core. What it gives is in docs/results.md: `python -m tools.learn_poa` measures it.

    Without small crops, in which little of a digit is left, without masked patches and without KoLeo, which slow down so short a run.
    """
    name = "vision/poa-tiny-digits"
    crops = replace(MultiCropAugment.plain(0, (10, 10), global_scale=(0.7, 1.0)), {"jitter": 0.8})
    return POARecipe(
        recipe=name,
        model=registry.config_of(name),
        objective=POAObjectiveConfig(
            fixed_gains=True, teacher_temperature=(SHARP, SHARP), temperature_warmup=0.0, masked_patches=0.0, spread=0.0, last_layer_frozen=0.05,
            momentum=(0.98, 0.999), patch_lr=1.0,
        ),
        data=MultiCropImages("digits-cluttered", augment=crops),
        train=TrainConfig(
            batch_size=64,
            steps=2000,
            log_every=20,
            optim=OptimConfig(lr=5e-3, betas=(0.9, 0.999), weight_decay=0.04, clip_norm=10.0),
            schedule=ScheduleConfig(warmup=0.1, floor=0.01),
        ),
    )  # fmt: skip
