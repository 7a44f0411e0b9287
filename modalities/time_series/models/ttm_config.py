"""The config of TTM, in the words of the official class (granite-tsfm 0.3.11), so that its config.json reads alike."""

from dataclasses import dataclass
from typing import Literal

from trainer.errors import ConfigError

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
NARROWEST = 4
"""Adaptive patching does not make tokens this narrow: such a level keeps the tokens as they are."""


@dataclass(frozen=True)
class TTMConfig:
    """Sizes and options of TTM R1, R2 and R3. The defaults are the published model of context 512 and horizon 96."""

    context_length: int = 512
    """Points of the past that are read."""
    prediction_length: int = 96
    """Steps of the future that come at once."""
    patch_length: int = 64
    """Points of a patch; patches do not overlap. The oldest points that fill no patch are left out."""
    num_input_channels: int = 1
    """Channels, where they are mixed or chosen: targets, past covariates and covariates known ahead. Otherwise any number is taken."""
    prediction_channel_indices: tuple[int, ...] | None = None
    """Channels that are forecast. Null: all that are not exogenous."""
    exogenous_channel_indices: tuple[int, ...] | None = None
    """Channels that are known for the future (`future_covariates` of a batch)."""
    d_model: int = 192
    """Width of the backbone's tokens."""
    num_layers: int = 2
    """Mixer layers of the backbone, at each level of adaptive patching."""
    adaptive_patching_levels: int = 3
    """Levels of adaptive patching: level i cuts each token in 2^i. 0: plain layers."""
    expansion_factor: int = 2
    """Hidden width of the mixers' MLPs, in widths."""
    dropout: float = 0.2
    """Dropout in the backbone."""
    mode: Literal["common_channel", "mix_channel"] = "common_channel"
    """Whether the backbone mixes channels."""
    gated_attn: bool = True
    """Whether mixers are gated."""
    gate_mode: Literal["softmax", "sigmoid", "glu", "group_sigmoid"] = "softmax"
    """What the gate is."""
    gate_groups: int = 8
    """Groups of features with one gate each, of group_sigmoid: the largest divisor of the width up to this."""
    norm_mlp: Literal["LayerNorm", "BatchNorm"] = "LayerNorm"
    """Norm of the mixers, over features; BatchNorm also over samples and patches."""
    norm_eps: float = 1e-5
    """Epsilon of every norm."""
    self_attn: bool = False
    """Whether patch mixers attend, too."""
    self_attn_heads: int = 1
    """Heads of that attention."""
    use_positional_encoding: bool = False
    """Whether a table of positions is added to the tokens."""
    positional_encoding_type: Literal["random", "sincos"] = "sincos"
    """random: learned. sincos: fixed, scaled to a deviation of 0.1."""
    scaling: Literal["std", "mean", "none"] = "std"
    """What a series is divided by: the deviation from its mean, which is taken off, its mean absolute value, or nothing."""
    minimum_scale: float | None = None
    """Added to the variance of std (null: 1e-5), or least divisor of mean (null: 1e-10)."""
    default_scale: float | None = None
    """Divisor of mean for a series without any value. Null: the mean over the batch."""
    missing: Literal["zero", "mean"] = "zero"
    """What the network reads for a missing value. zero: zero before scaling, as the official code. mean: the mean of its series."""
    resolution_prefix_tuning: bool = False
    """Whether a token that tells the sampling interval goes before the patches."""
    frequency_token_vocab_size: int = 5
    """Number of intervals it knows."""
    use_decoder: bool = True
    """Whether there is a decoder between backbone and head."""
    decoder_d_model: int = 128
    """Width of the decoder's tokens."""
    decoder_num_layers: int = 2
    """Mixer layers of the decoder."""
    decoder_adaptive_patching_levels: int = 0
    """Levels of adaptive patching in the decoder."""
    decoder_mode: Literal["common_channel", "mix_channel"] = "common_channel"
    """Whether the decoder mixes channels."""
    decoder_raw_residual: bool = False
    """Whether the decoder reads the patches themselves, too."""
    categorical_vocab_size_list: tuple[int, ...] | None = None
    """For each static category of a series the number of its values; needs a decoder that mixes channels."""
    head_dropout: float = 0.2
    """Dropout in decoder and head."""
    prediction_filter_length: int | None = None
    """Of the forecast only so many steps are used. Null: all."""
    enable_forecast_channel_mixing: bool = False
    """Whether forecasts of the channels and exogenous values are mixed step by step."""
    fcm_gated_attn: bool = True
    """Whether that mixer is gated."""
    fcm_context_length: int = 1
    """Steps before and after each step that it sees."""
    fcm_use_mixer: bool = False
    """Whether it has mixer layers."""
    fcm_mix_layers: int = 2
    """How many."""
    fcm_prepend_past: bool = True
    """Whether the first steps see the end of the past; otherwise zeros."""
    fcm_scaled: bool = False
    """Whether it reads past and exogenous values on the network's scale; otherwise as they are, as the official code, which wants scaled data."""
    masked_context: bool = False
    """Whether the horizon follows the context in the backbone's input, with the exogenous values known there (the official MaskedPrediction)."""
    mask_value: float = 0.0
    """What stands for the future targets there, before scaling."""
    multi_scale: bool = False
    """R3: whether the series is also read down-sampled by 2, 4, ..., down to one patch."""
    enable_base_norm_always: bool = False
    """R3: whether all tokens are normalised together, as they are with multi_scale."""
    register_tokens: int = 0
    """R3: learned tokens before the patches."""
    fft_length: int = 0
    """R3: tokens that tell so many of the strongest frequencies of the context."""
    use_fft_embedding: bool = True
    """R3: whether frequencies are looked up in a table; otherwise an MLP reads their number."""
    get_one_freq_emb: bool = False
    """R3: one token for all frequencies together."""
    fft_ignore_dc: bool = False
    """R3: leave the mean out of the frequencies."""
    fft_d_freq_min: int = 4
    """R3: least width of a frequency in that one token."""
    fft_d_freq_max: int = 64
    """R3: greatest width."""
    multi_quantile_head: bool = False
    """R3: forecast quantiles."""
    quantile_levels: tuple[float, ...] = LEVELS
    """R3: their probabilities, rising, the median in the middle."""
    mq_hidden: int = 8
    """R3: width of the quantile head."""
    mq_kernel_size: int = 3
    """R3: steps that its convolution sees."""
    mq_eps: float = 1e-6
    """R3: least distance of two quantiles, on the scale of the network."""
    mq_q50_type: Literal["median", "mean"] = "median"
    """R3: whether the quantile head moves the median; mean: it is the head's forecast."""
    mq_use_decoder_pool: bool = False
    """R3: whether the quantile head reads the decoder's tokens, too."""
    mq_cond_path: Literal["pool", "flatten", "steps"] = "pool"
    """R3: their mean, or all of them; steps: all of them, said anew for each step of the horizon (not in the official code), so that quantiles can widen."""
    mq_cond_mode: Literal["add", "concat"] = "add"
    """R3: how they are joined to what the forecast says."""
    mq_decoder_d_model: int = 8
    """R3: width of each token in flatten."""

    def __post_init__(self) -> None:
        counts = ("context_length", "prediction_length", "patch_length", "num_input_channels", "d_model", "expansion_factor", "decoder_d_model", "mq_hidden", "self_attn_heads", "frequency_token_vocab_size")
        for name in counts:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, found {getattr(self, name)}.")
        for name in ("num_layers", "adaptive_patching_levels", "decoder_num_layers", "decoder_adaptive_patching_levels", "fcm_context_length", "fcm_mix_layers", "register_tokens", "fft_length"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, found {getattr(self, name)}.")
        for name in ("dropout", "head_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 0 and below 1, found {getattr(self, name)}.")
        if self.read_length <= self.patch_length:
            raise ConfigError(f"A context of {self.read_length} points must be longer than a patch (patch_length={self.patch_length}).")
        if self.prediction_filter_length is not None and not 1 <= self.prediction_filter_length <= self.prediction_length:
            raise ConfigError(f"prediction_filter_length must be 1 to prediction_length={self.prediction_length} (or null), found {self.prediction_filter_length}.")
        self._check_channels()
        self._check_tokens()
        self._check_quantiles()

    def _check_channels(self) -> None:
        for name in ("prediction_channel_indices", "exogenous_channel_indices"):
            indices = getattr(self, name)
            if indices is not None and (not indices or len(set(indices)) < len(indices) or not 0 <= min(indices) <= max(indices) < self.num_input_channels):
                raise ConfigError(f"{name} must be different numbers of 0 to {self.num_input_channels - 1} (or null), found {list(indices)}.")
            if indices is not None:
                object.__setattr__(self, name, tuple(sorted(indices)))
        both = set(self.prediction_channel_indices or ()) & set(self.exogenous_channel_indices or ())
        if both or not self.targets:
            raise ConfigError(f"Channels are forecast or exogenous, not both, and at least one is forecast; found both for {sorted(both) or 'none, and no channel to forecast'}.")
        if self.categorical_vocab_size_list and not (self.use_decoder and self.decoder_mode == "mix_channel"):
            raise ConfigError("Static categories (categorical_vocab_size_list) need a decoder with decoder_mode=mix_channel.")
        if self.enable_forecast_channel_mixing and self.fcm_context_length == 0 and (self.fcm_use_mixer or not self.fcm_gated_attn):
            raise ConfigError("fcm_context_length=0 needs fcm_gated_attn and no fcm_use_mixer.")
        if self.enable_forecast_channel_mixing and self.fcm_context_length > self.context_length:
            raise ConfigError(f"fcm_context_length must be at most context_length={self.context_length}, found {self.fcm_context_length}.")

    def _check_tokens(self) -> None:
        for width, levels in ((self.d_model, self.adaptive_patching_levels), (self.decoder_d_model, self.decoder_adaptive_patching_levels)):
            wrong = next((i for i in range(levels) if width % patch_factor(width, i)), None)
            if wrong is not None:
                raise ConfigError(f"A width of {width} cannot be cut in {2**wrong} at level {wrong} of adaptive patching.")
        if self.self_attn and self.d_model % self.self_attn_heads:
            raise ConfigError(f"d_model={self.d_model} must be a multiple of self_attn_heads={self.self_attn_heads}.")
        if self.use_positional_encoding and self.positional_encoding_type == "sincos" and self.d_model % 2:
            raise ConfigError(f"The sincos table needs an even d_model, found {self.d_model}.")
        if self.multi_scale and self.masked_context:
            raise ConfigError("multi_scale and masked_context do not go together.")
        if self.decoder_raw_residual and (self.multi_scale or self.register_tokens or self.fft_length):
            raise ConfigError("decoder_raw_residual adds the patches to their tokens, so it does not go with multi_scale, register_tokens or fft_length.")
        if self.fft_length > self.frequencies and not self.get_one_freq_emb:
            raise ConfigError(f"fft_length={self.fft_length} is more than the {self.frequencies} frequencies of a context of {self.context_length}.")

    def _check_quantiles(self) -> None:
        levels = self.quantile_levels
        if list(levels) != sorted(set(levels)) or not levels or not 0 < levels[0] <= levels[-1] < 1 or len(levels) % 2 == 0 or abs(levels[len(levels) // 2] - 0.5) > 1e-9:
            raise ConfigError(f"quantile_levels must rise between 0 and 1 with 0.5 in the middle, found {list(levels)}.")
        if self.multi_quantile_head and self.mq_kernel_size % 2 == 0:
            raise ConfigError(f"mq_kernel_size must be odd, found {self.mq_kernel_size}.")

    @property
    def targets(self) -> tuple[int, ...]:
        """Channels that are forecast."""
        if self.prediction_channel_indices is not None:
            return self.prediction_channel_indices
        return tuple(i for i in range(self.num_input_channels) if i not in (self.exogenous_channel_indices or ()))

    @property
    def exogenous(self) -> tuple[int, ...]:
        """Channels that are known for the future."""
        return self.exogenous_channel_indices or ()

    @property
    def past_only(self) -> tuple[int, ...]:
        """Channels that are neither: known for the past, not forecast."""
        return tuple(i for i in range(self.num_input_channels) if i not in (*self.targets, *self.exogenous))

    @property
    def any_channels(self) -> bool:
        """Whether each channel is forecast by itself, so that a series may have any number of them."""
        chosen = self.prediction_channel_indices is not None or self.exogenous_channel_indices is not None
        return not chosen and not self.enable_forecast_channel_mixing and "mix_channel" not in (self.mode, self.decoder_mode if self.use_decoder else "")

    @property
    def horizon(self) -> int:
        """Steps that come at once."""
        return self.prediction_filter_length or self.prediction_length

    @property
    def read_length(self) -> int:
        """Points that the backbone reads: the context, and the horizon after it with `masked_context`."""
        return self.context_length + (self.horizon if self.masked_context else 0)

    @property
    def frequencies(self) -> int:
        """Bins of the spectrum of a context."""
        return self.context_length // 2 + 1

    @property
    def patches(self) -> int:
        """Patches of the series itself."""
        return self.read_length // self.patch_length

    @property
    def scales(self) -> int:
        """How often the series is read, each time down-sampled by 2 more."""
        return self.patches.bit_length() if self.multi_scale else 1

    @property
    def tokens(self) -> int:
        """All tokens of a channel: patches at every scale, then those put before them."""
        patches = sum(self.patches >> i for i in range(self.scales))
        fft = (1 if self.get_one_freq_emb else self.fft_length) if self.fft_length else 0
        return patches + self.resolution_prefix_tuning + self.register_tokens + fft

    @property
    def out_width(self) -> int:
        """Width of the tokens that the head reads."""
        return self.decoder_d_model if self.use_decoder else self.d_model


def patch_factor(width: int, level: int) -> int:
    """In how many a level of adaptive patching cuts a token of such a width."""
    return 1 if width // 2**level <= NARROWEST else 2**level
