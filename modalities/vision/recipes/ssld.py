"""Recipes of SSLD (Cui et al. 2021, arXiv 2103.05959): any student of timm learns from any classifier, without labels.

The paper's images are ImageNet-1k's training set and about four million of ImageNet-22k that a teacher chose; afterwards 30 to 60 epochs
on ImageNet-1k alone at a hundredth of the rate (`--init_from` the first run).
"""

from dataclasses import dataclass, field

from modalities import registry
from modalities.common.evaluation import HeldOut, ReportedEvaluator
from modalities.common.run import ModelRecipe
from modalities.vision.augment import PretrainAugment
from modalities.vision.data import ImageSource, UnlabelledImages, preprocess_for
from modalities.vision.evaluation import CLASSIFICATION
from modalities.vision.models.timm_classifier import TimmClassifier, TimmClassifierConfig
from modalities.vision.objectives.ssld import SSLD, SSLDConfig
from trainer.config import replace
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig

TEACHER = "timm:resnext101_32x16d.fb_wsl_ig1b_ft_in1k"
"""The paper's teacher of ResNet-50-D."""
CROPS = PretrainAugment(crop_scale=(0.08, 1.0))
"""Student and teacher see the same crop."""


@dataclass(frozen=True)
class SSLDRecipe(ModelRecipe):
    """Distil a classifier into a student on images without labels."""

    model: TimmClassifierConfig = field(default_factory=TimmClassifierConfig)
    """The student. Names of its classes are the teacher's."""
    objective: SSLDConfig = field(default_factory=SSLDConfig)
    """The teacher."""
    data: UnlabelledImages = field(default_factory=lambda: UnlabelledImages(augment=CROPS))
    """Which images, and how they are changed at random."""

    def build(self) -> tuple[ImageSource, SSLD]:
        source = self.data.build(preprocess_for(self.data, self.model.input_size, self.model.in_chans))
        model = TimmClassifier(self.model)
        model.name, model.preprocess = self.recipe, source.preprocess
        return source, self.objective.build(model)

    def evaluators(self, source: ImageSource, objective: SSLD) -> list[ReportedEvaluator]:
        """How near the student is to the teacher on held-out images, where there are some."""
        held_out = source.held_out
        return [] if held_out is None else [HeldOut(held_out, CLASSIFICATION, "Jensen-Shannon divergence to the teacher", shares=("agreement",))]


def ssld_resnet50d() -> SSLDRecipe:
    """ResNet-50-D: 360 epochs, 82.4 % on ImageNet-1k in the paper."""
    return _recipe("resnet50d", TEACHER, 1024, 0.4, 7e-5)


def ssld_mobilenetv3_large() -> SSLDRecipe:
    """MobileNetV3-Large: 360 epochs, 79.0 % in the paper. Its teacher is the ResNet-50-D that was distilled before: name it by --objective.teacher."""
    return _recipe("mobilenetv3-large", "", 5760, 3.66, 1e-5)


def ssld_resnet10_digits() -> SSLDRecipe:
    """A small network for the built-in digits, from a classifier of your own (`zoo finetune vision/mae-tiny-digits --data.path digits-cluttered`)."""
    recipe = _recipe("resnet10-digits", "", 128, 0.2, 5e-5)
    small = {"data.path": "digits-cluttered", "data.augment": PretrainAugment.none(), "train.epochs": None, "train.steps": 600}
    return replace(recipe, {**small, "train.log_every": 20})


def _recipe(size: str, teacher: str, batch: int, lr: float, weight_decay: float) -> SSLDRecipe:
    name = f"vision/ssld-{size}"
    return SSLDRecipe(
        recipe=name,
        model=registry.config_of(name),
        objective=SSLDConfig(teacher),
        train=TrainConfig(
            batch_size=batch,
            epochs=360,
            optim=OptimConfig(name="momentum", lr=lr, betas=None, weight_decay=weight_decay),
            schedule=ScheduleConfig(warmup=5 / 360),  # the length of the warm-up is ours
        ),
    )
