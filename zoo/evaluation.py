"""`zoo evaluate`: measured results of a model, with the command that measured them."""

from pathlib import Path

import tyro

from modalities import registry
from modalities.common import pretrained
from modalities.common.evaluation import Row, in_words
from modalities.common.run import command
from trainer.files import write_json


def evaluate(
    name: tyro.conf.Positional[str], /, data: str, per_class: int | None = None, size: str | None = None, to: Path | None = None, neighbours: Path | None = None,
    confusion: Path | None = None,
) -> list[Row]:  # fmt: skip
    """Measure a model on labelled data: a classifier's accuracy, or probe and 5-NN on frozen features; and the loss. A forecaster: on the end of series, beside seasonal naive.

    Args:
        name: Folder or name of the model.
        data: Folder with one sub-folder per class (or train/ and val/ of such), a file or folder of series, or a built-in set.
        per_class: Labelled training samples per class. Default: all.
        size: Of an elastic model the part to measure: small, base, large, or width_depth as in 384_12. Default: the whole.
        to: JSON file to write the results to.
        neighbours: PNG to draw test images in, each with its nearest training images by the model's features.
        confusion: PNG to draw which classes are taken for which in.
    """
    modality = pretrained.modality_of(name)
    draw = registry.load_task(modality, "draw_neighbours", "A sheet of neighbours (--neighbours)") if neighbours is not None else None
    draw_confusion = registry.load_task(modality, "draw_confusion", "A sheet of confused classes (--confusion)") if confusion is not None else None
    model = pretrained.load(name, size=size)
    rows = registry.load(f"modalities.{modality}.tasks:evaluate")(model, data, per_class)
    rows = [{**row, "command": command()} for row in rows]
    for row in rows:
        print(in_words(row))
    if draw is not None:
        print(draw(model, data, neighbours, per_class))
    if draw_confusion is not None:
        print(draw_confusion(model, data, confusion))
    if to is not None:
        write_json(to, rows)
    return rows
