"""What must be stored with a checkpoint so that inference sees what training saw."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from trainer.config import from_dict, to_dict
from trainer.errors import CheckpointError
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
        raise NotImplementedError(f"{type(self).__name__} must define __call__(raw) -> batch")

    def save(self, folder: Path) -> None:
        """Write `preprocessor_config.json` into a folder."""
        write_json(folder / FILE, {"type": self.type, **to_dict(self)})

    @staticmethod
    def load(folder: Path) -> "Preprocess | None":
        """Read `preprocessor_config.json` of a folder; None when there is none. CheckpointError when it is not ours."""
        path = folder / FILE
        if not path.exists():
            return None
        values = read_json(path)
        kind = values.pop("type", None) if isinstance(values, dict) else None
        if kind not in TYPES:
            raise CheckpointError(f"{path} has the type {kind!r}. Expected one of: {', '.join(TYPES)}.")
        module, _, name = TYPES[kind].partition(":")
        return from_dict(getattr(importlib.import_module(module), name), values, str(path))


TYPES = {"image": "modalities.vision.preprocess:ImagePreprocess"}
"""Stored type -> class. Only these are ever built: a file cannot name code."""
