"""SSPT: a small transformer for windows of stock features, pre-trained to say whose window it is (Xia et al., KDD 2025, arXiv 2506.16746).

Written from the formulas; computes what astudentuser/Pre-training-Time-Series-Models-with-Stock-Data-Customization@a2940e4 `model.py` computes. Attention and
feed-forward layers are added without any norm; one half of the network is the feature extractor, the other the predictor; the mean over the days goes
through a linear head for each task. Letters: B windows, F features, T days, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.linear import Linear
from modalities.common.model import Model
from modalities.time_series.models.forecaster import require_series
from modalities.time_series.preprocess import SeriesPreprocess
from trainer.errors import ConfigError, ModelError
from trainer.objective import Batch

TASKS = {"stock": "num_stocks", "sector": "num_sectors", "mask_avg_price": "average_price"}
"""Name of a pre-training head -> the field of the config that says its size."""


@dataclass(frozen=True)
class SSPTConfig:
    """The architecture. The defaults are the authors', for the five features of the close and without heads for pre-training."""

    in_chans: int = 5
    """Features of a day; the last one is the close (the authors: 5 of the close, or 25 of open, high, low, close and volume)."""
    days: int = 16
    """Days of a window."""
    embed_dim: int = 128
    """Width; a multiple of num_heads."""
    num_heads: int = 4
    """Attention heads."""
    extractor_layers: int = 1
    """Layers of the feature extractor."""
    predictor_layers: int = 1
    """Layers of the predictor."""
    dropout: float = 0.1
    """While training, of what each part of a layer adds."""
    num_outputs: int = 1
    """Outputs of the head that is fine-tuned: the next close."""
    num_stocks: int = 0
    """Outputs of the head that tells the stock. 0: none."""
    num_sectors: int = 0
    """Outputs of the head that tells the sector. 0: none."""
    average_price: int = 0
    """Outputs of the head that says the mean close of a window with hidden days. 0: none."""

    def __post_init__(self) -> None:
        for name in ("in_chans", "days", "embed_dim", "num_heads", "num_outputs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, found {getattr(self, name)}.")
        for name in ("extractor_layers", "predictor_layers", *TASKS.values()):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, found {getattr(self, name)}.")
        if self.embed_dim % self.num_heads or not 0 <= self.dropout < 1:
            raise ConfigError(f"embed_dim must be a multiple of num_heads={self.num_heads} and dropout a rate below 1, found {self.embed_dim} and {self.dropout}.")


class Attention(nn.Module):
    """Multi-head attention between all days."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.fc_q, self.fc_k, self.fc_v, self.fc_o = (Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        q, k, v = (layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.fc_q, self.fc_k, self.fc_v))
        return self.fc_o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers with a ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = Linear(width, 4 * width), Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return self.fc2(F.relu(self.fc1(x)))


def new_layers(config: SSPTConfig, count: int) -> tuple[nn.ModuleList, nn.ModuleList]:
    """So many attention and feed-forward layers."""
    attention = nn.ModuleList(Attention(config.embed_dim, config.num_heads) for _ in range(count))
    return attention, nn.ModuleList(FeedForward(config.embed_dim) for _ in range(count))


def mixed(x: Tensor, attention_layers: nn.ModuleList, feedforward_layers: nn.ModuleList, drop: nn.Dropout) -> Tensor:
    """(B, T, D) -> (B, T, D): x + attention, + feed-forward, layer by layer."""
    for attention, feedforward in zip(attention_layers, feedforward_layers):
        x = x + drop(attention(x))
        x = x + drop(feedforward(x))
    return x


class Extractor(nn.Module):
    """Days (B, T, F) to features (B, T, D)."""

    def __init__(self, config: SSPTConfig) -> None:
        super().__init__()
        self.attention_layers, self.feedforward_layers = new_layers(config, config.extractor_layers)
        self.drop = nn.Dropout(config.dropout)
        self.embedding = Linear(config.in_chans, config.embed_dim)
        self.positional_encoding = nn.Parameter(torch.randn(1, config.days, config.embed_dim))

    def forward(self, days: Tensor) -> Tensor:
        """(B, T, F) -> (B, T, D)."""
        return mixed(self.embedding(days) + self.positional_encoding, self.attention_layers, self.feedforward_layers, self.drop)


class SSPT(Model):
    """Input `series` (B, F, T): features of T days, scaled as in `modalities.time_series.stocks`, the close last; nothing may be missing.
    `forward` gives the next close on the scale of the last feature (B, num_outputs), `embed` the mean over the days (B, D)."""

    system = "time_series/sspt"
    config_class = SSPTConfig
    input_key = "series"
    parts = {"feature_extractor.": "feature extractor", "pretrain_outlayers.": "pre-training heads", "fc.": "head", "": "predictor"}

    def __init__(self, config: SSPTConfig) -> None:
        super().__init__(config)
        self.feature_extractor = Extractor(config)
        self.attention_layers, self.feedforward_layers = new_layers(config, config.predictor_layers)
        self.drop = nn.Dropout(config.dropout)
        self.fc = Linear(config.embed_dim, config.num_outputs)
        sizes = {task: getattr(config, field) for task, field in TASKS.items()}
        self.pretrain_outlayers = nn.ModuleDict({task: Linear(config.embed_dim, size) for task, size in sizes.items() if size})

    def pooled(self, series: Tensor) -> Tensor:
        """Windows (B, F, T) -> (B, D). ModelError for another number of features or days."""
        return self._tokens(series).mean(1)

    def said(self, series: Tensor, task: str) -> Tensor:
        """What a pre-training head says of windows (B, F, T)."""
        return self.pretrain_outlayers[task](self.pooled(series))

    def tokens(self, batch: Batch) -> Tensor:
        return self._tokens(require_series(batch)["series"])

    def embed(self, batch: Batch) -> Tensor:
        return self.tokens(batch).mean(1)

    def forward(self, batch: Batch) -> Tensor:
        """The next close, (B, num_outputs)."""
        return self.fc(self.embed(batch))

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        tokens = self.tokens(batch)
        features = tokens.mean(1)
        heads = {f"logits_{task}": head(features) for task, head in self.pretrain_outlayers.items()}
        return {"features": features, "tokens": tokens, "price": self.fc(features), **heads}

    def input_in_words(self) -> str:
        return f"`series`: {self.config.in_chans} features of a stock over {self.config.days} days, the close last"

    def default_preprocess(self) -> SeriesPreprocess:
        return SeriesPreprocess()

    def _tokens(self, series: Tensor) -> Tensor:
        if series.shape[1:] != (self.config.in_chans, self.config.days):
            raise ModelError(f"This SSPT reads windows of {self.config.in_chans} features over {self.config.days} days, found {tuple(series.shape[1:])}.")
        return mixed(self.feature_extractor(series.transpose(1, 2)), self.attention_layers, self.feedforward_layers, self.drop)
