"""The stock tasks of SSPT (Xia et al., KDD 2025, arXiv 2506.16746): whose window it is, of which sector, its mean price; and which stocks will do best.

Written from the formulas. `ranking="coded"` is what the authors' code computes: its term of the order of two stocks has a prediction where the truth is
meant. Ours by default is the term as it is meant. The days that are hidden are drawn anew in each epoch, theirs once.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from modalities.time_series.models.sspt import SSPT, TASKS
from trainer.errors import ConfigError, DataError
from trainer.objective import Batch, Losses, Objective
from trainer.randomness import draws_on_device

UNKNOWN = -1
"""The sector of a stock of which it is not known."""


@dataclass(frozen=True)
class StockPretrainingConfig:
    """Weights of the tasks; a task of weight 0 is left out."""

    stock: float = 1.0
    """Tell the stock."""
    sector: float = 1.0
    """Tell the sector."""
    mask_avg_price: float = 1.0
    """Say the mean close of a window with hidden days."""
    mask_ratio: float = 0.3
    """Share of the days that are hidden of each feature, set to 0."""

    def __post_init__(self) -> None:
        if min(self.stock, self.sector, self.mask_avg_price) < 0 or not max(self.stock, self.sector, self.mask_avg_price):
            raise ConfigError("The weights of the stock tasks must be at least 0, and one of them above.")
        if not 0 < self.mask_ratio < 1:
            raise ConfigError(f"objective.mask_ratio must lie between 0 and 1, found {self.mask_ratio}.")

    def build(self, model: SSPT) -> "StockPretraining":
        """The objective around a model. ConfigError for a task without a head."""
        for task, size in TASKS.items():
            if getattr(self, task) and task not in model.pretrain_outlayers:
                raise ConfigError(f"objective.{task} has a weight, and the model no head for it: set model.{size}, or the weight to 0.")
        model.fc.requires_grad_(False)  # no loss of this stage sees it
        for task, head in model.pretrain_outlayers.items():
            head.requires_grad_(getattr(self, task) > 0)
        return StockPretraining(model, self)


class StockPretraining(Objective):
    """Batch: `series` (B, F, T), `stock` (B,) and `sector` (B,) ids (-1: unknown), `sample_key` (B,) for the hidden days, or `masked` (B, F, T)."""

    def __init__(self, model: SSPT, config: StockPretrainingConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, batch: Batch) -> Losses:
        losses = self.losses(batch)
        return Losses(torch.stack([getattr(self.config, task) * loss for task, loss in losses.items()]).sum(), {task: loss.detach() for task, loss in losses.items()})

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of each task that has a weight."""
        series, found = batch["series"], {}
        if self.config.stock:
            found["stock"] = F.cross_entropy(self.model.said(series, "stock"), batch["stock"])
        if self.config.sector:
            known = batch["sector"] != UNKNOWN
            summed = F.cross_entropy(self.model.said(series, "sector"), batch["sector"], ignore_index=UNKNOWN, reduction="sum")
            found["sector"] = summed / known.sum().clamp(min=1)
        if self.config.mask_avg_price:
            target = batch["mean_price"] if "mean_price" in batch else series[:, -1].mean(1)
            masked = batch["masked"] if "masked" in batch else self.hidden(series, batch["sample_key"])
            found["mask_avg_price"] = F.mse_loss(self.model.said(masked, "mask_avg_price")[:, 0], target)
        return found

    def hidden(self, series: Tensor, keys: Tensor) -> Tensor:
        """The windows with some days of each feature, of its own, set to 0."""
        features, days = series.shape[1:]
        order = draws_on_device(keys, features * days).view(-1, features, days).argsort(2).argsort(2)
        return series.masked_fill(order < round(self.config.mask_ratio * days), 0.0)

    def export(self) -> SSPT:
        return self.model


@dataclass(frozen=True)
class StockSelectionConfig:
    """How returns are learned."""

    ranking_weight: float = 5.0
    """Weight of the order of each two stocks of a day (the authors: 5 to 10)."""
    ranking: Literal["meant", "coded"] = "meant"
    """meant: two stocks in the wrong order cost as much as they differ. coded: the term in the authors' code, for comparisons with it."""
    freeze: Literal["none", "embedding", "attention", "extractor"] = "embedding"
    """What of the feature extractor stays as it is: nothing, its embedding and positions, the attention besides, or all of it."""

    def __post_init__(self) -> None:
        if self.ranking_weight < 0:
            raise ConfigError(f"objective.ranking_weight must be at least 0, found {self.ranking_weight}.")

    def build(self, model: SSPT) -> "StockSelection":
        """The objective around a model, some of which is frozen."""
        frozen = {"none": (), "embedding": ("embedding", "positional"), "attention": ("embedding", "positional", "attention"), "extractor": ("",)}[self.freeze]
        for name, parameter in model.feature_extractor.named_parameters():
            parameter.requires_grad_(not name.startswith(frozen) if frozen else True)
        model.pretrain_outlayers.requires_grad_(False)  # no loss of this stage sees them
        model.fc.requires_grad_(True)
        return StockSelection(model, self)


class StockSelection(Objective):
    """Batch: days of all stocks, `series` (D, N, F, T), `price` (D, N, 2), the close of the last day of the window and of the next, and `valid` (D, N) bool."""

    def __init__(self, model: SSPT, config: StockSelectionConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, batch: Batch) -> Losses:
        series, price, valid = batch["series"], batch["price"], batch["valid"]
        if series.ndim != 4 or price.shape != (*series.shape[:2], 2) or valid.shape != series.shape[:2]:
            raise DataError(
                f"Stock selection reads series (D, N, F, T), price (D, N, 2) and valid (D, N), found {tuple(series.shape)}, {tuple(price.shape)} and {tuple(valid.shape)}."
            )
        said = self.model.fc(self.model.pooled(series.flatten(0, 1)))[:, 0].unflatten(0, series.shape[:2])
        regression, ranking = self.terms(said, price, valid)
        loss = regression + self.config.ranking_weight * ranking
        return Losses(loss, {"regression": regression.detach(), "ranking": ranking.detach()})

    def terms(self, said: Tensor, price: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """The squared error of the returns, and the term of their order, from the closes (D, N) that are said; means over stocks and pairs of a day."""
        price = price.masked_fill(~valid[..., None], 1.0)
        today, tomorrow = price.unbind(2)
        found, true = (said - today) / today, (tomorrow - today) / today
        error = ((found - true).square() * valid).sum() / valid.sum().clamp(min=1)
        between = found[:, :, None] - found[:, None, :]  # (D, i, j)
        wanted = (found[:, None, :] - true[:, :, None]) if self.config.ranking == "coded" else (true[:, None, :] - true[:, :, None])
        pairs = valid[:, :, None] & valid[:, None, :]
        return error, (F.relu(between * wanted) * pairs).sum() / pairs.sum().clamp(min=1)

    def export(self) -> SSPT:
        return self.model
