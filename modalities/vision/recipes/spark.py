"""Recipes of SparK: the paper's, and a tiny one that runs in minutes on a laptop."""

from dataclasses import dataclass, field
from typing import ClassVar

from modalities import registry
from modalities.common.model import Model
from modalities.vision.augment import PretrainAugment
from modalities.vision.data import UnlabelledImages
from modalities.vision.digits import SceneConfig
from modalities.vision.models.spark import SparK, SparKConfig
from modalities.vision.objectives.spark import SparKObjectiveConfig
from modalities.vision.recipes.mae import MAERecipe
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig

DROP_PATH = {
    "resnet50": 0.05, "resnet101": 0.08, "resnet152": 0.1, "resnet200": 0.15, "convnext-small": 0.2, "convnext-base": 0.3, "convnext-large": 0.4,
}  # fmt: skip
LARGE_SCENES = SceneConfig(canvas=96, digit_size=(67.0, 77.0), travel=7.0, views=8)
"""The scenes of the demo, drawn for networks with a stride of 32: the same parts of the picture in more pixels."""


@dataclass(frozen=True)
class SparKRecipe(MAERecipe):
    """Pre-train a ResNet or ConvNeXt on images without labels by masked reconstruction (Tian et al. 2023, arXiv 2301.03580)."""

    network: ClassVar[type[Model]] = SparK

    model: SparKConfig = field(default_factory=SparKConfig)
    """The network."""
    objective: SparKObjectiveConfig = field(default_factory=SparKObjectiveConfig)
    """Masking and loss."""


def spark(size: str) -> SparKRecipe:
    """SparK's pre-training recipe (spec: the repository's `pretrain/utils/arg_util.py`) for a size.

    Two things differ: the weight decay stays at 0.04, where the paper's grows to 0.2 by a cosine, and timm's LAMB clips
    gradients to a norm of 1, the authors' copy of it to 5.
    """
    name = f"vision/spark-{size}"
    model = registry.config_of(name, drop_path=DROP_PATH.get(size, 0.0))
    return SparKRecipe(
        recipe=name,
        model=model,
        data=UnlabelledImages(augment=PretrainAugment(crop_scale=(0.67, 1.0))),
        train=TrainConfig(
            batch_size=4096,
            epochs=1600,
            optim=OptimConfig(name="lamb", base_lr=2e-4, betas=(0.9, 0.999 if model.block == "convnext" else 0.95), weight_decay=0.04),
            schedule=ScheduleConfig(warmup=40 / 1600, warmup_start=0.005, floor=0.001),
        ),
    )


def spark_tiny() -> SparKRecipe:
    """A small ConvNeXt on cluttered scenes of real digits, on a laptop."""
    name = "vision/spark-tiny"
    return SparKRecipe(
        recipe=name,
        model=registry.config_of(name),
        data=UnlabelledImages("digits-cluttered", LARGE_SCENES, augment=PretrainAugment.none()),
        train=TrainConfig(
            batch_size=64,
            steps=600,
            log_every=20,
            optim=OptimConfig(lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05),
            schedule=ScheduleConfig(warmup=0.05),
        ),
    )


def spark_resnet50() -> SparKRecipe:
    return spark("resnet50")


def spark_resnet101() -> SparKRecipe:
    return spark("resnet101")


def spark_resnet152() -> SparKRecipe:
    return spark("resnet152")


def spark_resnet200() -> SparKRecipe:
    return spark("resnet200")


def spark_convnext_small() -> SparKRecipe:
    return spark("convnext-small")


def spark_convnext_base() -> SparKRecipe:
    return spark("convnext-base")


def spark_convnext_large() -> SparKRecipe:
    return spark("convnext-large")
