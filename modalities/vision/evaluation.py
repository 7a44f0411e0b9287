"""What is measured on images, by training, at the end of a run, by `zoo evaluate` and by the demo."""

from modalities.common.evaluation import FrozenFeatures, HeldOut, MeanAUC, ReportedEvaluator
from modalities.common.reconstruction import MaskedReconstruction
from modalities.vision.sources import ImageSource

CLASSIFICATION = "image-classification"
FEATURES = "image-feature-extraction"


def supervised(test: ImageSource) -> HeldOut:
    """Accuracy and cross-entropy of a classifier."""
    return HeldOut(test, CLASSIFICATION, "cross-entropy", shares=("accuracy",))


def findings(test: ImageSource) -> list[ReportedEvaluator]:
    """Mean AUC and binary cross-entropy of a classifier with several labels per image."""
    return [MeanAUC(test, CLASSIFICATION), HeldOut(test, CLASSIFICATION, "binary cross-entropy")]


def probed(train: ImageSource, test: ImageSource) -> FrozenFeatures:
    """Linear probe and 5-NN on frozen features of labelled images."""
    return FrozenFeatures(train, test, CLASSIFICATION)


def reconstructed(source: ImageSource, objective: MaskedReconstruction) -> HeldOut:
    """The masked auto-encoder's loss, always with the same masks."""
    config = objective.config
    target = "normalised pixels" if config.norm_pix_loss else "pixels"
    return HeldOut(source, FEATURES, f"mean squared error of {target}, {100 * config.mask_ratio:g} % hidden")
