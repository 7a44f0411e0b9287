"""Semantic segmentation: cross-entropy of every labelled pixel."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from modalities.vision.maps import IGNORED
from modalities.vision.models.segmenters import Segmenter
from trainer.errors import ConfigError, DataError
from trainer.objective import Batch, Losses, Objective


@dataclass(frozen=True)
class SegmentationConfig:
    """How pixels are compared with their labels."""

    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes, in training."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing <= 1:
            raise ConfigError(f"label_smoothing must lie between 0 and 1, found {self.label_smoothing}.")

    def build(self, model: Segmenter) -> "Segmentation":
        """The objective around a segmenter."""
        return Segmentation(model, self)


class Segmentation(Objective):
    """Batch: the inputs of the model and `segmentation` (B, H, W), class ids; pixels of 255 have no label and count for nothing.

    The loss is the mean over the labelled pixels of the batch; of a batch without any it is 0.
    """

    def __init__(self, model: Segmenter, config: SegmentationConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, batch: Batch) -> Losses:
        return self.compare(self.model(batch), self.target(batch))

    def compare(self, logits: Tensor, target: Tensor) -> Losses:
        """Loss of logits (B, K, H, W) against labels (B, H, W)."""
        if target.shape != logits.shape[:1] + logits.shape[2:]:
            raise DataError(f"batch['segmentation'] must be (B, H, W) = {(logits.shape[0], *logits.shape[2:])}, found {tuple(target.shape)}.")
        count = (target != IGNORED).sum()
        smoothing = self.config.label_smoothing if self.training else 0.0
        total = F.cross_entropy(logits.float(), target, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing)
        right = (logits.detach().argmax(dim=1) == target).sum()
        return Losses(total / count.clamp(min=1), {"accuracy": right / count.clamp(min=1)}, count)

    def target(self, batch: Batch) -> Tensor:
        """The labels of a batch. DataError when there are none."""
        if "segmentation" not in batch or batch["segmentation"].is_floating_point():
            found = "floating point numbers" if "segmentation" in batch else f"none, only {', '.join(batch)}"
            raise DataError(f"Segmentation needs whole class ids in batch['segmentation'], found {found}.")
        return batch["segmentation"]

    def export(self) -> Segmenter:
        return self.model
