"""What must be stored with a checkpoint so that inference sees what training saw."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from trainer.config import from_dict, to_dict
from trainer.errors import CheckpointError, shorten
from trainer.files import read_json, write_json
from trainer.objective import Batch

FILE = "preprocessor_config.json"


@dataclass(frozen=True)
class Preprocess:
    """Base of each modality's preprocessing: a frozen config that is callable on raw input.

    A subclass sets `type` (the name stored in the file) and defines `__call__(raw) -> Batch`.
    """

    type: ClassVar[str] = ""

    def __call__(self, raw: Any) -> Batch:
        """Raw input -> batch, as in training."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(raw) -> batch")

    def values(self) -> dict[str, Any]:
        """Type and fields, as they are stored."""
        return {"type": self.type, **to_dict(self)}

    def save(self, folder: Path) -> None:
        """Write `preprocessor_config.json` into a folder."""
        write_json(folder / FILE, self.values())

    def adapted(self, input_shape: tuple[int, ...]) -> "Preprocess | None":
        """The same preprocessing for a model that reads another shape, (C, *size); None when there is no such."""
        raise NotImplementedError(f"{type(self).__name__} must define adapted(input_shape)")

    def require_shape(self, input_shape: tuple[int, ...], where: str) -> None:
        """Raise CheckpointError unless this gives what a model reads, (C, *size)."""
        raise NotImplementedError(f"{type(self).__name__} must define require_shape(input_shape, where)")

    @staticmethod
    def load(folder: Path) -> "Preprocess | None":
        """Read `preprocessor_config.json` of a folder; None when there is none. CheckpointError when it is not ours."""
        path = folder / FILE
        return Preprocess.from_values(read_json(path), str(path)) if path.exists() else None

    @staticmethod
    def from_values(values: Any, where: str) -> "Preprocess":
        """The preprocessing that `save` wrote as a mapping. CheckpointError when it names none of ours."""
        kind = values.get("type") if isinstance(values, dict) else None
        if not isinstance(kind, str) or kind not in TYPES:
            raise CheckpointError(f"{where} has the type {shorten(kind)}. Expected one of: {', '.join(TYPES)}.")
        module, _, name = TYPES[kind].partition(":")
        fields = {key: value for key, value in values.items() if key != "type"}
        return from_dict(getattr(importlib.import_module(module), name), fields, where)


TYPES = {
    "image": "modalities.vision.preprocess:ImagePreprocess",
    "paired-images": "modalities.vision.preprocess_paired:PairedPreprocess",
    "video": "modalities.video.preprocess:VideoPreprocess",
    "series": "modalities.time_series.preprocess:SeriesPreprocess",
    "codes": "modalities.time_series.codes:CodesPreprocess",
    "graph": "modalities.graph.preprocess:GraphPreprocess",
    "circuit": "modalities.graph.preprocess_circuits:CircuitPreprocess",
}
"""Stored type -> class. Only these are ever built: a file cannot name code."""
