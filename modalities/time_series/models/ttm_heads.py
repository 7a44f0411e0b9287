"""The heads of TTM: forecasts mixed with exogenous values, and quantiles."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.time_series.models.ttm_config import TTMConfig
from modalities.time_series.models.ttm_layers import Gate, Mixers, Sizes


class ForecastMixer(nn.Module):
    """Corrects the forecast of each step from those of all channels around it, and from exogenous values known ahead.

    The forecasts are on the network's scale; past and exogenous values are the raw ones, as in the official code: scale such data first.
    """

    def __init__(self, config: TTMConfig) -> None:
        super().__init__()
        self.config = config
        channels, window = len(config.targets) + len(config.exogenous), 2 * config.fcm_context_length + 1
        width = 2 * window if config.fcm_use_mixer else window
        if config.fcm_use_mixer:  # the channels take the place of patches
            self.exog_mixer = Mixers(Sizes(config, channels, width, config.fcm_mix_layers, config.head_dropout, config.fcm_gated_attn))
            self.fcm_embedding = nn.Linear(window, width)
        self.mlp = nn.Linear(channels * width, len(config.targets))
        if config.fcm_gated_attn:
            self.fcm_gating_block = Gate(config, channels * width)

    def forward(self, forecast: Tensor, past: Tensor, exogenous: Tensor) -> Tensor:
        """(B, C, H) forecast, (B, C + E, c) the raw past just before it, (B, E, H) raw -> (B, C, H)."""
        around = self.config.fcm_context_length
        rows = torch.cat([forecast, exogenous.to(forecast)], 1)
        if around:
            before = past if self.config.fcm_prepend_past else torch.zeros_like(past)
            rows = torch.cat([before.to(forecast), rows, rows.new_zeros(*rows.shape[:2], around)], 2)
        rows = rows.unfold(2, 2 * around + 1, 1).transpose(1, 2)  # (B, H, C + E, window)
        if self.config.fcm_use_mixer:
            rows = self.exog_mixer(self.fcm_embedding(rows))
        rows = rows.flatten(2)
        rows = self.fcm_gating_block(rows) if self.config.fcm_gated_attn else rows
        return forecast + self.mlp(rows).transpose(1, 2)


class QuantileHead(nn.Module):
    """Quantiles around a point forecast, rising by construction: positive distances are added up outwards from the median."""

    def __init__(self, config: TTMConfig) -> None:
        super().__init__()
        hidden = config.mq_hidden
        self.config, self.side = config, len(config.quantile_levels) // 2
        self.dw = nn.Conv1d(1, 1, config.mq_kernel_size, padding=config.mq_kernel_size // 2)
        self.inorm = nn.InstanceNorm1d(1, affine=True)
        self.pw1 = nn.Conv1d(1, hidden, 1)
        if config.mq_use_decoder_pool and config.mq_cond_path == "pool":
            self.dec_proj = nn.Linear(config.out_width, hidden)
        elif config.mq_use_decoder_pool:
            self.dec_tok_proj = nn.Linear(config.out_width, config.mq_decoder_d_model)
            steps = config.prediction_length if config.mq_cond_path == "steps" else 1
            self.dec_flat_to_hidden = nn.Linear(config.tokens * config.mq_decoder_d_model, hidden * steps)
        joined = config.mq_use_decoder_pool and config.mq_cond_mode == "concat"
        self.pw2 = nn.Conv1d(2 * hidden if joined else hidden, len(config.quantile_levels), 1)

    def forward(self, forecast: Tensor, tokens: Tensor) -> Tensor:
        """(B, C, H) forecast and (B, C, P, D) what the decoder said -> (B, Q, C, H)."""
        rows = forecast.flatten(0, 1)[:, None]  # (B C, 1, H)
        said = self.dw(rows)
        # the mean over a horizon of one step is that step itself: torch refuses it in training
        said = F.instance_norm(said, weight=self.inorm.weight, bias=self.inorm.bias, eps=self.inorm.eps) if rows.shape[2] > 1 else torch.zeros_like(said) + self.inorm.bias[:, None]
        said = F.gelu(self.pw1(said))
        if self.config.mq_use_decoder_pool:
            condition = self._condition(tokens)[..., : rows.shape[2]]
            said = said + condition if self.config.mq_cond_mode == "add" else torch.cat([said, condition.expand(-1, -1, rows.shape[2])], 1)
        shift, rest = self.pw2(said).split([1, 2 * self.side], 1)
        distances = F.softplus(rest) + self.config.mq_eps
        median = rows + shift if self.config.mq_q50_type == "median" else rows
        down, up = (part.cumsum(1) for part in distances.split(self.side, 1))
        quantiles = torch.cat([(median - down).flip(1), median, median + up], 1)  # (B C, Q, H)
        return quantiles.unflatten(0, forecast.shape[:2]).transpose(1, 2)

    def _condition(self, tokens: Tensor) -> Tensor:
        """(B C, hidden, 1), or (B C, hidden, steps)."""
        if self.config.mq_cond_path == "pool":
            return self.dec_proj(tokens.mean(2)).flatten(0, 1)[..., None]
        return self.dec_flat_to_hidden(self.dec_tok_proj(tokens).flatten(2)).flatten(0, 1).unflatten(1, (self.config.mq_hidden, -1))
