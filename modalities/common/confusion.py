"""Which classes a classifier takes for which: counted on labelled samples of any modality, and drawn."""

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from modalities.common.evaluation import BATCH, samples_of
from modalities.common.model import Model
from modalities.common.run import Draw
from modalities.common.sheets import spread
from trainer.data import Source, ordered_batches, to_device
from trainer.errors import DataError
from trainer.evaluation import evaluating
from trainer.files import write_bytes
from trainer.objective import Objective

SHOWN = 500
"""Test samples that are asked inside training, spread over the set."""
WRITTEN, NAMED = 20, 60
"""Up to so many classes the counts stand in the cells; up to so many their names stand beside them."""
LONGEST = 24
"""Characters of a class name."""


def confusion(labels: Tensor, said: Tensor, classes: int, ignored: int = -1) -> Tensor:
    """How often each class (row) was called each other one (column), (K, K) int64, over the labels that are not `ignored`. `labels` and `said`: ids of one shape."""
    kept = labels != ignored
    return torch.bincount(labels[kept] * classes + said[kept], minlength=classes**2).view(classes, classes)


def counted(model: Model, test: Source, key: str, ignored: int = -1) -> Tensor:
    """`confusion` of what a classifier (or segmenter) says of all samples of a source, whose batches have the labels under `key`."""
    classes = model.config.num_classes
    counts = torch.zeros(classes, classes, dtype=torch.long)
    with evaluating(model):
        for batch in ordered_batches(test, BATCH):
            counts += confusion(batch[key].long(), model(to_device(batch, model.device)).argmax(dim=1).cpu(), classes, ignored)
    return counts


def confusion_view(test: Source, key: str, ignored: int = -1) -> dict[str, Draw]:
    """The sheet `confusion` of a run whose exported model is a classifier, on up to SHOWN of its test samples."""
    part = test.take(spread(len(test), SHOWN)) if len(test) > SHOWN else test

    def draw(objective: Objective, path: Path, title: str) -> None:
        model = objective.export()
        draw_confusion(counted(model, part, key, ignored), model.config.class_names, path, title)

    return {"confusion": draw}


def confusion_of(model: Model, test: Source, key: str, path: Path | str, ignored: int = -1) -> Path:
    """Draw what a classifier says of all samples of a named source (see `counted`)."""
    return draw_confusion(counted(model, test, key, ignored), model.config.class_names, path, f"{samples_of(test):,} samples of {test.name}")


def draw_confusion(counts: Tensor, names: Sequence[str], path: Path | str, title: str = "") -> Path:
    """Draw counts (K, K) of `confusion` as a PNG: a row for each class, coloured by the shares of its samples. Returns its path.

    `names` of the classes may be empty. DataError when nothing was counted.
    """
    path, classes, total = Path(path), len(counts), int(counts.sum())
    if total == 0:
        raise DataError("There is no labelled sample whose class could be compared with what the model says.")
    names = [name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..." for name in map(str, names)] or [str(number) for number in range(classes)]
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    side = min(max(3.5, 0.5 * classes if classes <= WRITTEN else 0.2 * classes), 12)
    longest = max(map(len, names)) if classes <= NAMED else 0
    figure = Figure(figsize=(side + 1.2 + 0.07 * longest, side + 0.9 + 0.07 * longest), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares.numpy(), vmin=0, vmax=1, cmap="Blues")
    if classes <= NAMED:
        axes.set_xticks(range(classes), names, rotation=90 if longest > 2 else 0, fontsize=8, parse_math=False)
        axes.set_yticks(range(classes), names, fontsize=8, parse_math=False)
    if classes <= WRITTEN:
        for row, column in counts.nonzero().tolist():
            axes.text(column, row, f"{int(counts[row, column]):,}", ha="center", va="center", fontsize=7, color="white" if shares[row, column] > 0.5 else "black")
    axes.set(xlabel="what the model says", ylabel="class")
    figure.colorbar(image, label="share of the class", shrink=0.8)
    right = 100 * int(counts.diagonal().sum()) / total
    figure.suptitle(f"{title}{': ' if title else ''}{right:.1f} % of {total:,} right", fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_bytes(path, buffer.getvalue())
    return path
