"""Recipes of LOOK."""

from dataclasses import dataclass, field

from modalities import registry
from modalities.common.evaluation import ReportedEvaluator
from modalities.common.run import ModelRecipe
from modalities.vision.augment import FinetuneAugment
from modalities.vision.data import ImageSource, LabelledImages, preprocess_for
from modalities.vision.evaluation import probed
from modalities.vision.models.convnet import ConvNet, ConvNetConfig
from modalities.vision.objectives.look import LOOK, LOOKConfig
from modalities.vision.recipes.resnets import by_momentum, on_a_laptop
from modalities.vision.recipes.spark import LARGE_SCENES
from trainer.config import replace


@dataclass(frozen=True)
class LOOKRecipe(ModelRecipe):
    """Pre-train a convolutional network on labelled images by the votes of nearest neighbours (Feng et al. 2022, arXiv 2110.06014)."""

    model: ConvNetConfig = field(default_factory=ConvNetConfig)
    """The network."""
    objective: LOOKConfig = field(default_factory=LOOKConfig)
    """Memory and vote."""
    data: LabelledImages = field(default_factory=lambda: LabelledImages(augment=FinetuneAugment(crop_scale=(0.2, 1.0), auto_augment=None, color_jitter=0.4, erase_prob=0.0)))
    """Which labelled images, and how they are changed at random."""

    def build(self) -> tuple[ImageSource, LOOK]:
        train, _ = self.data.build(preprocess_for(self.data, self.model.input_size, self.model.in_chans))
        model = ConvNet(self.model)
        model.name, model.preprocess = self.recipe, train.preprocess
        return train, self.objective.build(model)

    def evaluators(self, source: ImageSource, objective: LOOK) -> list[ReportedEvaluator]:
        """Linear probe and 5-NN on frozen features of the test set."""
        return [probed(*self.data.build_plain(source.preprocess))]


def look_resnet50() -> LOOKRecipe:
    """ResNet-50 at 224, by SGD with momentum. Length and rates are ours: the paper's were not at hand."""
    name = "vision/look-resnet50"
    return LOOKRecipe(
        recipe=name,
        model=registry.config_of(name),
        train=by_momentum(256, 90, 0.1),
    )


def look_tiny() -> LOOKRecipe:
    """A small ResNet on cluttered scenes of real digits, on a laptop."""
    name = "vision/look-tiny"
    return LOOKRecipe(
        recipe=name,
        model=registry.config_of(name),
        objective=LOOKConfig(memory=1024, neighbours=50, momentum=0.98, hidden=128, width=32),
        data=LabelledImages("digits-cluttered", replace(LARGE_SCENES, {"test_views": 1}), augment=FinetuneAugment.none()),
        train=on_a_laptop(pictures=0),
    )
