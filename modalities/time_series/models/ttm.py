"""TTM, tiny time mixers R1, R2 and R3 (Ekambaram et al. 2024, arXiv 2401.03955; granite-tsfm 0.3.11, TinyTimeMixerForPrediction and ForMaskedPrediction)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.linear import use_faster
from modalities.time_series.models.forecaster import Forecast, Forecaster, LossTerms
from modalities.time_series.models.ttm_config import TTMConfig
from modalities.time_series.models.ttm_encoder import Backbone
from modalities.time_series.models.ttm_heads import ForecastMixer, QuantileHead
from modalities.time_series.models.ttm_layers import Mixers, Sizes
from trainer.config import replace
from trainer.errors import DataError, ModelError
from trainer.objective import Batch

NEW = ("channel_feature_mixer.", "head.fcm_block.")
"""Parts that fine-tuning may add."""
NEUTRAL = ("channel_feature_mixer.mlp.fc2.", "head.fcm_block.mlp.")
"""Of these, the layers that add nothing as long as they are zero."""
ROWS = 64
"""Channels of all samples that go through the network at once where no gradient is wanted: their activations stay in the cache."""


@dataclass(frozen=True)
class Prediction:
    """What the network says, on its own scale, and that scale."""

    point: Tensor
    """(B, C, H)."""
    quantiles: Tensor | None
    """(B, Q, C, H)."""
    loc: Tensor
    """(B, C, 1) of the channels that are forecast."""
    scale: Tensor
    """(B, C, 1)."""

    def in_units(self) -> tuple[Tensor, Tensor | None]:
        """Point and quantiles in the units of the series."""
        point = torch.addcmul(self.loc, self.point, self.scale)
        return point, None if self.quantiles is None else torch.addcmul(self.loc[:, None], self.quantiles, self.scale[:, None])


@dataclass(frozen=True)
class States:
    """What the network computes on the way to its forecast."""

    encoded: Tensor
    """(B, C, tokens, D) of the backbone."""
    decoded: Tensor
    """(B, C, tokens, D') of the decoder."""
    point: Tensor
    """(B, targets, H) on the network's scale."""
    quantiles: Tensor | None
    """(B, Q, targets, H)."""


class Categories(nn.Module):
    """Static categories of a series, each as a further channel."""

    def __init__(self, config: TTMConfig) -> None:
        super().__init__()
        self.embedding_layers = nn.ModuleList(nn.Embedding(size, config.decoder_d_model) for size in config.categorical_vocab_size_list)

    def forward(self, static: Tensor, tokens: int) -> Tensor:
        """(B, S) -> (B, S, tokens, D)."""
        found = torch.stack([embed(static[:, i].long()) for i, embed in enumerate(self.embedding_layers)], 1)
        return found[:, :, None].expand(-1, -1, tokens, -1)


class Decoder(nn.Module):
    """Tokens of the backbone -> tokens for the head."""

    def __init__(self, config: TTMConfig) -> None:
        super().__init__()
        self.config, width = config, config.decoder_d_model
        self.adapter = nn.Linear(config.d_model, width) if config.d_model != width else None
        self.decoder_raw_embedding = nn.Linear(config.patch_length, width) if config.decoder_raw_residual else None
        self.decoder_cat_embedding_layer = Categories(config) if config.categorical_vocab_size_list else None
        channels = config.num_input_channels + len(config.categorical_vocab_size_list or ()) if config.decoder_mode == "mix_channel" else None
        self.decoder_block = Mixers(Sizes(config, config.tokens, width, config.decoder_num_layers, config.head_dropout, config.gated_attn, channels, config.decoder_adaptive_patching_levels))

    def forward(self, x: Tensor, patches: Tensor, static: Tensor | None) -> Tensor:
        """(B, C, tokens, D) -> (B, C, tokens, D')."""
        channels = x.shape[1]
        x = self.adapter(x) if self.adapter is not None else x
        if self.decoder_raw_embedding is not None:  # of an empty patch for the token of the interval
            x = x + self.decoder_raw_embedding(F.pad(patches, (0, 0, x.shape[2] - patches.shape[2], 0)))
        if self.decoder_cat_embedding_layer is not None:
            x = torch.cat([x, self.decoder_cat_embedding_layer(static, x.shape[2])], 1)
        return self.decoder_block(x)[:, :channels]


class Head(nn.Module):
    """All tokens of a channel -> its forecast, perhaps corrected by the forecast mixer."""

    def __init__(self, config: TTMConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.head_dropout)
        self.base_forecast_block = nn.Linear(config.tokens * config.out_width, config.prediction_length)
        if config.enable_forecast_channel_mixing:
            self.fcm_block = ForecastMixer(config)


class TTM(Forecaster):
    """A mixer of MLPs over the patches of a series, with one forecast of a whole horizon.

    Input: see `modalities.time_series.models.forecaster`. A model that mixes or chooses channels reads `num_input_channels` of them:
    its targets are `series`, its exogenous channels `future_covariates`, the others `past_covariates`; `static` are category numbers.
    """

    system: ClassVar[str] = "time_series/ttm"
    config_class: ClassVar[type] = TTMConfig
    frozen_parts: ClassVar[tuple[str, ...]] = ("backbone.",)
    parts: ClassVar[dict[str, str]] = {"backbone.": "backbone", "decoder.": "decoder", "head.": "head", "multi_quantile_head_block.": "quantile head"}

    def __init__(self, config: TTMConfig = TTMConfig()) -> None:
        super().__init__(config)
        self.backbone = Backbone(config)
        if config.use_decoder:
            self.decoder = Decoder(config)
        self.head = Head(config)
        if config.multi_quantile_head:
            self.multi_quantile_head_block = QuantileHead(config)
        use_faster(self)

    @property
    def context_length(self) -> int:
        return self.config.context_length

    @property
    def direct_horizon(self) -> int:
        return self.config.horizon

    @property
    def levels(self) -> tuple[float, ...]:
        return self.config.quantile_levels if self.config.multi_quantile_head else ()

    @property
    def channels(self) -> int | None:
        return None if self.config.any_channels else len(self.config.targets)

    def extended(self, changes: dict[str, Any]) -> "TTM":
        """A model of a changed config with these weights, for fine-tuning. What is new, mixers of channels and of forecasts, changes nothing before it is trained.

        ModelError for a change after which other weights do not fit.
        """
        model, state = TTM(replace(self.config, changes)), self.state_dict()
        for name, tensor in model.state_dict().items():
            if name in state and state[name].shape == tensor.shape:
                tensor.copy_(state[name])
            elif not any(part in name for part in NEW):
                raise ModelError(f"{', '.join(changes)} cannot be changed: {name} {tuple(tensor.shape)} finds no weights to begin with.")
            elif any(part in name for part in NEUTRAL):
                tensor.zero_()
        model.name, model.preprocess, model.licence = self.name, self.preprocess, self.licence
        return model.train(self.training)

    def reads(self, key: str) -> bool:
        return self._covariates(key) > 0

    def direct(self, batch: Batch, horizon: int) -> Forecast:
        point, quantiles = self.predict(batch).in_units()
        return Forecast(point[..., :horizon], None if quantiles is None else quantiles[..., :horizon], self.levels)

    def loss_terms(self, batch: Batch) -> LossTerms:
        """On the network's scale. Targets beyond the model's horizon do not count."""
        steps = min(batch["target"].shape[2], self.config.horizon)
        said = self.predict(batch)
        observed = batch["target_observed"][..., :steps]
        target = (torch.where(observed, batch["target"][..., :steps], said.loc) - said.loc) / said.scale
        quantiles = None if said.quantiles is None else said.quantiles[..., :steps]
        return LossTerms(said.point[..., :steps], target, observed, quantiles, self.levels, said.scale)

    def tokens(self, batch: Batch) -> Tensor:
        """What the backbone says, (B, C tokens, D): the tokens of one channel after those of another."""
        past, observed, ahead = self._channels(batch)
        past, observed = self.read(past, observed, ahead)
        scaled = self.scaled(past, observed)[0]
        return self.backbone.encoder(self.patches(scaled), scaled, self._frequency(batch)).flatten(1, 2)

    def embed(self, batch: Batch) -> Tensor:
        """Mean of the tokens, (B, D)."""
        return self.tokens(batch).mean(1)

    def predict(self, batch: Batch) -> Prediction:
        """The forecast of the whole horizon, on the network's scale. DataError for covariates, categories or intervals that do not fit the model."""
        past, observed, ahead = self._channels(batch)
        past, observed = self.read(past, observed, ahead)
        scaled, loc, scale = self.scaled(past, observed)
        if self.config.fcm_scaled:
            known = list(self.config.exogenous)
            past, ahead = scaled, None if ahead is None else (ahead - loc[:, known]) / scale[:, known]
        rows = (scaled, past, ahead, self._frequency(batch), self._static(batch))
        channels = past.shape[1]
        if self.config.any_channels:  # each by itself: as samples of one channel
            frequency = rows[3]
            rows = (scaled.flatten(0, 1)[:, None], past.flatten(0, 1)[:, None], None, None if frequency is None else frequency.repeat_interleave(channels), None)
        point, quantiles = self._in_parts(rows)
        if self.config.any_channels:
            point = point.view(-1, channels, point.shape[2])
            quantiles = None if quantiles is None else quantiles.view(-1, channels, *quantiles.shape[1::2]).transpose(1, 2)
        else:
            loc, scale = (x[:, list(self.config.targets)] for x in (loc, scale))
        return Prediction(point, quantiles, loc, scale)

    def read(self, past: Tensor, observed: Tensor, ahead: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the backbone reads, (B, C, `read_length`) and its mask: a longer past is cut, a shorter one has missing values before it.

        With `masked_context` the horizon follows, in which only exogenous values (`ahead`, (B, E, H)) are known.
        """
        c = self.config
        lacking = c.context_length - past.shape[2]
        if lacking > 0:
            past, observed = F.pad(past, (lacking, 0)), F.pad(observed, (lacking, 0))
        elif lacking < 0:
            past, observed = past[..., -c.context_length :], observed[..., -c.context_length :]
        if c.masked_context:
            future = past.new_full((*past.shape[:2], c.horizon), c.mask_value)
            if c.exogenous:
                future[:, list(c.exogenous)] = ahead
            past, observed = torch.cat([past, future], 2), torch.cat([observed, torch.ones_like(future, dtype=torch.bool)], 2)
            hidden = [i for i in range(past.shape[1]) if i not in c.exogenous]
            observed[:, hidden, -c.prediction_length :] = False
        return past, observed

    def scaled(self, past: Tensor, observed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The series as the network reads it, and its location and scale, (B, C, 1)."""
        loc, scale = self.backbone.scaler(past, observed)
        scaled = (past - loc) / scale
        if self.config.missing == "mean":
            scaled = torch.where(observed, scaled, 0.0)
        return scaled, loc, scale

    def patches(self, scaled: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, P, patch), without the oldest points that fill no patch."""
        length = self.config.patch_length
        return scaled[..., scaled.shape[2] % length :].unflatten(2, (-1, length))

    def states(self, scaled: Tensor, past: Tensor, ahead: Tensor | None, frequency: Tensor | None, static: Tensor | None) -> States:
        """Everything that the network computes, from scaled and raw past (B, C, T), exogenous values (B, E, H), intervals (B,), categories (B, S)."""
        c, patches = self.config, self.patches(scaled)
        encoded = self.backbone.encoder(patches, scaled, frequency)
        decoded = self.decoder(encoded, patches, static) if c.use_decoder else encoded
        point = self.head.base_forecast_block(self.head.dropout(decoded.flatten(2)))[..., : c.horizon]
        if not c.any_channels:
            point = point[:, list(c.targets)]
        if c.enable_forecast_channel_mixing:
            end = c.context_length
            before = past[:, [*c.targets, *c.exogenous], end - c.fcm_context_length : end]
            point = self.head.fcm_block(point, before, point[:, :0] if ahead is None else ahead)
        quantiles = self.multi_quantile_head_block(point, decoded) if c.multi_quantile_head else None
        return States(encoded, decoded, point if quantiles is None else quantiles[:, quantiles.shape[1] // 2], quantiles)

    def _in_parts(self, rows: tuple[Tensor | None, ...]) -> tuple[Tensor, Tensor | None]:
        """Point and quantiles; without gradients a few samples at a time."""
        size = max(1, ROWS // rows[0].shape[1])
        if torch.is_grad_enabled() or self.training or torch.compiler.is_exporting() or len(rows[0]) <= size:
            said = self.states(*rows)
            return said.point, said.quantiles
        parts = [self.states(*(None if x is None else x[i : i + size] for x in rows)) for i in range(0, len(rows[0]), size)]
        return torch.cat([part.point for part in parts]), None if parts[0].quantiles is None else torch.cat([part.quantiles for part in parts])

    def _channels(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Past (B, C, T) of all input channels, its mask, and what is known ahead of the exogenous ones (B, E, H)."""
        c, series, observed = self.config, batch["series"], batch["observed"]
        covariates = {key: batch.get(key) for key in ("past_covariates", "future_covariates")}
        for key, values in covariates.items():
            found, wanted = 0 if values is None else values.shape[1], self._covariates(key)
            if found != wanted:
                raise DataError(f"This TTM reads {wanted} {key}, found {found}. Fine-tune one with the covariates that you have.")
        if c.any_channels:
            return series, observed, None
        if series.shape[1] != len(c.targets):
            raise DataError(f"This TTM forecasts {len(c.targets)} channels together, found {series.shape[1]}.")
        length = series.shape[2]
        past, mask = series.new_empty(series.shape[0], c.num_input_channels, length), observed.new_ones(series.shape[0], c.num_input_channels, length)
        past[:, list(c.targets)], mask[:, list(c.targets)] = series, observed
        if c.past_only:
            past[:, list(c.past_only)] = covariates["past_covariates"]
        if not c.exogenous:
            return past, mask, None
        known = covariates["future_covariates"]
        past[:, list(c.exogenous)], ahead = known[..., :length], known[..., length : length + c.horizon]
        if ahead.shape[2] < c.horizon:  # a shorter forecast was asked for: what follows it stays as it is at its end
            ahead = torch.cat([ahead, known[..., -1:].expand(-1, -1, c.horizon - ahead.shape[2])], 2)
        return past, mask, ahead

    def _covariates(self, key: str) -> int:
        """How many covariates of a kind it reads."""
        return 0 if self.config.any_channels else len(self.config.past_only if key == "past_covariates" else self.config.exogenous)

    def _frequency(self, batch: Batch) -> Tensor | None:
        """(B,) tokens of the sampling intervals, 0 where they are not told; None for a model that does not read them."""
        if not self.config.resolution_prefix_tuning:
            return None
        frequency = batch.get("frequency")
        if frequency is None:
            return torch.zeros(batch["series"].shape[0], dtype=torch.long, device=self.device)
        # an interval that the model never learned is as good as an unknown one
        return torch.where((frequency >= 0) & (frequency < self.config.frequency_token_vocab_size), frequency, 0).long()

    def _static(self, batch: Batch) -> Tensor | None:
        """(B, S) category numbers; None for a model that does not read them."""
        sizes, static = self.config.categorical_vocab_size_list or (), batch.get("static")
        if not sizes and static is None:
            return None
        if static is None or static.shape[1:] != (len(sizes),):
            raise DataError(f"This TTM reads {len(sizes)} static categories for each series, found {'none' if static is None else tuple(static.shape)}.")
        wrong = (static < 0) | (static >= torch.tensor(sizes, device=static.device)) | (static != static.round())
        if wrong.any():
            sample, which = wrong.nonzero()[0].tolist()
            raise DataError(f"Static category {which} of sample {sample} is {float(static[sample, which]):g}, expected a whole number from 0 to {sizes[which] - 1}.")
        return static
