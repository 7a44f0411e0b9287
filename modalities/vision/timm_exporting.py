"""A `TimmClassifier` as the network of timm that it is."""

from pathlib import Path
from typing import Any

import timm
from torch import Tensor

from modalities.common.exporting import Export, Run
from modalities.common.model import Model
from modalities.vision.exporting import TIMM_USAGE
from modalities.vision.models.timm_classifier import TimmClassifier
from modalities.vision.preprocess import ImagePreprocess
from trainer.errors import ModelError


def network_export(model: Model, objective: dict[str, Any]) -> Export:
    """For `timm.create_model("local-dir:FOLDER", pretrained=True)`, with the head, the names of the classes and the preprocessing."""
    if not isinstance(model, TimmClassifier):
        raise ModelError(f"This export is for networks of timm; the model is a {type(model).__name__}.")
    c, preprocess = model.config, model.preprocess
    data: dict[str, Any] = {"input_size": model.input_shape()}
    if isinstance(preprocess, ImagePreprocess):
        data |= {"mean": preprocess.mean, "std": preprocess.std, "interpolation": preprocess.interpolation, "crop_pct": preprocess.crop_pct}
    names = {"label_names": list(c.class_names)} if c.class_names else {}

    def write(folder: Path) -> None:
        timm.models.save_for_hf(model.network, folder, model_config=names, model_args=model.arguments(), safe_serialization=True, data_config=data)

    def load(folder: Path) -> Run:
        theirs = TimmClassifier(c)
        theirs.network = timm.create_model(f"local-dir:{folder}", pretrained=True)
        theirs.eval()

        def run(x: Tensor) -> dict[str, Tensor]:
            return theirs.outputs({theirs.input_key: x})

        return run

    return Export("timm", write, load, TIMM_USAGE)
