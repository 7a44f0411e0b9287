"""Measuring a model: features, linear probe, nearest neighbours, accuracy."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from modalities.common.model import Model
from trainer.data import Source, ordered_batches, to_device


@torch.inference_mode()
def features(model: Model, source: Source, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Frozen features `model.embed` of every sample and its label: (N, D) float32 and (N,) int64."""
    was_training = model.training
    model.eval()
    vectors, labels = [], []
    for batch in ordered_batches(source, batch_size):
        vectors.append(model.embed(to_device(batch, model.device)).float().cpu().numpy())
        labels.append(batch["label"].numpy())
    model.train(was_training)
    return np.concatenate(vectors), np.concatenate(labels)


@torch.inference_mode()
def accuracy(model: Model, source: Source, batch_size: int = 256) -> float:
    """Share of samples, in percent, whose highest logit is the label."""
    was_training = model.training
    model.eval()
    right = sum(
        (model(to_device(batch, model.device)).argmax(dim=1).cpu() == batch["label"]).sum()
        for batch in ordered_batches(source, batch_size)
    )
    model.train(was_training)
    return 100.0 * float(right) / len(source)


def linear_probe(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    """Accuracy in percent of logistic regression (scikit-learn, C = 1) on standardised features."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    return 100.0 * float(model.fit(*train).score(*test))


def nearest_neighbours(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], k: int = 5) -> float:
    """Accuracy in percent of a vote among the `k` nearest training samples by cosine distance."""
    model = KNeighborsClassifier(n_neighbors=min(k, len(train[1])), metric="cosine")
    return 100.0 * float(model.fit(*train).score(*test))
