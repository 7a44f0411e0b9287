"""What `zoo evaluate` and `zoo predict` do with videos."""

from pathlib import Path

import numpy as np
import torch

from modalities.common.classification import ClassificationConfig, described
from modalities.common.confusion import confusion_of
from modalities.common.evaluation import AsItIs, FrozenFeatures, Judge, Row, results
from modalities.common.model import Model
from modalities.video.data import BUILT_IN, LabelledVideos, preprocess_for
from modalities.video.evaluation import CLASSIFICATION, MultiView, probed, reconstructed, supervised
from modalities.video.models.internvideo_next import InternVideoNext
from modalities.video.models.internvideo_next_classifier import InternVideoNextClassifier
from modalities.video.models.videomae import VideoMAE
from modalities.video.models.vit import VideoClassifier
from modalities.video.objectives.videomae import VideoMAEObjectiveConfig
from modalities.video.pictures import draw_reconstructions
from modalities.video.sources import VideoSource
from trainer.errors import DataError, ModelError
from trainer.randomness import seeded

CLASSIFIERS = (VideoClassifier, InternVideoNextClassifier)


def evaluate(model: Model, path: str, per_class: int | None = None) -> list[Row]:
    """Results on labelled videos: a classifier's accuracy and loss, on one view and (of files) on 5 x 3 views, else probe and 5-NN on frozen
    features and, of a masked auto-encoder, its loss.

    `path` is a folder of class folders or a built-in set, `per_class` limits the labelled training videos. The test set is the `val` or
    `test` folder beside `train`, else a fixed split. The loss of a masked auto-encoder is that of the paper's objective.
    """
    train, test = _parts(model, path, per_class)
    if isinstance(model, CLASSIFIERS):
        views = [] if path in BUILT_IN else [MultiView(test, 2 if test.preprocess.sampling == "segment" else 5)]
        return results([supervised(test), *views], ClassificationConfig.plain().build(model))
    if isinstance(model, InternVideoNext):
        return results([probed(train, test)], AsItIs(model))
    objective = VideoMAEObjectiveConfig().build(model)
    return results([probed(train, test), reconstructed(test, objective)], objective)


def judge(model: Model, path: str) -> Judge:
    """What tells models like `model` apart on labelled videos: a classifier's accuracy, else that of 5-NN on frozen features."""
    train, test = _parts(model, path)
    if isinstance(model, CLASSIFIERS):
        return Judge(train, supervised(test), "accuracy", ClassificationConfig.plain().build)
    return Judge(train, FrozenFeatures(train, test, CLASSIFICATION, kinds=("knn",)), "knn", AsItIs if isinstance(model, InternVideoNext) else VideoMAEObjectiveConfig().build)


def draw_confusion(model: Model, path: str, to: Path) -> Path:
    """Draw which classes of labelled videos a classifier takes for which, by their middle clips. ModelError for another model."""
    if not isinstance(model, CLASSIFIERS):
        raise ModelError(f"Which classes are taken for which needs a classifier, and this is a {model.system}.")
    test = _parts(model, path)[1]
    return confusion_of(model, test, test.label_key, to)


def _parts(model: Model, path: str, per_class: int | None = None) -> tuple[VideoSource, VideoSource]:
    """Labelled videos for training and for testing, as a model takes them; a classifier's are numbered by its own classes."""
    data = LabelledVideos(path, per_class=per_class)
    if not isinstance(model, (VideoMAE, InternVideoNext, *CLASSIFIERS)):
        raise ModelError(f"zoo evaluate does not know what to measure on a {type(model).__name__}.")
    preprocess = model.preprocess or preprocess_for(data, model.config.input_size, model.config.in_chans)
    if not isinstance(model, CLASSIFIERS):
        return data.build_plain(preprocess)
    train, test = data.build_plain(preprocess, classes=model.config.class_names or None)
    if len(test.classes) != model.config.num_classes:
        raise DataError(f"{test.name} has {len(test.classes)} classes and the classifier {model.config.num_classes}.")
    return train, test


def predict(model: Model, files: list[Path], to: Path | None) -> str:
    """What the model says of video files, as text. A masked auto-encoder draws its reconstructions to `to` (PNG, and a GIF beside it)."""
    if model.preprocess is None:
        raise ModelError("This model has no preprocessor_config.json, so it cannot read files. Export it with its preprocessing.")
    batch = model.preprocess([str(f) for f in files])
    if isinstance(model, CLASSIFIERS):
        with torch.inference_mode():
            return described(model, model(batch), files)
    if not isinstance(model, VideoMAE):
        raise ModelError(f"zoo predict does not know what to show for a {type(model).__name__}.")
    config = VideoMAEObjectiveConfig(mask_ratio=0.75)
    to = to or Path("reconstruction.png")
    with seeded(0):
        draw_reconstructions(config.build(model), batch["video"], None, to, ", ".join(f.name for f in files[:3]))
    return f"{len(files)} video(s), three quarters of each hidden and reconstructed: {to}, {to.with_suffix('.gif')}"


def write_example(model: Model, folder: Path) -> list[str]:
    """Write `clip.npy`, which the snippets of the cards read: a fixed moving pattern, in colour or grey, twice the model's size."""
    frames, height, width = (2 * n for n in model.config.input_size)
    times, rows, columns = np.mgrid[:frames, :height, :width]
    pixels = ((rows * 7 + (columns + times) * 13 + rows * columns) % 256).astype(np.uint8)
    path = folder / "clip.npy"
    np.save(path, np.repeat(pixels[..., None], model.config.in_chans, axis=3))
    return [str(path)]
