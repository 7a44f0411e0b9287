"""SSLD: distillation without labels (Cui et al. 2021, arXiv 2103.05959).

Student and frozen teacher see the same augmented image; what is minimised is the Jensen-Shannon divergence of what they say, at
temperature 1, without labels and without smoothing.
"""

from dataclasses import dataclass, replace

import torch

from modalities.vision.models.timm_classifier import TimmClassifier
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.teachers import open_classifier
from trainer.distillation import js_divergence
from trainer.errors import ConfigError, ModelError
from trainer.frozen import Frozen
from trainer.objective import Batch, Losses, Objective


@dataclass(frozen=True)
class SSLDConfig:
    """Which teacher."""

    teacher: str = ""
    """A frozen classifier: timm:NAME (its weights are downloaded once), or a name, run, folder or Hub id that the zoo loads."""

    def build(self, model: TimmClassifier) -> "SSLD":
        """The objective around a student."""
        return SSLD(model, self)


class SSLD(Objective):
    """Batch: `image` (B, C, H, W), normalised for the student. `agreement`: the share of images of which both name the same class first."""

    def __init__(self, model: TimmClassifier, config: SSLDConfig) -> None:
        super().__init__()
        if not config.teacher:
            raise ConfigError("Say which classifier the student learns from: --objective.teacher timm:NAME, or a run, folder or name of the zoo.")
        if not isinstance(model.preprocess, ImagePreprocess):
            raise ConfigError("Distillation needs to know how the student's images are normalised; give the model its preprocessing first.")
        teacher = open_classifier(config.teacher)
        if teacher.classes != model.config.num_classes:
            raise ModelError(f"{config.teacher} names {teacher.classes} classes and the student {model.config.num_classes}. Set model.num_classes to {teacher.classes}.")
        self.model, self.config, self.preprocess = model, config, model.preprocess
        if teacher.names and not model.config.class_names:
            model.config = replace(model.config, class_names=teacher.names)
        self.teacher = Frozen(teacher)

    def forward(self, batch: Batch) -> Losses:
        image = self.model.input(batch)
        with torch.no_grad():
            wanted = self.teacher.on(image.device).logits(image, self.preprocess).float()
        said = self.model(batch).float()
        agreement = (said.detach().argmax(dim=1) == wanted.argmax(dim=1)).float().mean()
        return Losses(js_divergence(wanted, said), {"agreement": agreement})

    def export(self) -> TimmClassifier:
        return self.model
