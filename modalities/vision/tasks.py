"""What `zoo evaluate` and `zoo predict` do with images."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from modalities.common.classification import described
from modalities.common.evaluation import FrozenFeatures, Judge, Row, results
from modalities.common.model import Model
from modalities.vision.data import LabelledImages, preprocess_for
from modalities.vision.evaluation import CLASSIFICATION, probed, reconstructed, supervised
from modalities.vision.models.mae import MAE
from modalities.vision.models.vit import ViTClassifier
from modalities.vision.objectives.classification import ClassificationConfig
from modalities.vision.objectives.mae import MAEObjectiveConfig
from modalities.vision.recipes.mae import draw_reconstructions
from modalities.vision.sources import ImageSource
from trainer.errors import DataError, ModelError
from trainer.randomness import seeded


def evaluate(model: Model, path: str, per_class: int | None = None) -> list[Row]:
    """Results on labelled images: a classifier's accuracy and loss, else probe and 5-NN on frozen features and, of an MAE, its loss.

    `path` is a folder of class folders or a built-in set, `per_class` limits the labelled training images. The test
    set is the `val` or `test` folder beside `train`, else a fixed split. An MAE's loss is that of the paper's objective.
    """
    train, test = _parts(model, path, per_class)
    if isinstance(model, ViTClassifier):
        return results([supervised(test)], ClassificationConfig().build(model))
    objective = MAEObjectiveConfig().build(model)
    return results([probed(train, test), reconstructed(test, objective)], objective)


def judge(model: Model, path: str) -> Judge:
    """What tells models like `model` apart on labelled images: a classifier's accuracy, else that of 5-NN on frozen features."""
    train, test = _parts(model, path)
    if isinstance(model, ViTClassifier):
        return Judge(train, supervised(test), "accuracy", ClassificationConfig().build)
    return Judge(train, FrozenFeatures(train, test, CLASSIFICATION, kinds=("knn",)), "knn", MAEObjectiveConfig().build)


def _parts(model: Model, path: str, per_class: int | None = None) -> tuple[ImageSource, ImageSource]:
    """Labelled images for training and for testing, as a model takes them; a classifier's are numbered by its own classes."""
    data = LabelledImages(path, per_class=per_class)
    preprocess = model.preprocess or preprocess_for(data, model.config.input_size, model.config.in_chans)
    if isinstance(model, MAE):
        return data.build_plain(preprocess)
    if not isinstance(model, ViTClassifier):
        raise ModelError(f"zoo evaluate does not know what to measure on a {type(model).__name__}.")
    train, test = data.build_plain(preprocess, classes=model.config.class_names or None)
    if len(test.classes) != model.config.num_classes:
        raise DataError(f"{test.name} has {len(test.classes)} classes and the classifier {model.config.num_classes}.")
    return train, test


def predict(model: Model, files: list[Path], to: Path | None) -> str:
    """What the model says of image files, as text. A masked auto-encoder draws its reconstructions to `to`."""
    if model.preprocess is None:
        raise ModelError("This model has no preprocessor_config.json, so it cannot read files. Export it with its preprocessing.")
    batch = model.preprocess([str(f) for f in files])
    if isinstance(model, ViTClassifier):
        with torch.inference_mode():
            return described(model(batch), files, model.config.class_names)
    if not isinstance(model, MAE):
        raise ModelError(f"zoo predict does not know what to show for a {type(model).__name__}.")
    objective = MAEObjectiveConfig().build(model)
    to = to or Path("reconstruction.png")
    with seeded(0):
        draw_reconstructions(objective, batch["image"], None, to, ", ".join(f.name for f in files[:3]))
    return f"{len(files)} image(s), three quarters of each hidden and reconstructed: {to}"


def write_example(model: Model, folder: Path) -> list[str]:
    """Write `image.png`, which the snippets of the cards read: a fixed pattern in colour or grey, twice the model's size."""
    height, width = (2 * n for n in model.config.input_size)
    rows, columns = np.mgrid[:height, :width]
    pixels = (rows * 7 + columns * 13 + rows * columns) % 256
    image = Image.fromarray(pixels.astype(np.uint8))
    path = folder / "image.png"
    (image if model.config.in_chans == 1 else image.convert("RGB")).save(path)
    return [str(path)]
