"""`zoo predict`: a model on files."""

from pathlib import Path

import tyro

from modalities import registry
from modalities.common import pretrained


def predict(name: tyro.conf.Positional[str], files: tyro.conf.Positional[tuple[Path, ...]], /, to: Path | None = None) -> None:
    """Apply a model to files: a classifier names classes, a masked auto-encoder draws reconstructions.

    Args:
        name: Folder or name of the model.
        files: Files to read.
        to: Where a picture goes. Default: reconstruction.png.
    """
    modality = pretrained.modality_of(name)
    print(registry.load(f"modalities.{modality}.tasks:predict")(pretrained.load(name), list(files), to))
