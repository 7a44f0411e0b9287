"""What `zoo evaluate` and `zoo predict` do with images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from modalities.common.classification import described
from modalities.common.classifier import Classifier
from modalities.common.confusion import confusion_of
from modalities.common.evaluation import AsItIs, FrozenFeatures, Judge, Row, features, results
from modalities.common.model import Model
from modalities.common.reconstruction import MaskedReconstruction
from modalities.common.sheets import spread
from modalities.common.vit import ViTEncoder
from modalities.vision.bands import USUAL
from modalities.vision.data import LabelledImages, preprocess_for
from modalities.vision.data_segmentation import SegmentationPairs, training_preprocess
from modalities.vision.evaluation import CLASSIFICATION, findings, predicted, probed, reconstructed, segmented, supervised
from modalities.vision.maps import IGNORED
from modalities.vision.masks import write_masks
from modalities.vision.models.mae import MAE
from modalities.vision.models.multi_input import EXAMPLES, MultiInputEncoder
from modalities.vision.models.multimae import OWN, MultiMAE
from modalities.vision.models.poa import POA
from modalities.vision.models.segmenters import Segmenter
from modalities.vision.models.spark import SparK
from modalities.vision.models.timm_classifier import TimmClassifier
from modalities.vision.objectives.classification import ClassificationConfig
from modalities.vision.objectives.mae import MAEObjectiveConfig
from modalities.vision.objectives.multimae import MultiMAEObjective, MultiMAEObjectiveConfig
from modalities.vision.objectives.segmentation import SegmentationConfig
from modalities.vision.objectives.spark import SparKObjectiveConfig
from modalities.vision.pictures import neighbour_sheet
from modalities.vision.pictures_maps import cross_sheet, picture_of, segmentation_sheet
from modalities.vision.preprocess_paired import KEYS, PairedPreprocess
from modalities.vision.recipes.mae import draw_reconstructions
from modalities.vision.sources import ImageSource
from modalities.vision.views import draw_attention, most_alike
from trainer.errors import DataError, ModelError
from trainer.objective import Batch, Objective
from trainer.randomness import seeded

OBJECTIVES: dict[str, Any] = {MAE.system: MAEObjectiveConfig, MultiMAE.system: MultiMAEObjectiveConfig, SparK.system: SparKObjectiveConfig}
"""System -> config of the objective that measures it without labels."""


def evaluate(model: Model, path: str, per_class: int | None = None) -> list[Row]:
    """Results on labelled images: a classifier's accuracy (of several labels per image: mean AUC) and loss, a segmenter's mean IoU, else probe and
    5-NN on frozen features and, of a masked auto-encoder, its loss.

    `path` is a folder of class folders or a built-in set, `per_class` limits the labelled training images. The test
    set is the `val` or `test` folder beside `train`, else a fixed split. The loss is that of the paper's objective.
    """
    if isinstance(model, Segmenter):
        return results([segmented(_segmentations(model, path, per_class)[1])], SegmentationConfig().build(model))
    train, test = _parts(model, path, per_class)
    if classifies(model):
        return results(findings(test) if model.config.multi_label else [supervised(test)], ClassificationConfig.plain().build(model))
    objective = build_objective(model)
    loss = [reconstructed(test, objective)] if isinstance(objective, MaskedReconstruction) else []
    if isinstance(objective, MultiMAEObjective) and {OWN[output] for output in model.config.out_domains} <= set(model.config.in_domains):
        loss = [predicted(test, objective)]  # it needs the outputs, too, which a set for probing may not hold
    return results([probed(train, test), *loss], objective)


def judge(model: Model, path: str) -> Judge:
    """What tells models like `model` apart on labelled images: a classifier's accuracy, else that of 5-NN on frozen features."""
    if isinstance(model, Segmenter):
        train, test = _segmentations(model, path)
        return Judge(train, segmented(test), "mean_iou", SegmentationConfig().build)
    train, test = _parts(model, path)
    if classifies(model):
        evaluator, value = (findings(test)[0], "auc") if model.config.multi_label else (supervised(test), "accuracy")
        return Judge(train, evaluator, value, ClassificationConfig.plain().build)
    return Judge(train, FrozenFeatures(train, test, CLASSIFICATION, kinds=("knn",)), "knn", build_objective)


def classifies(model: Model) -> bool:
    """Whether a model names classes, with a head."""
    return isinstance(model, (Classifier, TimmClassifier)) and model.config.num_classes > 0


def build_objective(model: Model) -> Objective:
    """The paper's objective around a model without labels; around an encoder that has none, one that only shows it."""
    config = OBJECTIVES.get(model.system)
    return config().build(model) if config else AsItIs(model)


def draw_neighbours(model: Model, path: str, to: Path, per_class: int | None = None, queries: int = 8, neighbours: int = 7) -> Path:
    """A sheet of test images, each with the training images that are nearest by the cosine of `model.embed`; green frames have its class."""
    data = LabelledImages(path, per_class=per_class)
    train, test = data.build_plain(model.preprocess or preprocess_for(data, model.config.input_size, model.config.in_chans))
    asked = test.take(spread(len(test), queries))
    with torch.inference_mode():
        (known, classes), (wanted, labels) = features(model, train), features(model, asked)
    cosine, nearest = most_alike(torch.from_numpy(known), torch.from_numpy(wanted), min(neighbours, len(train)))
    back = train.preprocess.denormalise
    pictures = torch.stack([back(torch.stack([train[i]["image"] for i in row])) for row in nearest.tolist()])
    found = [[f"{train.classes[classes[i]]}, {value:.2f}" for i, value in zip(row, values)] for row, values in zip(nearest.tolist(), cosine.tolist())]
    right = [[bool(classes[i] == label) for i in row] for row, label in zip(nearest.tolist(), labels)]
    shown = back(torch.stack([asked[i]["image"] for i in range(len(asked))]))
    title = f"Test images of {test.name} (left) and the nearest training images by frozen features: class, cosine"
    return neighbour_sheet(shown, pictures, [test.classes[label] for label in labels], found, right, to, title)


def draw_confusion(model: Model, path: str, to: Path) -> Path:
    """Draw which classes of labelled images, or of their pixels, a model takes for which. ModelError for one that does not choose among classes."""
    if isinstance(model, Segmenter):
        return confusion_of(model, _segmentations(model, path)[1], KEYS["segmentation"], to, IGNORED)
    if not classifies(model) or model.config.multi_label:
        raise ModelError(f"Which classes are taken for which needs a model that chooses one class for each image or pixel, and this {model.system} does not.")
    test = _parts(model, path)[1]
    return confusion_of(model, test, test.label_key, to)


def _parts(model: Model, path: str, per_class: int | None = None) -> tuple[ImageSource, ImageSource]:
    """Labelled images for training and for testing, as a model takes them; a classifier's are numbered by its own classes."""
    several = classifies(model) and model.config.multi_label
    data = LabelledImages(path, per_class=per_class, label_columns=model.config.class_names if several else ())
    preprocess = model.preprocess or preprocess_for(data, model.config.input_size, model.config.in_chans)
    if not classifies(model):
        return data.build_plain(preprocess)
    train, test = data.build_plain(preprocess, classes=model.config.class_names or None)
    if len(test.classes) != model.config.num_classes:
        raise DataError(f"{test.name} has {len(test.classes)} classes and the classifier {model.config.num_classes}.")
    return train, test


def _segmentations(model: Segmenter, path: str, samples: int | None = None) -> tuple[ImageSource, ImageSource]:
    """Pictures with labelled pixels for training and for testing, as a segmenter takes them."""
    if samples is not None:
        raise DataError("per_class counts labelled images of classes; a segmenter is measured on all held-out pictures. Leave it out.")
    names = model.config.class_names or tuple(map(str, range(model.config.num_classes)))
    data = SegmentationPairs(path, class_names=() if path == "digits-cluttered" else names)
    if len(data.classes()) != model.config.num_classes:
        raise DataError(f"{path} has {len(data.classes())} classes of pixels and the segmenter {model.config.num_classes}.")
    preprocess = model.preprocess or preprocess_for(data, model.config.input_size, model.config.in_chans, paired=True)
    paired = preprocess if isinstance(preprocess, PairedPreprocess) else PairedPreprocess(preprocess, ("rgb",), semseg_stride=1)
    return data.build_plain(training_preprocess(paired, model.config.num_classes))


def predict(model: Model, files: list[Path], to: Path | None) -> str:
    """What the model says of image files, as text. A masked auto-encoder draws its reconstructions to `to`, a segmenter its classes, which it
    also writes as masks beside it, and a vision transformer that only gives features what its class token looks at."""
    batch = _read(model, files)
    if classifies(model):
        with torch.inference_mode():
            return described(model, model(batch), files)
    if isinstance(model, MultiMAE):
        to = cross_sheet(model, batch, to or Path("predictions.png"), _named(files))
        return f"{len(files)} image(s) and what the model says of their other maps: {to}"
    if isinstance(model, Segmenter):
        to = segmentation_sheet(model, batch, to or Path("segmentation.png"), _named(files))
        with torch.inference_mode():
            masks = write_masks(model(batch), files, picture_of(model.preprocess), to)
        return "\n".join([f"{len(files)} image(s) with the class of every pixel: {to}", *(f"{file}: {mask}" for file, mask in zip(files, masks))])
    objective = build_objective(model)
    if not isinstance(objective, MaskedReconstruction):
        if isinstance(model, (ViTEncoder, POA)):
            return predict_attention(model, files, to)
        raise ModelError(f"A {model.system} has neither classes nor a decoder, so there is nothing to show. Give it a head: `zoo finetune`.")
    to = to or Path("reconstruction.png")
    with seeded(0):
        draw_reconstructions(objective, batch["image"], None, to, _named(files))
    return f"{len(files)} image(s), {100 * objective.config.mask_ratio:g} % of each hidden and reconstructed: {to}"


def predict_attention(model: Model, files: list[Path], to: Path | None) -> str:
    """Draw what the class token of a vision transformer looks at in image files. ModelError for another model."""
    to = to or Path("attention.png")
    draw_attention(model, _read(model, files)["image"], to, f"What the class token looks at: {_named(files)}")
    return f"{len(files)} image(s), what the last block's class token looks at in them: {to}"


def _read(model: Model, files: list[Path]) -> Batch:
    if model.preprocess is None:
        raise ModelError("This model has no preprocessor_config.json, so it cannot read files. Export it with its preprocessing.")
    if isinstance(model, MultiInputEncoder) and model.needs_all_inputs and model.config.in_domains != ("rgb",):
        inputs = ", ".join(model.config.in_domains)
        raise ModelError(f"This model reads {inputs}, and here are pictures alone. In Python: model(model.preprocess({{...}})) with a list of files for each of them.")
    return model.preprocess([str(f) for f in files])


def _named(files: list[Path]) -> str:
    return ", ".join(f.name for f in files[:3])


def write_example(model: Model, folder: Path) -> list[str] | dict[str, list[str]]:
    """Write what the snippets of the cards read and return it as `model.preprocess` takes it: `image.png`, a fixed pattern in colour or grey (`image.npy` for other channels),
    twice the model's size, and for a model of several inputs `depth.png` and `semseg.png` beside it."""
    height, width = (2 * n for n in model.config.input_size)
    rows, columns = np.mgrid[:height, :width]
    pixels = (rows * 7 + columns * 13 + rows * columns) % 256
    image = Image.fromarray(pixels.astype(np.uint8))
    channels = model.config.in_chans
    path = folder / ("image.png" if channels in USUAL else "image.npy")
    if channels in USUAL:
        (image if channels == 1 else image.convert("RGB")).save(path)
    else:
        np.save(path, np.stack([np.roll(pixels, shift, axis=1) for shift in range(channels)], axis=2).astype(np.uint8))
    if not isinstance(model, MultiInputEncoder) or model.config.in_domains == ("rgb",):
        return [str(path)]
    Image.fromarray(pixels.astype(np.uint8)).save(folder / EXAMPLES["depth"])
    Image.fromarray((pixels % model.config.semseg_classes).astype(np.uint8)).save(folder / EXAMPLES["semseg"])
    return {domain: [str(path if domain == "rgb" else folder / EXAMPLES[domain])] for domain in model.config.in_domains}
