"""Supervised fine-tuning: cross-entropy with mixup, cutmix and label smoothing (He et al. 2021, appendix A.1, table 9), and several labels per sample."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.data import Mixup
from timm.data.mixup import mixup_target
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.errors import ConfigError, DataError
from trainer.objective import Batch, Losses, Objective


@dataclass(frozen=True)
class ClassificationConfig:
    """How images and labels are softened while training. The defaults are the paper's fine-tuning recipe."""

    mixup: float = 0.8
    """Alpha of mixup (Zhang et al. 2017). 0: no mixup."""
    cutmix: float = 1.0
    """Alpha of cutmix (Yun et al. 2019). 0: no cutmix."""
    mixup_prob: float = 1.0
    """Probability that a batch is mixed at all."""
    switch_prob: float = 0.5
    """Probability of cutmix instead of mixup when both are on."""
    label_smoothing: float = 0.1
    """Share of the target spread evenly over all classes."""

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be 0 (off) or above, found {getattr(self, name)}.")
        for name in ("mixup_prob", "switch_prob", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie between 0 and 1, found {getattr(self, name)}.")

    @classmethod
    def plain(cls) -> "ClassificationConfig":
        """Neither mixed nor smoothed."""
        return cls(mixup=0.0, cutmix=0.0, label_smoothing=0.0)

    def build(self, model: nn.Module) -> "Classification | MultiLabel":
        """The objective around a classifier, of one label per sample or of several as its config says."""
        return (MultiLabel if model.config.multi_label else Classification)(model, self)


class Classification(Objective):
    """Batch: the model's input, such as `image` (B, C, H, W) or `video` (B, C, T, H, W), and `label` (B,) class ids.

    Mixing happens in training mode only, on a copy of the input (of all inputs, where a model has several); its random numbers come
    from numpy's global generator (timm). Accuracy is logged whenever the labels are hard.
    """

    def __init__(self, model: nn.Module, config: ClassificationConfig) -> None:
        super().__init__()
        classes = model.config.num_classes
        if classes < 1:
            raise ConfigError("Classification needs a model with num_classes of at least 1, found 0.")
        self.model = model
        self.config = config
        self.mixup = None
        self.mixed = tuple(model.input_shapes())
        """Entries of a batch that are mixed, all in the same way."""
        if (config.mixup > 0 or config.cutmix > 0) and config.mixup_prob > 0:
            ids = [key for key, shape in model.input_shapes().items() if len(shape) < len(model.input_shape() or shape)]
            if ids:
                raise ConfigError(f"Class ids (the input {ids[0]}) cannot be blended: set objective.mixup and objective.cutmix to 0, or leave it out of the inputs.")
            self.mixup = BatchMixup(
                mixup_alpha=config.mixup,
                cutmix_alpha=config.cutmix,
                prob=config.mixup_prob,
                switch_prob=config.switch_prob,
                label_smoothing=config.label_smoothing,
                num_classes=classes,
            )

    def forward(self, batch: Batch) -> Losses:
        label = self._read(batch)
        if self.training and self.mixup is not None:
            mixed, target = self._mix(batch, label)
            return Losses(F.cross_entropy(self.model({**batch, **mixed}).float(), target))
        logits = self.model(batch).float()
        loss = F.cross_entropy(logits, label, label_smoothing=self.config.label_smoothing if self.training else 0.0)
        return Losses(loss, {"accuracy": (logits.detach().argmax(dim=1) == label).float().mean()})

    def export(self) -> nn.Module:
        return self.model

    def _mix(self, batch: Batch, label: Tensor) -> tuple[Batch, Tensor]:
        """The inputs mixed as one with the channels of all, and the soft targets."""
        inputs = [batch[key] for key in self.mixed]
        together = torch.cat(inputs, dim=1).contiguous() if len(inputs) > 1 else inputs[0].clone(memory_format=torch.contiguous_format)
        together, target = self.mixup(together, label)
        return dict(zip(self.mixed, together.split([x.shape[1] for x in inputs], dim=1))), target

    def _read(self, batch: Batch) -> Tensor:
        x = self.model.input(batch)
        label = batch.get("label")
        if label is None or label.is_floating_point() or tuple(label.shape) != x.shape[:1]:
            found = "none" if label is None else f"{tuple(label.shape)} {label.dtype}"
            raise DataError(f"Classification needs batch['label'] with {x.shape[0]} whole class ids, found {found}.")
        return label.long()


class MultiLabel(Objective):
    """Batch: the model's input and `label` (B, K) with 1 and 0 for yes and no, NaN where it is not known.

    Loss = binary cross-entropy, the mean over the labels that are known (`Losses.count`).
    """

    def __init__(self, model: nn.Module, config: ClassificationConfig) -> None:
        super().__init__()
        if config.mixup or config.cutmix or config.label_smoothing:
            raise ConfigError(
                "Several labels per sample are trained without mixing and smoothing: give --objective.mixup 0 --objective.cutmix 0 "
                f"--objective.label_smoothing 0, found {config.mixup:g}, {config.cutmix:g} and {config.label_smoothing:g}."
            )
        self.model = model
        self.config = config

    def forward(self, batch: Batch) -> Losses:
        expected, label = (len(self.model.input(batch)), self.model.config.num_classes), batch.get("label")
        if label is None or not label.is_floating_point() or tuple(label.shape) != expected:
            found = "none" if label is None else f"{tuple(label.shape)} {label.dtype}"
            raise DataError(f"Several labels per sample need batch['label'] of shape {expected} with 1, 0 and NaN, found {found}.")
        known = ~label.isnan()
        losses = F.binary_cross_entropy_with_logits(self.model(batch).float(), label.float().nan_to_num(), reduction="none")
        count = known.sum()
        return Losses((losses * known).sum() / count.clamp(min=1), count=count)

    def export(self) -> nn.Module:
        return self.model


class BatchMixup(Mixup):
    """timm's mixup for a whole batch, also an odd one.

    timm mixes sample i with sample B-1-i and refuses odd batches because its per-pair modes need pairs. One
    factor for the whole batch needs none: the middle sample is mixed with itself and stays as it is.
    """

    def __call__(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) or (B, C, T, H, W), changed in place, and (B,) labels -> the same and (B, classes) soft targets.

        All frames of a video are mixed alike: for timm they are channels.
        """
        factor = self._mix_batch(x.flatten(1, -3))  # a view
        return x, mixup_target(target, self.num_classes, factor, self.label_smoothing)


def described(model: nn.Module, logits: Tensor, files: Sequence[Path]) -> str:
    """What a classifier's logits (B, classes) say of some files, in lines: at most five classes each, by their names or numbers."""
    shares = logits.sigmoid() if model.config.multi_label else logits.softmax(dim=1)
    best = shares.topk(min(5, shares.shape[1]), dim=1)
    names = model.config.class_names or tuple(map(str, range(shares.shape[1])))
    return "\n".join(
        f"{file}: " + ", ".join(f"{names[i]} {100 * share:.1f} %" for share, i in zip(values.tolist(), indices.tolist()))
        for file, values, indices in zip(files, *best)
    )
