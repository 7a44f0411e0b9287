"""TimelyGPT for continuous signals: retention and convolutions over tokens of four points (Song et al. 2024, arXiv 2312.00817).

Written from the formulas. With `causal=False` and `target="tokens"` it computes what li-lab-mcgill/TimelyGPT@27de224 `TimelyGPT_CTS` computes: two
strided convolutions make tokens, which are what is predicted, too. That says nothing of the series itself, and the centred convolutions see the
answer; so our default is causal and predicts the four points of the next token, scaled by the mean and deviation of the context.
Letters: B batch, C channels, T points, N = ceil(T / 4) tokens, D width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.linear import Linear
from modalities.time_series.models.forecaster import Forecast, Forecaster, LossTerms, require_series
from modalities.time_series.models.retention import SHORTEST
from modalities.time_series.models.scaling import scaled, statistics
from modalities.time_series.models.timelygpt_blocks import TimeConv, TimelyGPTBlocksConfig, new_blocks, new_start
from trainer.errors import ConfigError, DataError, ModelError
from trainer.objective import Batch

STRIDE = 4
"""Points of a token: two convolutions of stride 2."""
EPSILON = 1e-5
"""Added to the variance of a context, inside the square root."""


@dataclass(frozen=True)
class TimelyGPTConfig(TimelyGPTBlocksConfig):
    """TimelyGPT for continuous signals. The defaults are the authors', but for `causal` and `target`."""

    in_chans: int = 1
    """Channels of a series, which the model reads together."""
    context_length: int = 2048
    """Points of the past that are read; of a longer past the newest. Retention has no limit of its own."""
    target: Literal["points", "tokens"] = "points"
    """What a token predicts: the points of the next token, or (the authors' code) the next token as the trained convolutions make it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.in_chans < 1 or self.context_length < STRIDE:
            raise ConfigError(f"in_chans must be at least 1 and context_length at least {STRIDE}, found {self.in_chans} and {self.context_length}.")


class Subsampling(nn.Module):
    """Series to tokens of C values, and those to D features."""

    def __init__(self, channels: int, width: int, causal: bool) -> None:
        super().__init__()
        strided = [TimeConv(channels, channels, 3, causal=False, stride=2) for _ in range(2)]  # they end with the points of their own token
        self.time_reduce = nn.Sequential(strided[0], nn.GELU(), strided[1], nn.GELU())
        self.dim_mix = nn.Sequential(TimeConv(channels, width, 3, causal), nn.GELU())

    def forward(self, series: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, C) -> tokens (B, N, C), features (B, N, D)."""
        tokens = self.time_reduce(series)
        return tokens, self.dim_mix(tokens)


class TimelyGPT(Forecaster):
    """Input `series` (B, C, T) with `observed`; any T, C as `in_chans` says. `embed` gives the mean of the last block's tokens."""

    system = "time_series/timelygpt"
    config_class = TimelyGPTConfig
    parts = {"conv_subsampling.": "tokens", "head.": "head"}

    def __init__(self, config: TimelyGPTConfig) -> None:
        super().__init__(config)
        width, channels = config.embed_dim, config.in_chans
        self.conv_subsampling = Subsampling(channels, width, config.causal)
        self.input_projection = nn.Sequential(Linear(width, width), nn.Dropout(config.dropout))
        self.sos = new_start(width)
        self.blocks = new_blocks(config, SHORTEST)
        self.ln_f = nn.LayerNorm(width)
        outputs = channels * (STRIDE if config.target == "points" else 1)
        self.head = nn.ModuleDict({"head": Linear(width, outputs)})

    def encode(self, series: Tensor) -> tuple[Tensor, Tensor]:
        """Series (B, T, C) as they come -> the tokens that are predicted with `target="tokens"` (B, N, C), and features (B, N + 1, D): those
        at place n know the tokens before n."""
        tokens, features = self.conv_subsampling(series)
        x = self.input_projection(features)
        x = torch.cat([self.sos.expand(len(x), 1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return tokens, self.ln_f(x)

    def predict(self, features: Tensor) -> Tensor:
        """Features (B, N + 1, D) -> what they say of their tokens, (B, N + 1, C or 4 C)."""
        return self.head["head"](features)

    @property
    def context_length(self) -> int:
        return self.config.context_length

    @property
    def direct_horizon(self) -> int:
        """One token; longer forecasts come by roll-out."""
        return STRIDE

    @property
    def channels(self) -> int | None:
        return self.config.in_chans

    def direct(self, batch: Batch, horizon: int) -> Forecast:
        if self.config.target != "points":
            raise ConfigError('This TimelyGPT predicts the tokens of its own convolutions (target="tokens"), which say nothing of the series. Use one with target="points" to forecast.')
        series, observed = self._filled(batch)
        loc, scale = statistics(series, observed, EPSILON)
        points = self.predict(self.encode(scaled(series, observed, loc, scale).transpose(1, 2))[1][:, -1:])
        return Forecast((self._points(points) * scale + loc)[..., :horizon])

    def loss_terms(self, batch: Batch) -> LossTerms:
        """All points of context and target but those left over from whole tokens, on the scale of the context. DataError for a target below one token."""
        if self.config.target != "points":
            raise ConfigError('With target="tokens" the loss is that of `TokenPrediction` (modalities.time_series.objectives.token_prediction).')
        series, observed = self._filled(batch)
        loc, scale = statistics(series, observed, EPSILON)
        length = batch["target"].shape[2] // STRIDE * STRIDE
        if not length:
            raise DataError(f"TimelyGPT predicts tokens of {STRIDE} points; found a target of {batch['target'].shape[2]}.")
        whole = torch.cat([series, batch["target"][..., :length]], 2)
        seen = torch.cat([observed, batch["target_observed"][..., :length]], 2)
        target = scaled(whole, seen, loc, scale)
        points = self._points(self.predict(self.encode(target[..., :-STRIDE].transpose(1, 2))[1]))
        return LossTerms(points, target, seen, scale=scale)

    def input_in_words(self) -> str:
        return f"`series`: {self.config.in_chans} channel(s) in any unit, the last {self.context_length:,} points; NaN where a value is missing"

    def tokens(self, batch: Batch) -> Tensor:
        """Features (B, N + 1, D); the first one knows nothing of the series. With target="tokens" the series is read as it is, otherwise scaled."""
        batch = self._newest(require_series(batch))
        if self.config.target == "tokens":
            return self.encode(self.checked_channels(batch["series"]).transpose(1, 2))[1]
        series, observed = self._filled(batch)
        return self.encode(scaled(series, observed, *statistics(series, observed, EPSILON)).transpose(1, 2))[1]

    def embed(self, batch: Batch) -> Tensor:
        return self.tokens(batch)[:, 1:].mean(1)

    def checked_channels(self, series: Tensor) -> Tensor:
        """The series (B, C, T); ModelError for another number of channels."""
        if series.shape[1] != self.config.in_chans:
            raise ModelError(f"This TimelyGPT reads series of {self.config.in_chans} channels together, found {series.shape[1]}. Take one of that many.")
        return series

    def _filled(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Series and mask, filled up on the left with missing points to whole tokens."""
        series = self.checked_channels(batch["series"])
        lacking = -series.shape[2] % STRIDE
        return F.pad(series, (lacking, 0)), F.pad(batch["observed"], (lacking, 0))

    def _points(self, said: Tensor) -> Tensor:
        """(B, N, 4 C) -> (B, C, 4 N)."""
        return said.unflatten(2, (STRIDE, -1)).flatten(1, 2).transpose(1, 2)

