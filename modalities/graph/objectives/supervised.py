"""Supervised training of graph classifiers: classes of graphs or nodes, or several yes-or-no labels each, some of them missing."""

from torch import Tensor
from torch.nn import functional as F
from torch_geometric.data import Batch

from modalities.graph.models.classifier import GraphClassifier
from trainer.errors import ConfigError, DataError
from trainer.objective import Losses, Objective


class Supervised(Objective):
    """Batch: graphs with `y`: (M,) class ids, or (M, T) with 1, 0 and NaN where a label is missing; M graphs, or nodes with level "node".

    Loss = cross-entropy, or binary cross-entropy over the labels that are there (`Losses.count`; Hu et al. 2020). A node whose class is
    -1 is not counted.
    """

    def __init__(self, model: GraphClassifier) -> None:
        super().__init__()
        if model.config.num_classes < 1:
            raise ConfigError("Supervised training needs a model with num_classes of at least 1, found 0.")
        self.model = model

    def forward(self, batch: Batch) -> Losses:
        logits = self.model(batch).float()
        y = self._labels(batch, logits)
        if self.model.config.multi_label:
            known = ~y.isnan()
            losses = F.binary_cross_entropy_with_logits(logits, y.float().nan_to_num(), reduction="none")
            count = known.sum()
            return Losses((losses * known).sum() / count.clamp(min=1), count=count)
        known = y >= 0
        count = known.sum()
        right = ((logits.detach().argmax(dim=1) == y) & known).sum() / count.clamp(min=1)
        loss = F.cross_entropy(logits, y.long(), ignore_index=-1, reduction="sum") / count.clamp(min=1)
        return Losses(loss, {"accuracy": right}, count=count)

    def export(self) -> GraphClassifier:
        return self.model

    def _labels(self, batch: Batch, logits: Tensor) -> Tensor:
        """`y` of the batch, or DataError when it does not belong to these logits."""
        several = self.model.config.multi_label
        expected = tuple(logits.shape) if several else (len(logits),)
        y = batch["y"] if "y" in batch else None
        if y is None or tuple(y.shape) != expected or y.is_floating_point() is not several:
            found = "none" if y is None else f"{y.dtype} of shape {tuple(y.shape)}"
            kind = "1, 0 and NaN" if several else "whole class ids"
            raise DataError(f"Training needs y of shape {expected} with {kind}, found {found}.")
        return y
