"""Masked reconstruction of series: hidden patches are told from those that are seen (PatchTST, Nie et al. 2023, arXiv 2211.14730, section 3.2).

A linear layer on the backbone's token of each patch says its points, and the mean squared error of the hidden ones counts. Here mean and
deviation of a series are those of what is seen, so that the input tells nothing of what is hidden; the paper takes those of the whole window.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.masking import mask_from_noise
from modalities.time_series.models.ttm import TTM
from trainer.errors import ConfigError
from trainer.objective import Batch, Losses, Objective
from trainer.randomness import draws_on_device


@dataclass(frozen=True)
class MaskedSeriesConfig:
    """What is hidden and what counts."""

    mask_ratio: float = 0.4
    """Share of the patches that is hidden, of those that hold any value; at least one is hidden and one is seen. Paper: 0.4."""
    clip: float = 10.0
    """Targets further from the mean of what is seen than so many of its deviations are limited to that: a jump into a hidden patch must not drown the batch."""

    def __post_init__(self) -> None:
        if not 0 < self.mask_ratio < 1:
            raise ConfigError(f"objective.mask_ratio is the share of hidden patches, above 0 and below 1, found {self.mask_ratio}.")
        if self.clip <= 0:
            raise ConfigError(f"objective.clip must be above 0, found {self.clip}.")

    def build(self, model: TTM) -> "MaskedSeries":
        """The objective around a model. ConfigError for a TTM that mixes channels, reads covariates or has the horizon in its input."""
        if not model.config.any_channels or model.config.masked_context:
            raise ConfigError("Masked reconstruction takes each channel by itself: it needs a TTM without channel mixing, chosen channels and masked_context. Fine-tuning can add them.")
        if model.config.patches < 2:
            raise ConfigError("Masked reconstruction needs at least 2 patches in the context, found 1. Take a smaller patch_length.")
        return MaskedSeries(model, self)


class Reconstructed(NamedTuple):
    """What was hidden, and what the model says of it."""

    past: Tensor
    """(B, C, T) in the units of the series, as long as the model's context."""
    visible: Tensor
    """(B, C, T) bool: seen by the model."""
    hidden: Tensor
    """(B, C, T) bool: observed, and not seen."""
    said: Tensor
    """(B, C, T) on the scale of what is seen; 0 for the oldest points, which fill no patch."""
    loc: Tensor
    """(B, C, 1)."""
    scale: Tensor
    """(B, C, 1)."""

    def in_units(self) -> Tensor:
        """`said` in the units of the series."""
        return torch.addcmul(self.loc, self.said, self.scale)


class MaskedSeries(Objective):
    """Mean squared error over the hidden points that were observed; a batch without any has the loss 0.

    The backbone is trained. Decoder and heads of the exported model are as they were: fine-tuning trains them.
    """

    def __init__(self, model: TTM, config: MaskedSeriesConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.head = nn.Linear(model.config.d_model, model.config.patch_length)

    def forward(self, batch: Batch) -> Losses:
        found = self.reconstruct(batch)
        target = ((found.past - found.loc) / found.scale).clamp(-self.config.clip, self.config.clip)
        count = found.hidden.sum()
        loss = torch.where(found.hidden, found.said - target, 0.0).square().sum() / count.clamp(min=1)
        return Losses(loss, {"loss": loss.detach()}, count)

    def reconstruct(self, batch: Batch) -> Reconstructed:
        """Hide patches and say what is in them. With `sample_key` (B,), as in the trainer's batches, what is hidden follows from it; otherwise it is drawn."""
        model, length = self.model, self.model.config.patch_length
        series = torch.where(batch["observed"], batch["series"], 0.0)
        past, observed = model.read(series, batch["observed"], None)
        spare = past.shape[2] % length  # the oldest points, which the model does not read
        covered = F.pad(self._hidden(observed[..., spare:], batch.get("sample_key")), (spare, 0))
        visible = observed & ~covered
        seen = torch.where(visible, past, 0.0)
        _, loc, scale = model.scaled(seen, visible)
        tokens = model.tokens({**batch, "series": seen, "observed": visible}).unflatten(1, (past.shape[1], -1))
        said = self.head(tokens[:, :, -model.config.patches :]).flatten(2)  # other tokens stand before those of the patches
        return Reconstructed(past, visible, observed & covered, F.pad(said, (spare, 0)), loc, scale)

    def _hidden(self, observed: Tensor, keys: Tensor | None) -> Tensor:
        """(B, C, P * patch) of what is observed -> what is hidden, whole patches: the share of those with values, none where only one has any."""
        filled = observed.unflatten(2, (self.model.config.patches, -1)).any(3)  # (B, C, P)
        noise = torch.rand(filled.shape, device=filled.device) if keys is None else draws_on_device(keys, filled[0].numel()).view(filled.shape)
        ranks = mask_from_noise((noise + ~filled).flatten(0, 1), 1).ids_restore.view(filled.shape)  # empty patches come last
        count = filled.sum(2, keepdim=True)
        most = (count * self.config.mask_ratio).floor().clamp(min=1).minimum(count - 1)
        return (ranks < most).repeat_interleave(self.model.config.patch_length, 2)

    def export(self) -> TTM:
        return self.model
