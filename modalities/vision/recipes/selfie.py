"""Recipes of Selfie."""

from dataclasses import dataclass, field
from typing import ClassVar

from modalities import registry
from modalities.common.evaluation import HeldOut, ReportedEvaluator
from modalities.common.model import Model
from modalities.vision.augment import PretrainAugment
from modalities.vision.data import ImageSource, UnlabelledImages
from modalities.vision.evaluation import FEATURES
from modalities.vision.models.convnet import ConvNet, ConvNetConfig
from modalities.vision.objectives.selfie import Selfie, SelfieConfig
from modalities.vision.recipes.mae import MAERecipe
from modalities.vision.recipes.resnets import by_momentum, on_a_laptop
from modalities.vision.recipes.spark import LARGE_SCENES


@dataclass(frozen=True)
class SelfieRecipe(MAERecipe):
    """Pre-train the first three stages of a convolutional network on images without labels (Trinh et al. 2019, arXiv 1906.02940)."""

    network: ClassVar[type[Model]] = ConvNet

    model: ConvNetConfig = field(default_factory=ConvNetConfig)
    """The network. Its last stage stays as it begins."""
    objective: SelfieConfig = field(default_factory=SelfieConfig)
    """Patches, and the pooling of those that are seen."""

    def evaluators(self, source: ImageSource, objective: Selfie) -> list[ReportedEvaluator]:
        """Loss and accuracy of picking on held-out images, where there are some, and the probes of `probe`."""
        what = f"cross-entropy of picking one of {len(objective.rows) * len(objective.columns) - objective.visible} patches"
        found: list[ReportedEvaluator] = [HeldOut(source.held_out, FEATURES, what)] if source.held_out is not None else []
        return found + self.probes(source.preprocess)

    def draw(self, objective: Selfie, source: ImageSource) -> None:
        """A choice is no picture."""
        return None


def selfie_resnet50() -> SelfieRecipe:
    """ResNet-50 at 224 in patches of 32, by SGD with momentum. Length and rates are ours: the paper's were not at hand."""
    name = "vision/selfie-resnet50"
    return SelfieRecipe(
        recipe=name,
        model=registry.config_of(name),
        train=by_momentum(512, 200, 0.03),
    )


def selfie_tiny() -> SelfieRecipe:
    """A small ResNet on cluttered scenes of real digits, 9 patches, on a laptop."""
    name = "vision/selfie-tiny"
    return SelfieRecipe(
        recipe=name,
        model=registry.config_of(name),
        objective=SelfieConfig(hidden=1 / 3, depth=1, heads=4, mlp=128, dropout=0.0),
        data=UnlabelledImages("digits-cluttered", LARGE_SCENES, augment=PretrainAugment.none()),
        train=on_a_laptop(),
    )
