"""What a modality's demo consists of; `zoo.demo` runs it. Each modality has one as `modalities.<name>.demo:DEMO`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modalities.common.evaluation import Evaluator
from modalities.common.model import Model
from modalities.common.run import ModelRecipe
from modalities.common.sources import LabelledSource
from trainer.objective import Objective

Vectors = Callable[[LabelledSource], tuple[np.ndarray, np.ndarray]]
"""A labelled source -> a vector for each sample (N, D), and the labels (N,)."""


@dataclass(frozen=True)
class Demo:
    """The whole way once: pre-train without labels, probe, fine-tune with few labels and from scratch, publish, load again, predict."""

    recipe: str
    """Name of the pre-training recipe."""
    title: str
    """What the data are, as the head of the table."""
    samples: str
    """What a sample is called, in the plural."""
    published: str
    """Folder of the published model."""
    task: str
    """The Hub's name of the task of the labels."""
    per_class: int
    """Labels per class."""
    labelled: Callable[[Any, int], Any]
    """(the recipe's data, seed) -> labelled data with `per_class` training samples of each class, chosen by the seed."""
    finetune: Callable[[str, Any, int, bool], ModelRecipe]
    """(model, labelled data, seed, whether from scratch) -> the recipe of fine-tuning."""
    frozen: Callable[[LabelledSource, LabelledSource], Evaluator]
    """(training set, test set) -> what measures `probe` and `knn` on frozen features."""
    objective: Callable[[Model], Objective]
    """The objective around a pre-trained model."""
    baselines: dict[str, Vectors]
    """What frozen features are compared with, by logistic regression and 5-NN: name -> the vectors."""
    draw: Callable[[Model, LabelledSource, Path, str], None]
    """(pre-trained model, test set, path, title): draw reconstructions."""
    caption: str
    """Title of that picture."""
    write: Callable[[LabelledSource, int, Path], Path]
    """(test set, index, path without ending): write a sample as the file that a new process names; returns its path."""


@dataclass(frozen=True)
class OwnDemo:
    """A demo that goes another way than `Demo`."""

    run: Callable[[Path, Callable[[ModelRecipe, Path], Path]], dict[str, Any]]
    """(folder, train) -> results. `train(recipe, folder)` runs a recipe, goes on with it, or takes it as it is when it is done, and returns its export."""
    parts: tuple[str, ...]
    """Folders of runs that it makes: a finished demo's are removed, a stopped one's are kept."""
    files: tuple[str, ...]
    """What else it writes."""


def vectors(source: LabelledSource) -> tuple[np.ndarray, np.ndarray]:
    """All that the model would see of each sample, as one vector, and its label. For sources in memory."""
    batch = source.fetch(list(range(len(source))))
    return batch[source.key].flatten(1).numpy(), batch["label"].numpy()
