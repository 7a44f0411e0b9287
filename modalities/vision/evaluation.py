"""What is measured on images, by training, at the end of a run, by `zoo evaluate` and by the demo."""

import torch
from torch import Tensor

from modalities.common.confusion import confusion
from modalities.common.evaluation import BATCH, FrozenFeatures, HeldOut, MeanAUC, ReportedEvaluator, Row, percent, result
from modalities.common.reconstruction import MaskedReconstruction
from modalities.vision.maps import IGNORED
from modalities.vision.objectives.multimae import MultiMAEObjective
from modalities.vision.objectives.segmentation import Segmentation
from modalities.vision.sources import ImageSource
from trainer.data import ordered_batches, to_device

SEGMENTATION = "image-segmentation"
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


def predicted(source: ImageSource, objective: MultiMAEObjective) -> HeldOut:
    """MultiMAE's loss, always with the same masks."""
    outputs = ", ".join(objective.model.config.out_domains)
    return HeldOut(source, FEATURES, f"sum of the losses for {outputs}; {objective.visible} patches visible")


def segmented(test: ImageSource) -> "Segmented":
    """Mean intersection over union, share of right pixels, and cross-entropy of a segmenter."""
    return Segmented(test)


class Segmented(HeldOut):
    """A segmenter on held-out pictures: `mean_iou`, beside the share of right pixels (`accuracy`) and the `loss`.

    Intersection over union is counted per class over all labelled pixels of the set and averaged over the classes that occur, in the labels or
    in the predictions.
    """

    def __init__(self, test: ImageSource) -> None:
        super().__init__(test, SEGMENTATION, "cross-entropy of pixels", shares=("accuracy",))
        self.higher_is_better = {"mean_iou": True, **self.higher_is_better}

    def __call__(self, objective: Segmentation) -> dict[str, float]:
        device, classes = next(objective.parameters()).device, objective.model.config.num_classes
        counts, total = torch.zeros(classes, classes, dtype=torch.long, device=device), 0.0
        for batch in ordered_batches(self.source, BATCH):
            batch = to_device(batch, device)
            logits, labels = objective.model(batch), objective.target(batch)
            losses = objective.compare(logits, labels)
            total += float(losses.loss) * int(losses.count)
            counts += confusion(labels, logits.argmax(dim=1), classes, IGNORED)
        labelled = max(int(counts.sum()), 1)
        return {"mean_iou": mean_iou(counts), "accuracy": int(counts.diagonal().sum()) / labelled, "loss": total / labelled}

    def row(self, name: str, value: float) -> Row:
        return result(self.source, self.task, "mean IoU", percent(value), unit="%") if name == "mean_iou" else super().row(name, value)


def mean_iou(counts: Tensor) -> float:
    """Mean over the classes that occur of: pixels that are and were called it / pixels that are or were called it. NaN when none occurs."""
    counts = counts.double()
    both, either = counts.diagonal(), counts.sum(dim=0) + counts.sum(dim=1) - counts.diagonal()
    return float((both / either)[either > 0].mean())
