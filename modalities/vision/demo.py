"""The demo of images: cluttered scenes of real handwritten digits, 10 labels per class."""

from pathlib import Path

import torch
from PIL import Image

from modalities.common.demo import Demo, vectors
from modalities.common.model import Model
from modalities.vision.augment import FinetuneAugment
from modalities.vision.data import LabelledImages, UnlabelledImages
from modalities.vision.evaluation import CLASSIFICATION, probed
from modalities.vision.finetune import digits_recipe
from modalities.vision.objectives.mae import MAEObjectiveConfig
from modalities.vision.recipes.mae import draw_reconstructions
from modalities.vision.sources import ImageArray
from trainer.config import replace
from trainer.randomness import seeded

PER_CLASS = 10


def labelled(data: UnlabelledImages, seed: int) -> LabelledImages:
    """PER_CLASS labelled training scenes of each digit, drawn by `seed`; in training moved by up to 2 pixels."""
    augment = replace(FinetuneAugment.none(), {"shift": 2})
    return LabelledImages(data.path, data.scenes, per_class=PER_CLASS, subset_seed=seed, augment=augment)


def draw(model: Model, test: ImageArray, path: Path, title: str) -> None:
    """Reconstructions of test images, which pre-training has not seen."""
    with seeded(0):
        images = test.fetch(torch.randperm(len(test))[:8].tolist())["image"]
        noise = torch.rand(len(images), model.patch_embed.length)
    draw_reconstructions(MAEObjectiveConfig().build(model), images, noise, path, title)


def write(test: ImageArray, index: int, path: Path) -> Path:
    """A test image as a PNG file."""
    path = path.with_suffix(".png")
    Image.fromarray(test.images[index, 0].numpy()).save(path)
    return path


DEMO = Demo(
    recipe="vision/mae-tiny-digits",
    title="Cluttered digits",
    samples="images",
    published="mae-tiny-digits",
    task=CLASSIFICATION,
    per_class=PER_CLASS,
    labelled=labelled,
    finetune=digits_recipe,
    frozen=probed,
    objective=MAEObjectiveConfig().build,
    baselines={"raw pixels": vectors},
    draw=draw,
    caption="Test digits: three quarters hidden, then filled in (with the true mean and contrast of each patch)",
    write=write,
)
