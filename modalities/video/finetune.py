"""Fine-tuning a video encoder on labelled videos: `python -m modalities.video.finetune DATA --model NAME`.

The recipe is VideoMAE's (arXiv 2203.12602, appendix): layer-wise learning rates, RandAugment, repeated augmentation, mixup and cutmix, the mean of
all tokens; or, with `--head probe`, a linear probe on the frozen, batch-normalised mean token.
"""

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from modalities import registry
from modalities.common import pretrained
from modalities.common.attention import attention_maps
from modalities.common.budgets import few_labels, linear_probe
from modalities.common.classification import Classification, ClassificationConfig
from modalities.common.confusion import confusion_view
from modalities.common.evaluation import ReportedEvaluator
from modalities.common.run import Draw, ModelRecipe
from modalities.common.sheets import spread
from modalities.common.starting import starting_point
from modalities.video.augment import FinetuneAugment
from modalities.video.data import BUILT_IN, LabelledVideos, VideoSource, preprocess_for
from modalities.video.evaluation import MultiView, supervised
from modalities.video.models.vit import VideoClassifier
from modalities.video.pictures import animation, attended, strip_sheet
from trainer.config import replace
from trainer.errors import ConfigError
from trainer.evaluation import evaluating
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig

log = logging.getLogger("zoo")

SHOWN = 8
"""Test clips that are drawn."""


@dataclass(frozen=True)
class FinetuneRecipe(ModelRecipe):
    """Train a classifier on labelled videos, starting from a pre-trained encoder."""

    model: str = ""
    """Where the encoder's weights come from: a folder, or a name of the zoo."""
    scratch: bool = False
    """Start from random weights of the same architecture instead (the comparison that shows what pre-training gave)."""
    head: Literal["linear", "probe"] = "linear"
    """linear: the whole network is trained. probe: only a linear layer on the frozen, batch-normalised mean token."""
    drop_path: float = 0.1
    """Stochastic depth: the last block is skipped with this probability, the first never."""
    head_dropout: float = 0.0
    """Dropout before the head (UCF101: 0.5)."""
    test_clips: int = 5
    """Clips of each test video whose shares are averaged at the end (K400: 5, SSv2: 2). With one clip and one crop there is no such average."""
    test_crops: int = 3
    """Crops of each test clip, along its longer side."""
    objective: ClassificationConfig = field(default_factory=ClassificationConfig)
    """Mixup, cutmix, label smoothing."""
    data: LabelledVideos = field(default_factory=LabelledVideos)
    """Which labelled videos, and how they are changed at random."""

    def __post_init__(self) -> None:
        if self.head == "probe" and (self.drop_path or self.head_dropout):
            raise ConfigError(f"A probe reads a frozen network: head='probe' needs drop_path=0 and head_dropout=0, found {self.drop_path} and {self.head_dropout}.")
        if self.test_clips < 1 or self.test_crops < 1:
            raise ConfigError(f"test_clips and test_crops must be at least 1, found {self.test_clips} and {self.test_crops}.")

    def build(self) -> tuple[VideoSource, Classification]:
        encoder, classifier = starting_point(self.model, "classification", "video", scratch=self.scratch)
        preprocess = preprocess_for(self.data, encoder.config.input_size, encoder.config.in_chans)
        if encoder.preprocess is not None:  # its own statistics and size, the frames as this recipe samples them
            preprocess = replace(encoder.preprocess, {"stride": preprocess.stride, "sampling": preprocess.sampling})
        train, test = self.data.build(preprocess)
        model = classifier.from_encoder(
            encoder, len(train.classes), drop_path=self.drop_path, head_dropout=self.head_dropout, head=self.head, class_names=train.classes
        )
        model.name, model.preprocess = f"{classifier.system}-{train.name}", preprocess
        log.info("%d training and %d test videos of %d classes", len(train), len(test), len(train.classes))
        return train, self.objective.build(model)

    def evaluators(self, source: VideoSource, objective: Classification) -> list[ReportedEvaluator]:
        """Accuracy and cross-entropy on the middle clip of each test video, and accuracy over several views of it.

        Where `val` and `test` lie beside `train`, `val` is used here and `test` stays unseen, for an honest measurement at the end.
        """
        found: list[ReportedEvaluator] = [supervised(source.held_out)]
        if self.test_clips * self.test_crops > 1:
            found.append(MultiView(source.held_out, self.test_clips, self.test_crops))
        return found

    def draw(self, objective: Classification, source: VideoSource) -> Draw:
        """Draws test clips with their label, what the classifier says and, for a network of plain attention, where it looks: a sheet, and an animation beside it."""
        preprocess, test = objective.model.preprocess, source.held_out
        shown = [test[i] for i in spread(len(test), SHOWN)]
        videos = torch.stack([s["video"] for s in shown])
        pixels = preprocess.pixels(videos).clamp(0, 1)

        def draw(objective: Classification, path: Path, title: str) -> None:
            with evaluating(objective):
                batch = {"video": videos.to(objective.model.device)}
                said = objective.model(batch).argmax(dim=1).tolist()
            rows = {"clip": pixels}
            if isinstance(objective.model, VideoClassifier):
                rows["attention"] = attended(pixels, attention_maps(objective.model, batch))
            names = [f"{test.classes[s['label']]} → {test.classes[k]}" for s, k in zip(shown, said)]
            strip_sheet(rows, path, f"{title}: label → prediction", names)
            animation(rows, path.with_suffix(".gif"))

        return draw

    def views(self, objective: Classification, source: VideoSource) -> dict[str, Draw]:
        """Which classes are taken for which, by the middle clip of each test video."""
        return confusion_view(source.held_out, source.label_key)


def default_recipe(model: str, head: str = "linear", data: str = "") -> FinetuneRecipe:
    """VideoMAE's fine-tuning on Kinetics-400 (or, for head="probe", a linear probe), with the values for the size of the encoder.

    Learning rates are per 256 videos, of which each gives two clips; the batch is 64 where the paper has 384 and more, so that it fits one device.
    For SSv2: `--data.sampling segment --data.stride 1 --data.augment.no-flip --test_clips 2`.
    """
    if not model or model in registry.entries():
        width = registry.find(model).fields.get("embed_dim", 768) if model else 768
    else:
        width = pretrained.load(model).config.embed_dim
    shared = dict(recipe="video/finetune", model=model)
    if data in BUILT_IN:
        shared |= dict(test_clips=1, test_crops=1, data=LabelledVideos(data, augment=FinetuneAugment.none()))
    elif head == "probe":
        shared |= dict(data=LabelledVideos(data, augment=replace(FinetuneAugment(), {"repeats": 1, "auto_augment": None, "erase_prob": 0.0})))
    else:
        shared |= dict(data=LabelledVideos(data))
    if head == "probe":
        return FinetuneRecipe(**shared, head="probe", drop_path=0.0, objective=ClassificationConfig.plain(), train=linear_probe(64, epochs=50, warmup=0.1))
    base_lr, epochs, drop_path = (5e-4, 75, 0.1) if width <= 768 else (2e-3, 35, 0.1)
    optim = OptimConfig(base_lr=base_lr, betas=(0.9, 0.999), weight_decay=0.05, layer_decay=0.75)
    schedule = ScheduleConfig(warmup=5 / epochs, warmup_start=1e-6 / base_lr, floor=1e-6 / base_lr)
    return FinetuneRecipe(**shared, drop_path=drop_path, train=TrainConfig(batch_size=64, epochs=epochs, optim=optim, schedule=schedule))


def motion_recipe(model: str, data: LabelledVideos, seed: int, scratch: bool = False) -> FinetuneRecipe:
    """The demo's fine-tuning on few labelled clips; the same budget and settings from scratch."""
    return FinetuneRecipe(
        recipe="video/finetune-motion",
        model=model,
        scratch=scratch,
        drop_path=0.0,
        test_clips=1,
        test_crops=1,
        objective=ClassificationConfig.plain(),
        data=data,
        train=few_labels(40, 100, 2e-3, seed),
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    from modalities.common.commandline import finetune_command, guarded

    arguments = sys.argv[1:] if arguments is None else arguments
    return guarded(lambda: finetune_command("python -m modalities.video.finetune", default_recipe, arguments))


if __name__ == "__main__":
    sys.exit(main())
