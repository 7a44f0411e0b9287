"""Fine-tuning an image encoder on labelled images: `python -m modalities.vision.finetune DATA --model NAME`.

With `--task segmentation` it learns the class of every pixel instead (see `modalities.vision.segment`).

The recipe is that of the encoder's paper (MAE, arXiv 2111.06377, appendix A.1; SparK, arXiv 2301.03580, for convolutional networks):
layer-wise learning rates, mixup and cutmix, drop path, global pooling; or, with `--head probe`, a linear probe on frozen features.
`--preset thorax` is a recipe for chest X-rays, with several labels per image (`--data.label_columns`).
"""

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from modalities import registry
from modalities.common import pretrained
from modalities.common.budgets import few_labels, linear_probe
from modalities.common.confusion import confusion_view
from modalities.common.evaluation import ReportedEvaluator
from modalities.common.run import Draw, ModelRecipe
from modalities.common.sheets import spread
from modalities.common.vit import ViTEncoder
from modalities.vision.augment import FinetuneAugment
from modalities.vision.bands import USUAL
from modalities.vision.data import BUILT_IN, ImageSource, LabelledImages
from modalities.vision.evaluation import findings, supervised
from modalities.vision.models.convnet import ConvNetConfig
from modalities.vision.models.mae import MAEConfig
from modalities.vision.objectives.classification import Classification, ClassificationConfig, MultiLabel
from modalities.vision.pictures import contact_sheet
from modalities.vision.views import encoder_views
from modalities.vision.pictures_maps import first_in_colour
from modalities.vision.segment import SegmentationRecipe, segmentation_recipe
from modalities.vision.starting import starting_encoder
from trainer.collate import stack
from trainer.errors import ConfigError, did_you_mean
from trainer.evaluation import evaluating
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig

log = logging.getLogger("zoo")

PRESETS = ("mae", "thorax")
"""Names of the recipes to begin from."""
TASKS = ("classification", "segmentation")
"""What the model may learn."""


@dataclass(frozen=True)
class FinetuneRecipe(ModelRecipe):
    """Train a classifier on labelled images, starting from a pre-trained encoder."""

    model: str = ""
    """Where the encoder's weights come from: a folder, or a name of the zoo."""
    size: str | None = None
    """Of an elastic model (POA) the part to start from: small, base, large, or width_depth as in 384_12. Null: the whole."""
    scratch: bool = False
    """Start from random weights of the same architecture instead (the comparison that shows what pre-training gave)."""
    inputs: tuple[str, ...] = ("rgb",)
    """Which inputs are read, of an encoder that has several (MultiMAE): rgb, depth, semseg. With others than rgb the data are paired maps
    (see `modalities.vision.paired`) in class folders."""
    head: Literal["linear", "probe"] = "linear"
    """linear: the whole network is trained. probe: only a linear layer on frozen, batch-normalised features."""
    pool: Literal["avg", "token"] | None = None
    """What the head of a vision transformer sees: the mean of the patch tokens, or the class token. Null: the class token for a probe, else
    the mean. A convolutional network has no such choice."""
    drop_path: float = 0.1
    """Stochastic depth: the last block is skipped with this probability, the first never."""
    objective: ClassificationConfig = field(default_factory=ClassificationConfig)
    """Mixup, cutmix, label smoothing."""
    data: LabelledImages = field(default_factory=LabelledImages)
    """Which labelled images, and how they are changed at random."""

    def __post_init__(self) -> None:
        if self.head == "probe" and (self.pool == "avg" or self.drop_path):
            raise ConfigError(
                f"A probe reads the features of a frozen network, of a vision transformer its class token: head='probe' needs pool='token' (or null) "
                f"and drop_path=0, found pool={self.pool!r} and drop_path={self.drop_path}."
            )

    def build(self) -> tuple[ImageSource, Classification | MultiLabel]:
        encoder, classifier, preprocess = starting_encoder(self.model, "classification", self.data, self.inputs, self.size, self.scratch)
        train, test = self.data.build(preprocess)
        changes = {"drop_path": self.drop_path, "head": self.head, "class_names": train.classes, "multi_label": bool(self.data.label_columns)}
        if "in_domains" in classifier.config_class.__dataclass_fields__:
            changes["in_domains"] = self.inputs
        if "pool" in classifier.config_class.__dataclass_fields__:
            changes["pool"] = self.pool or ("token" if self.head == "probe" else "avg")
        elif self.pool is not None:
            raise ConfigError(f"pool={self.pool!r} is for vision transformers, and {self.model} is a {encoder.system}. Set it to null.")
        model = classifier.from_encoder(encoder, len(train.classes), **changes)
        model.name, model.preprocess = f"{classifier.system}-{train.name}", preprocess
        log.info("%d training and %d test images of %d classes", len(train), len(test), len(train.classes))
        return train, self.objective.build(model)

    def evaluators(self, source: ImageSource, objective: Classification | MultiLabel) -> list[ReportedEvaluator]:
        """Accuracy and cross-entropy on the test set; with several labels per image, mean AUC and binary cross-entropy.

        A checkpoint that was chosen as the best on the test set has an optimistic accuracy there. Where `val` and
        `test` lie beside `train`, `val` is used here and `test` stays unseen, for an honest measurement at the end.
        """
        return findings(source.held_out) if self.data.label_columns else [supervised(source.held_out)]

    def draw(self, objective: Classification | MultiLabel, source: ImageSource) -> Draw:
        """Draws test images with their label and what the classifier says."""
        preprocess, test = objective.model.preprocess, source.held_out
        shown = stack([test[i] for i in spread(len(test), 24)])
        labels = shown.pop("label")

        def words(label: torch.Tensor) -> str:
            """A class by its number, or the names of those labels that are yes."""
            if label.ndim == 0:
                return test.classes[label]
            return ", ".join(test.classes[k] for k in (label == 1).nonzero().flatten().tolist()) or "none"

        def draw(objective: Classification | MultiLabel, path: Path, title: str) -> None:
            with evaluating(objective):
                logits = objective.model({key: maps.to(objective.model.device) for key, maps in shown.items()}).cpu()
            said = (logits > 0).float() if objective.model.config.multi_label else logits.argmax(dim=1)
            names = [f"{words(label)} → {words(k)}" for label, k in zip(labels, said)]
            contact_sheet(first_in_colour(shown, preprocess), names, path, f"{title}: label → prediction")

        return draw

    def views(self, objective: Classification | MultiLabel, source: ImageSource) -> dict[str, Draw]:
        """Which classes are taken for which; of a vision transformer what it looks at, and which images have features alike."""
        looks = encoder_views(source, self.train.seed) if isinstance(objective.model, ViTEncoder) else {}
        return looks if self.data.label_columns else looks | confusion_view(source.held_out, source.label_key)


def default_recipe(model: str, head: str = "linear", data: str = "", preset: str = PRESETS[0], task: str = TASKS[0]) -> FinetuneRecipe | SegmentationRecipe:
    """The fine-tuning (or, for head="probe", linear-probe) recipe of the encoder's paper, with the values for its size; or `thorax_recipe` by the preset "thorax",
    or `segmentation_recipe` by the task "segmentation".

    Learning rates are per 256 samples; the batch is 256 where the papers have 1024 to 4096 (16384 for the probe), so
    that it fits one device.
    """
    if preset not in PRESETS:
        raise ConfigError(f"--preset must be one of {', '.join(PRESETS)}, found {preset!r}.{did_you_mean(preset, PRESETS)}")
    if task not in TASKS:
        raise ConfigError(f"--task must be one of {', '.join(TASKS)}, found {task!r}.{did_you_mean(task, TASKS)}")
    if task == "segmentation":
        if preset != PRESETS[0]:
            raise ConfigError(f"The preset {preset} is for classification, and --task segmentation was given. Leave one of the two out.")
        return segmentation_recipe(model, head, data)
    if preset == "thorax":
        if head == "probe":
            raise ConfigError("The preset thorax fine-tunes the whole network, and --head probe does not. Leave one of the two out.")
        return thorax_recipe(model, data)
    config = _config_of(model)
    changes = FinetuneAugment.probe() if head == "probe" else FinetuneAugment()
    if data in BUILT_IN:  # small grey digits: no mirror image, no colour operations
        changes = FinetuneAugment.none()
    elif head != "probe" and getattr(config, "in_chans", 3) not in USUAL:  # RandAugment is for 8-bit grey and RGB
        changes = FinetuneAugment(auto_augment=None)
    shared = dict(recipe="vision/finetune", model=model, data=LabelledImages(data, augment=changes))
    if head == "probe":
        return FinetuneRecipe(**shared, head="probe", drop_path=0.0, objective=ClassificationConfig.plain(), train=linear_probe(256, epochs=90, warmup=10 / 90))
    if isinstance(config, ConvNetConfig):
        return _convnet_recipe(config, shared)
    width = getattr(config, "embed_dim", 0)  # a network of timm has none, and `build` says that nothing fine-tunes it
    base_lr, layer_decay, drop_path, epochs = (5e-4, 0.65, 0.1, 100) if width <= 768 else (1e-3, 0.75, 0.2, 50)
    if width > 1024:
        drop_path = 0.3
    optim = OptimConfig(base_lr=base_lr, betas=(0.9, 0.999), weight_decay=0.05, layer_decay=layer_decay)
    train = TrainConfig(batch_size=256, epochs=epochs, optim=optim, schedule=ScheduleConfig(warmup=5 / epochs, floor=1e-6 / base_lr))
    return FinetuneRecipe(**shared, drop_path=drop_path, train=train)


def thorax_recipe(model: str, data: str = "") -> FinetuneRecipe:
    """Fine-tuning on chest X-rays with several findings each (Xiao et al., WACV 2023, arXiv 2210.12843; lambert-x/medical_mae@953a460).

    `data.label_columns` has to name the findings. The rate is per 256 samples; the batch is 256 where the paper has 1024.
    """
    base_lr, epochs = 2.5e-4, 75
    optim = OptimConfig(base_lr=base_lr, betas=(0.9, 0.999), weight_decay=0.05, layer_decay=0.55)
    return FinetuneRecipe(
        recipe="vision/finetune",
        model=model,
        drop_path=0.2,
        objective=ClassificationConfig.plain(),
        data=LabelledImages(data, augment=FinetuneAugment(auto_augment="rand-m6-mstd0.5-inc1", erase_prob=0.0)),
        train=TrainConfig(batch_size=256, epochs=epochs, optim=optim, schedule=ScheduleConfig(warmup=5 / epochs, floor=1e-5 / base_lr)),
    )


def _convnet_recipe(config: ConvNetConfig, shared: dict[str, Any]) -> FinetuneRecipe:
    """SparK's fine-tuning (spec: the repository's `downstream_imagenet/arg.py`), without its repeated augmentation."""
    width, deep = config.widths[-1], sum(config.depths) > 16
    if config.block == "convnext":
        base_lr, decay, drop_path, epochs = (2e-4, 0.01, 0.3, 400) if width <= 768 else (1e-4, 0.01, 0.4, 400) if width <= 1024 else (1e-4, 0.02, 0.5, 200)
        optim = OptimConfig(base_lr=base_lr, betas=(0.9, 0.999), weight_decay=decay, layer_decay=0.7)
        warmup, mixup = 20, 0.8
    else:
        base_lr, layer_decay, drop_path, epochs = (1e-3, 0.8, 0.2, 300) if deep else (2e-3, 0.7, 0.05, 300)
        optim = OptimConfig(name="lamb", base_lr=base_lr, betas=(0.9, 0.999), weight_decay=0.02, layer_decay=layer_decay)
        warmup, mixup = 5, 0.1
    train = TrainConfig(batch_size=256, epochs=epochs, ema=0.9999, optim=optim, schedule=ScheduleConfig(warmup=warmup / epochs))
    return FinetuneRecipe(**shared, drop_path=drop_path, objective=ClassificationConfig(mixup=mixup), train=train)


def _config_of(model: str) -> Any:
    """The config of an encoder by its name or place; of none given, that of the default one."""
    if not model:
        return MAEConfig()
    if model not in registry.entries():
        return pretrained.load(model).config
    return registry.config_of(model)


def digits_recipe(model: str, data: LabelledImages, seed: int, scratch: bool = False) -> FinetuneRecipe:
    """The demo's fine-tuning on few labelled digits; the same budget and settings from scratch."""
    return FinetuneRecipe(
        recipe="vision/finetune-digits",
        model=model,
        scratch=scratch,
        drop_path=0.0,
        objective=ClassificationConfig.plain(),
        data=data,
        train=few_labels(100, 400, 3e-3, seed),
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    from modalities.common.commandline import finetune_command, guarded

    arguments = sys.argv[1:] if arguments is None else arguments
    return guarded(lambda: finetune_command("python -m modalities.vision.finetune", default_recipe, arguments))


if __name__ == "__main__":
    sys.exit(main())
