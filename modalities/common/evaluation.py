"""What can be measured on a model of any modality: loss and supervised metrics on held-out data, probes of frozen features.

Each is an evaluator (`trainer.evaluation`), so that training, the end of a run, `zoo evaluate` and the demo
measure by the same code. Shares (accuracies) are in 0..1 as values and in percent in the rows of records and cards.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modalities.common.model import Model
from trainer.data import Source, ordered_batches, to_device
from trainer.errors import ConfigError
from trainer.evaluation import Evaluator, measure
from trainer.objective import Objective

BATCH = 256
"""Samples per forward pass."""
TEST = "test"
"""The part on which results are reported."""
Row = dict[str, Any]
"""A measured result for records and cards: task, data, split, samples, metric, detail, value, unit."""


@dataclass(frozen=True)
class ProbeConfig:
    """Labelled data on which frozen features are probed."""

    path: str = ""
    """Where the labelled data is, in the forms that `zoo evaluate --data` takes. Empty: no probe."""
    per_class: int | None = None
    """Labelled training samples per class. Null: all."""

    def __post_init__(self) -> None:
        if self.per_class is not None and self.per_class < 1:
            raise ConfigError(f"probe.per_class must be at least 1 (or null for all), found {self.per_class}.")
        if self.per_class is not None and not self.path:
            raise ConfigError(f"probe.per_class={self.per_class} needs probe.path, the labelled data to probe on; found none.")


class ReportedEvaluator(Evaluator, Protocol):
    """An evaluator whose values go into records and cards."""

    def row(self, name: str, value: float) -> Row:
        """The row for one of its values."""
        ...


class HeldOut:
    """The objective on held-out samples: `loss`, and those of its parts that `shares` names (of a classifier: accuracy).

    Both are means over the samples, or over what the objective says it counts; a share is one of right ones among all.
    `source` has a `name`. `task` is the Hub's name of the task, `what` says in words what the loss is; `batch` samples go forward at a time.
    With a `split` other than "test" the values are called "SPLIT_loss", ...
    """

    def __init__(self, source: Source, task: str, what: str, shares: Sequence[str] = (), batch: int = BATCH, split: str = TEST) -> None:
        self.source, self.task, self.what, self.batch, self.split = source, task, what, batch, split
        self.name = f"{what} on {source.name}"
        self.parts = (*shares, "loss")
        self.higher_is_better = {value_name(part, split): part != "loss" for part in self.parts}

    def __call__(self, objective: Objective) -> dict[str, float]:
        device = next(objective.parameters()).device
        totals, weight, left = dict.fromkeys(self.parts, 0.0), 0.0, len(self.source)
        for batch in ordered_batches(self.source, self.batch):
            losses = objective(to_device(batch, device))
            found, count = {**losses.parts, "loss": losses.loss}, min(self.batch, left) if losses.count is None else losses.count
            *values, count = torch.stack([torch.as_tensor(v, device=device).float() for v in (*(found[name] for name in totals), count)]).tolist()
            totals = {name: total + value * count for (name, total), value in zip(totals.items(), values)}
            weight, left = weight + count, left - self.batch
        # A share is a whole number / count: rounding takes out float32's error, which would pass for a tiny progress.
        return {value_name(name, self.split): (total if name == "loss" else round(total)) / weight for name, total in totals.items()}

    def row(self, name: str, value: float) -> Row:
        name = name.removeprefix(value_name("", self.split))
        if name == "loss":
            return result(self.source, self.task, "loss", round(value, 4), self.what, split=self.split)
        return result(self.source, self.task, name, percent(value), unit="%", split=self.split)


class FrozenFeatures:
    """What `model.embed` of the exported model is worth without training it: `probe` (linear) and `knn` (5 neighbours).

    `train` and `test` are labelled sources of one `name`; values are shares of the test samples. `kinds` says which of
    the two are measured.
    """

    words = {"probe": "linear probe", "knn": "5-NN"}

    def __init__(self, train: Source, test: Source, task: str, kinds: Sequence[str] = ("probe", "knn")) -> None:
        self.train, self.test, self.task = train, test, task
        self.higher_is_better = dict.fromkeys(kinds, True)
        self.name = f"probes of frozen features on {test.name}"

    def __call__(self, objective: Objective) -> dict[str, float]:
        model = objective.export()
        known, asked = features(model, self.train), features(model, self.test)
        if not (np.isfinite(known[0]).all() and np.isfinite(asked[0]).all()):  # scikit-learn would raise
            return dict.fromkeys(self.higher_is_better, math.nan)
        return probes(known, asked, tuple(self.higher_is_better))

    def row(self, name: str, value: float) -> Row:
        detail = f"{self.words[name]} on frozen features, {samples_of(self.train)} labelled training samples"
        return result(self.test, self.task, "accuracy", percent(value), detail, "%")


class MeanAUC:
    """`auc` of a model with several yes-or-no outputs: the area under the ROC curve of each label, the mean over labels.

    The labels (N, K) of `source` are 1, 0 or NaN (not known, not counted). Labels of which the known ones are all alike have no
    area and are left out; when that holds for all, the value is NaN. With a `split` other than "test" the value is "SPLIT_auc".
    """

    def __init__(self, source: Source, task: str, split: str = TEST) -> None:
        self.source, self.task, self.split = source, task, split
        self.name = f"mean area under the ROC curve on {source.name}"
        self.value = value_name("auc", split)
        self.higher_is_better = {self.value: True}
        known = [column[~column.isnan()] for column in source.labels.T]
        self.measured = [k for k, values in enumerate(known) if (values == 1).any() and (values == 0).any()]

    def __call__(self, objective: Objective) -> dict[str, float]:
        model = objective.export()
        logits = torch.cat([model(to_device(batch, model.device)).float().cpu() for batch in ordered_batches(self.source, BATCH)])
        if not self.measured or not logits.isfinite().all():
            return {self.value: math.nan}
        areas = []
        for k in self.measured:
            known = ~self.source.labels[:, k].isnan()
            areas.append(roc_auc_score(self.source.labels[known, k].numpy(), logits[known, k].numpy()))
        return {self.value: float(np.mean(areas))}

    def row(self, name: str, value: float) -> Row:
        of = self.source.labels.shape[1]
        which = f"{of} labels" if len(self.measured) == of else f"{len(self.measured)} of {of} labels; the others have one value only"
        return result(self.source, self.task, "roc_auc", percent(value), f"mean over {which}", "%", self.split)


class AsItIs(Objective):
    """A model that is measured as it is, for evaluators that ask for nothing but `export`."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def export(self) -> Model:
        return self.model


@dataclass(frozen=True)
class Judge:
    """One measured share that tells models of one kind apart: to choose among them (`zoo average`)."""

    train: Source
    """The training part of the labelled data, without augmentation."""
    evaluator: ReportedEvaluator
    """What is measured on the held-out part."""
    value: str
    """Name of the share among its values; higher is better."""
    build: Callable[[Model], Objective]
    """The objective around a model."""

    def score(self, model: Model) -> float:
        """The share; 0 when it is not finite (of weights that give NaN)."""
        return measure([self.evaluator], self.build(model)).get(self.value, 0.0)

    def row(self, score: float) -> Row:
        """A score for records and cards."""
        return self.evaluator.row(self.value, score)


def results(evaluators: Sequence[ReportedEvaluator], objective: Objective) -> list[Row]:
    """All that the evaluators measure on an objective, as rows."""
    return [evaluator.row(name, value) for evaluator in evaluators for name, value in measure([evaluator], objective).items()]


def result(source: Source, task: str, metric: str, value: float, detail: str = "", unit: str = "", split: str = TEST) -> Row:
    """One row, measured on the held-out samples of `source`."""
    return {
        "task": task, "data": source.name, "split": split, "samples": samples_of(source), "metric": metric, "detail": detail, "value": value, "unit": unit,
    }  # fmt: skip


def samples_of(source: Source) -> int:
    """How many samples a source has; of one that takes many as one (the nodes of a graph), these."""
    return getattr(source, "members", len(source))


def value_name(name: str, split: str) -> str:
    """What a value is called: as it is on the test part, else with the part before it."""
    return name if split == TEST else f"{split}_{name}"


def in_words(row: Row) -> str:
    """A row as one line of text."""
    value = f"{row['value']:6.2f} %" if row["unit"] == "%" else f"{row['value']:8.4f}"
    return f"{value}  {row['metric']} on {row['samples']} samples of {row['data']} ({row['split']}){': ' + row['detail'] if row['detail'] else ''}"


def percent(share: float) -> float:
    """A share in 0..1 as percent with two decimals."""
    return round(100.0 * share, 2)


def features(model: Model, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Features `model.embed` of every sample and its label: (N, D) float32 and (N,) int64. The model is in evaluation mode."""
    vectors, labels = [], []
    for batch in ordered_batches(source, BATCH):
        vectors.append(model.embed(to_device(batch, model.device)).float().cpu().numpy())
        labels.append(batch[source.label_key].numpy())
    return np.concatenate(vectors), np.concatenate(labels)


def probes(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], kinds: Sequence[str] = ("probe", "knn")
) -> dict[str, float]:
    """`probe` and `knn` of vectors (N, D) with their labels (N,): the shares of the test samples that are named rightly.

    probe: logistic regression (scikit-learn, C = 1) on standardised vectors. knn: a vote among the 5 nearest
    training samples by cosine distance.
    """
    models = {
        "probe": make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000)),
        "knn": KNeighborsClassifier(n_neighbors=min(5, len(train[1])), metric="cosine"),
    }
    return {kind: float(models[kind].fit(*train).score(*test)) for kind in kinds}
