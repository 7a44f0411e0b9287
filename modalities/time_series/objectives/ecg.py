"""Fine-tuning on records with several labels, with unlabelled records for batch norm only (CE-SSL, Zhou et al. 2024, arXiv 2406.14377).

Labelled and unlabelled records go through the convolutions together, so that the statistics of batch norm are those of both; then the unlabelled ones
are dropped. No label is guessed. Labelled records are mixed along time.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from modalities.time_series.models.ce_ssl import CESSL
from trainer.errors import ConfigError, DataError
from trainer.objective import Batch, Losses, Objective


@dataclass(frozen=True)
class ECGClassificationConfig:
    """How records are mixed, and what trains. The defaults are the authors'."""

    cutmix: float = 0.75
    """Parameter of the Beta distribution of the share of a record that stays; the rest comes from another one, its labels in the same proportion. 0: not mixed."""
    train: str = "all"
    """all: every weight. updates: what CE-SSL trains: the low-rank updates, every bias, and the last layer."""

    def __post_init__(self) -> None:
        if self.cutmix < 0 or self.train not in ("all", "updates"):
            raise ConfigError(f"objective.cutmix must be at least 0 and objective.train all or updates, found {self.cutmix} and {self.train!r}.")

    def build(self, model: CESSL) -> "ECGClassification":
        """The objective around a classifier. ConfigError for one without head, or without updates where only those shall train."""
        if not model.config.num_classes:
            raise ConfigError("Records are classified by a model with num_classes of at least 1, found 0.")
        if self.train == "updates":
            if not any(model.config.ranks):
                raise ConfigError("objective.train=updates trains low-rank updates, and this model has none. Give it ranks, as in model.ranks=[4].")
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(".lora_" in name or name.endswith(".bias") or name == "classifier.1.weight")
        return ECGClassification(model, self)


class ECGClassification(Objective):
    """Batch: `series` (B, C, T), `label` (B, K) float in 0..1 or, for one class per record, (B,) ids; perhaps `unlabelled` (U, C, T), read in training only."""

    def __init__(self, model: CESSL, config: ECGClassificationConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, batch: Batch) -> Losses:
        series, label = self.model.input(batch), self._targets(batch)
        if self.training and self.config.cutmix:
            series, label = self._mixed(series, label)
        return Losses(self.loss(self.logits({**batch, "series": series}), label))

    def logits(self, batch: Batch) -> Tensor:
        """Logits (B, K) of the labelled records; in training the unlabelled ones take part in the statistics."""
        if "unlabelled" not in batch or not self.training:
            return self.model(batch)
        labelled = self.model.input(batch)
        convolved = self.model.convolved(torch.cat([labelled, batch["unlabelled"]]))[: len(labelled)]
        return self.model.classifier(self.model.mixed(convolved).amax(1))

    def loss(self, logits: Tensor, label: Tensor) -> Tensor:
        """Mean binary cross entropy of targets (B, K), or cross entropy where one class is right."""
        return F.binary_cross_entropy_with_logits(logits.float(), label) if self.model.config.multi_label else F.cross_entropy(logits.float(), label)

    def export(self) -> CESSL:
        return self.model

    def _targets(self, batch: Batch) -> Tensor:
        label, config, records = batch.get("label"), self.model.config, len(batch["series"])
        expected = (records, config.num_classes) if config.multi_label else (records,)
        if label is None or tuple(label.shape) != expected:
            raise DataError(f"Records need batch['label'] of shape {expected}, found {'none' if label is None else tuple(label.shape)}.")
        return label.float() if config.multi_label else F.one_hot(label.long(), config.num_classes).float()

    def _mixed(self, series: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """A stretch of each record, of the same place and length in all, comes from another one."""
        length = series.shape[2]
        stays = float(torch.distributions.Beta(self.config.cutmix, self.config.cutmix).sample())
        cut, middle = int(length * (1 - stays)), int(torch.randint(length, ()))
        begin, end = max(middle - cut // 2, 0), min(middle + cut // 2, length)
        other = torch.randperm(len(series))
        inside = torch.zeros(length, dtype=torch.bool, device=series.device)
        inside[begin:end] = True
        share = (end - begin) / length
        return torch.where(inside, series[other], series), (1 - share) * label + share * label[other]
