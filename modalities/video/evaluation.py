"""What is measured on videos, by training, at the end of a run, by `zoo evaluate` and by the demo."""

from collections.abc import Callable
from typing import Any

import torch

from modalities.common.evaluation import FrozenFeatures, HeldOut, Row, percent, result
from modalities.common.reconstruction import MaskedReconstruction
from modalities.video.sources import VideoSource
from trainer.errors import ConfigError
from trainer.objective import Objective

CLASSIFICATION = "video-classification"
FEATURES = "video-feature-extraction"


def supervised(test: VideoSource) -> HeldOut:
    """Accuracy and cross-entropy of a classifier on the middle clip of each video."""
    return HeldOut(test, CLASSIFICATION, "cross-entropy", shares=("accuracy",))


def probed(train: VideoSource, test: VideoSource) -> FrozenFeatures:
    """Linear probe and 5-NN on frozen features of labelled videos."""
    return FrozenFeatures(train, test, CLASSIFICATION)


def reconstructed(source: VideoSource, objective: MaskedReconstruction) -> HeldOut:
    """The masked auto-encoder's loss, always with the same masks."""
    config = objective.config
    target = "normalised pixels" if config.norm_pix_loss else "pixels"
    return HeldOut(source, FEATURES, f"mean squared error of {target}, {100 * config.mask_ratio:g} % hidden")


class MultiView:
    """Accuracy of a classifier whose shares are averaged over views of each video: clips spread over time, each in crops along its longer side.

    VideoMAE's test: 5 x 3 views on K400, 2 x 3 on SSv2. Each file is opened once for all of its views.
    """

    def __init__(self, test: VideoSource, clips: int = 5, crops: int = 3) -> None:
        if clips < 1 or crops < 1:
            raise ConfigError(f"Multi-view testing needs at least one clip and one crop, found {clips} and {crops}.")
        self.test, self.clips, self.crops = test, clips, crops
        self.name = f"{clips} x {crops} views on {test.name}"
        self.higher_is_better = {"multiview": True}

    @torch.inference_mode()
    def __call__(self, objective: Objective) -> dict[str, float]:
        model, right = objective.export(), 0
        views: Callable[[Any], torch.Tensor] = lambda raw: self.test.preprocess.views(raw, self.clips, self.crops)
        for index in range(len(self.test)):
            sample = self.test.sample(index, views)
            shares = model({model.input_key: sample["video"].to(model.device)}).float().softmax(dim=1).mean(dim=0)
            right += int(shares.argmax()) == int(sample["label"])
        return {"multiview": right / len(self.test)}

    def row(self, name: str, value: float) -> Row:
        return result(self.test, CLASSIFICATION, "accuracy", percent(value), f"mean over {self.clips} clips x {self.crops} crops", "%")
