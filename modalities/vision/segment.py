"""Fine-tuning an encoder for semantic segmentation: `python -m modalities.vision.finetune DATA --task segmentation --model NAME`.

DATA holds pictures and, beside each, a map of class ids (see `modalities.vision.paired`). The encoder is a plain vision transformer (of MAE, say) or
MultiMAE's, with any of its inputs but the segmentation itself.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from modalities.common.budgets import few_labels
from modalities.common.confusion import confusion_view
from modalities.common.evaluation import ReportedEvaluator
from modalities.common.run import Draw, ModelRecipe
from modalities.common.sheets import spread
from modalities.vision.augment import PretrainAugment
from modalities.vision.data import BUILT_IN
from modalities.vision.data_segmentation import SegmentationPairs, training_preprocess
from modalities.vision.evaluation import segmented
from modalities.vision.maps import IGNORED
from modalities.vision.objectives.segmentation import Segmentation, SegmentationConfig
from modalities.vision.pictures_maps import segmentation_sheet
from modalities.vision.preprocess_paired import KEYS, PairedPreprocess
from modalities.vision.sources import ImageSource
from modalities.vision.starting import starting_encoder
from trainer.collate import stack
from trainer.errors import ConfigError, did_you_mean
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig

log = logging.getLogger("zoo")

HEADS = ("linear", "upernet")
"""What `--head` may say."""


@dataclass(frozen=True)
class SegmentationRecipe(ModelRecipe):
    """Train a segmenter on pictures with labelled pixels, starting from a pre-trained encoder."""

    task: Literal["segmentation"] = "segmentation"
    """What the model learns to do."""
    model: str = ""
    """Where the encoder's weights come from: a folder, or a name of the zoo."""
    size: str | None = None
    """Of an elastic model (POA) the part to start from: small, base, large, or width_depth as in 384_12. Null: the whole."""
    scratch: bool = False
    """Start from random weights of the same architecture instead (the comparison that shows what pre-training gave)."""
    inputs: tuple[str, ...] = ("rgb",)
    """Which inputs are read, of an encoder that has several (MultiMAE): rgb, depth."""
    head: Literal["linear", "upernet"] = "linear"
    """linear: a linear layer on the last tokens. upernet: a pyramid over tokens of four depths, as UPerNet."""
    head_dim: int = 256
    """Width of the UPerNet-like head."""
    drop_path: float = 0.1
    """Stochastic depth: the last block is skipped with this probability, the first never."""
    objective: SegmentationConfig = field(default_factory=SegmentationConfig)
    """Cross-entropy of pixels."""
    data: SegmentationPairs = field(default_factory=SegmentationPairs)
    """Which pictures and labels, and how they are changed at random."""

    def __post_init__(self) -> None:
        if "semseg" in self.inputs:
            raise ConfigError("inputs has semseg, which is what the segmenter shall find out. Read rgb, depth, or both.")

    def build(self) -> tuple[ImageSource, Segmentation]:
        encoder, segmenter, preprocess = starting_encoder(self.model, "segmentation", self.data, self.inputs, self.size, self.scratch)
        classes = self.data.classes()
        paired = preprocess if isinstance(preprocess, PairedPreprocess) else PairedPreprocess(preprocess, ("rgb",), semseg_stride=1)
        train, test = self.data.build(training_preprocess(paired, len(classes)))
        changes = {"head": self.head, "head_dim": self.head_dim, "drop_path": self.drop_path, "class_names": classes}
        if "in_domains" in segmenter.config_class.__dataclass_fields__:
            changes["in_domains"] = self.inputs
        model = segmenter.from_encoder(encoder, len(classes), **changes)
        model.name, model.preprocess = f"{model.system}-{train.name}", preprocess
        log.info("%d training and %d test images, %d classes of pixels", len(train), len(test), len(classes))
        return train, self.objective.build(model)

    def evaluators(self, source: ImageSource, objective: Segmentation) -> list[ReportedEvaluator]:
        """Mean intersection over union, share of right pixels and cross-entropy on the test set."""
        return [segmented(source.held_out)]

    def draw(self, objective: Segmentation, source: ImageSource) -> Draw:
        """Draws test pictures with their labels and what the segmenter says."""
        test = source.held_out
        samples = stack([test[i] for i in spread(len(test), 8)])

        def draw(objective: Segmentation, path: Path, title: str) -> None:
            segmentation_sheet(objective.model, samples, path, title)

        return draw

    def views(self, objective: Segmentation, source: ImageSource) -> dict[str, Draw]:
        """Which classes pixels are taken for."""
        return confusion_view(source.held_out, KEYS["segmentation"], IGNORED)


def segmentation_recipe(model: str, head: str = "linear", data: str = "") -> SegmentationRecipe:
    """Values between MultiMAE's for ADE20K (64 epochs, lr 1e-4, layer decay 0.75) and what one device holds."""
    if head not in HEADS:
        raise ConfigError(f"--head must be one of {', '.join(HEADS)} for --task segmentation, found {head!r}.{did_you_mean(head, HEADS)}")
    augment = PretrainAugment.none() if data in BUILT_IN else PretrainAugment(crop_scale=(0.25, 1.0))
    train = TrainConfig(
        batch_size=16,
        epochs=64,
        optim=OptimConfig(lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05, layer_decay=0.75),
        schedule=ScheduleConfig(warmup=1 / 64),
    )
    return SegmentationRecipe(recipe="vision/segmentation", model=model, head=head, data=SegmentationPairs(data, augment=augment), train=train)


def tiny_recipe(model: str, data: SegmentationPairs, seed: int, scratch: bool = False, inputs: tuple[str, ...] = ("rgb",)) -> SegmentationRecipe:
    """A short training on few labelled pictures, for tests and comparisons on the built-in set."""
    train = few_labels(50, 200, 2e-3, seed)
    return SegmentationRecipe(recipe="vision/segmentation-tiny", model=model, scratch=scratch, inputs=inputs, drop_path=0.0, data=data, train=train)
