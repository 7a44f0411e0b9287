"""Checkpoints of granite-tsfm's TinyTimeMixer classes <-> ours. Tensors and most arguments have the same names.

What the config does not say is read from the shapes where they tell it, else it is the official class's default.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from modalities.common.interop import Fields, require_telling
from modalities.common.loading import skeleton
from modalities.common.model import Model
from modalities.common.stored import Description
from modalities.time_series.models.ttm import TTM
from modalities.time_series.models.ttm_config import TTMConfig
from trainer.config import replace
from trainer.errors import CheckpointError, ModelError, did_you_mean, shorten

MODEL_TYPE = "tinytimemixer"
PREDICTION, MASKED, DECOMPOSED = "TinyTimeMixerForPrediction", "TinyTimeMixerForMaskedPrediction", "TinyTimeMixerForDecomposedPrediction"
CLASS_KEY = "_class"
"""Where a golden file says the class, which config.json says under `architectures`."""
DEFAULTS = {
    "context_length": 64, "patch_length": 8, "prediction_length": 16, "d_model": 16, "num_layers": 3, "adaptive_patching_levels": 0,
    "decoder_num_layers": 8, "decoder_d_model": 8,
}  # fmt: skip
"""Arguments of the official class whose defaults are not ours."""
_RENAMED = ("scaling", "norm_mlp", "quantile_levels")
"""Arguments whose values are spelled otherwise."""
_LOSS = ("loss", "quantile", "huber_delta", "point_extra_weight", "penalize_large_width_ratio", "width_penalty_mode")
"""Arguments of training."""
_OURS = ("masked_context", "missing", "fcm_scaled")
"""Our fields that are no official argument."""
_REFUSED = {"use_register_context_gating": False, "mq_use_positional": False, "scaling_dim": 1, "keepdim": True}
"""Arguments that other values of which the official classes themselves cannot use, or that no released model has."""
_WITHOUT_EFFECT = {
    "init_std", "post_init", "init_linear", "init_embed", "distribution_output", "num_parallel_samples", "patch_stride", "patch_last", "init_processing", "num_patches",
    "masked_context_length", "fcm_prepend_past_offset", "light_mode", "decompose", "residual_context_length", "residual_loss_weight", "joint_loss_weight", "forecast_loss_type",
    "combine_quantiles_via_variance", "model_type", "architectures", "transformers_version", "dtype", "torch_dtype", "return_dict", "output_hidden_states", "output_attentions", CLASS_KEY,
}  # fmt: skip
"""Arguments on which no weight and no output of the forecasting classes depends, or that follow from others."""


def recognise(keys: Iterable[str], config: Fields | None) -> str | None:
    """ "official" when the config or the names are those of the official classes, else None."""
    if isinstance(config, dict) and "model_type" in config:
        return "official" if config["model_type"] == MODEL_TYPE else None
    marks = ("backbone.encoder.patcher.", "backbone.encoder.mlp_mixer_encoder.", "head.base_forecast_block.")
    return "official" if sum(any(mark in key for key in keys) for mark in marks) >= 2 else None


def describe(meta: Mapping[str, Tensor], config: Fields | None, layout: str, where: str, preprocessing: Any = None) -> Description:
    """What a file holds, from the arguments in `config` and the shapes of its tensors. Raises CheckpointError."""
    config = dict(config or {})
    kind = _class_of(config, where)
    if kind == DECOMPOSED or any(name.startswith("trend_forecaster.") for name in meta):
        raise CheckpointError(f"{where} holds a {DECOMPOSED}, which is not read here. Expected {PREDICTION} or {MASKED}.")
    return Description("official", TTM.system, fields_of(meta, config, kind == MASKED, where), objective=objective_of(config))


def fields_of(meta: Mapping[str, Tensor], config: Fields, masked: bool, where: str) -> Fields:
    """Our config fields. CheckpointError for arguments that no official class has, or that cannot be read here."""
    known = {field.name for field in dataclasses.fields(TTMConfig)} - set(_OURS)
    for name in config:
        if name not in known | set(_LOSS) | _WITHOUT_EFFECT | _REFUSED.keys() and not name.startswith(("trend_", "_")) and _is_argument(name):
            raise CheckpointError(f"{where}: config.json has {shorten(name)}, no argument of the official class.{did_you_mean(name, known | set(_LOSS))}")
    for name, only in _REFUSED.items():
        if config.get(name, only) != only:
            raise CheckpointError(f"{where}: {name}={shorten(config[name])} in config.json is not read here, only {only}.")
    if config.get("patch_stride", config.get("patch_length")) != config.get("patch_length", config.get("patch_stride")):
        raise CheckpointError(f"{where}: patch_stride must be patch_length, as the official class demands; found {config['patch_stride']} and {config.get('patch_length')}.")
    told = {**_of_shapes(meta, where), **{k: v for k, v in config.items() if k in known}}
    fields = {**DEFAULTS, **told, "masked_context": masked}
    fields["scaling"] = {True: "std", "std": "std", "mean": "mean"}.get(config.get("scaling", "std"), "none")
    fields["norm_mlp"] = "BatchNorm" if "batch" in str(config.get("norm_mlp", "")).lower() else "LayerNorm"
    if config.get("quantile_levels"):
        fields["quantile_levels"] = tuple(sorted(map(float, config["quantile_levels"])))
    return fields


def objective_of(config: Fields) -> Fields:
    """Fields of the forecasting objective with which such a model is trained: on the scale of the data."""
    fields: Fields = {"loss": config.get("loss") or "mse", "units": "user", "huber_delta": float(config.get("huber_delta", 1)), "level": float(config.get("quantile", 0.5))}
    if config.get("multi_quantile_head"):
        width = {"boundary": "outer", "wis": "all"}
        fields |= {"loss": "pinball", "point_weight": float(config.get("point_extra_weight") or 0), "width_weight": float(config.get("penalize_large_width_ratio", 0)),
                   "widths": width.get(str(config.get("width_penalty_mode", "boundary")).lower(), "outer")}  # fmt: skip
    return fields


def to_official(model: Model) -> dict[str, Tensor]:
    """The state dict that the official class loads. ModelError for what that class cannot compute."""
    c = model.config
    own = {
        f"missing={c.missing} (it reads zeros for missing values)": c.missing != "zero" and c.scaling != "none",
        "fcm_scaled (its forecast mixer reads values as they are)": c.fcm_scaled,
        "mq_cond_path=steps (its quantile head is told the same for each step)": c.multi_quantile_head and c.mq_cond_path == "steps",
    }
    for what, found in own.items():
        if found:
            raise ModelError(f"This model was made with {what}, which the official class does not have: it cannot be written in that layout.")
    return dict(model.state_dict())


def to_official_config(model: Model) -> Fields:
    """config.json of the official class for a model."""
    c = model.config
    fields = {f.name: getattr(c, f.name) for f in dataclasses.fields(c) if f.name not in _OURS}
    fields |= {"scaling": None if c.scaling == "none" else c.scaling, "patch_stride": c.patch_length}
    fields = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    for name in ("minimum_scale", "default_scale"):  # the official class asks whether they are there
        if fields[name] is None:
            del fields[name]
    masked = {"masked_context_length": c.read_length, "fcm_prepend_past_offset": c.horizon} if c.masked_context else {}
    return {"model_type": MODEL_TYPE, "architectures": [MASKED if c.masked_context else PREDICTION], **fields, **masked, "loss": "mse"}


def _class_of(config: Fields, where: str) -> str:
    """Name of the official class; the forecasting one where the config does not say it."""
    said = config.get(CLASS_KEY) or (config.get("architectures") or [None])[0]
    if said is None:
        return MASKED if config.get("masked_context_length") is not None else PREDICTION
    if said not in (PREDICTION, MASKED, DECOMPOSED):
        raise CheckpointError(f"{where} holds a {shorten(said)}. Read are {PREDICTION} and {MASKED}.")
    return said


def _is_argument(name: str) -> bool:
    """Whether a field of config.json is one of the model, and not of transformers' base class."""
    return re.fullmatch(r"id2label|label2id|problem_type|tie_word_embeddings|is_.*|chunk_size_feed_forward|use_cache|name_or_path|num_labels|add_cross_attention|.*_token_id", name) is None


def _of_shapes(meta: Mapping[str, Tensor], where: str) -> Fields:
    """Arguments that the shapes tell."""
    first = "backbone.encoder.patcher.projectors.0.weight" if any("patcher.projectors." in name for name in meta) else "backbone.encoder.patcher.weight"
    head = "head.base_forecast_block.weight"
    require_telling(meta, {first: 2, head: 2}, _names(meta), "official", where)
    width, patch = meta[first].shape
    fields: Fields = {"patch_length": patch, "d_model": width, "prediction_length": meta[head].shape[0], "multi_scale": "projectors" in first}
    levels = _count(meta, r"backbone\.encoder\.mlp_mixer_encoder\.mixers\.(\d+)\.mixer_layers\.")
    layers = _count(meta, r"backbone\.encoder\.mlp_mixer_encoder\.mixers\.(?:\d+\.mixer_layers\.)?(\d+)\.\w+_mixer")
    fields |= {"adaptive_patching_levels": levels, "num_layers": layers}
    decoder_levels = _count(meta, r"decoder\.decoder_block\.mixers\.(\d+)\.mixer_layers\.")
    fields |= {"decoder_adaptive_patching_levels": decoder_levels, "decoder_num_layers": _count(meta, r"decoder\.decoder_block\.mixers\.(?:\d+\.mixer_layers\.)?(\d+)\.\w+_mixer")}
    fields["use_decoder"] = any(name.startswith("decoder.") for name in meta)
    adapter = meta.get("decoder.adapter.weight")
    fields["decoder_d_model"] = width if adapter is None else adapter.shape[0]
    for name, key in (("resolution_prefix_tuning", "backbone.encoder.freq_mod."), ("use_positional_encoding", "backbone.encoder.positional_encoder."), ("multi_quantile_head", "multi_quantile_head_block."),
                      ("enable_forecast_channel_mixing", "head.fcm_block."), ("self_attn", ".self_attn_layer."), ("gated_attn", "_mixer.gating_block.")):  # fmt: skip
        fields[name] = any(key in found for found in meta)
    if "backbone.encoder.freq_mod.0.weight" in meta:
        fields["frequency_token_vocab_size"] = meta["backbone.encoder.freq_mod.0.weight"].shape[0]
    if "backbone.encoder.add_tokens.patch_tokens" in meta:
        fields["register_tokens"] = meta["backbone.encoder.add_tokens.patch_tokens"].shape[0]
    prefix = fields["resolution_prefix_tuning"] + fields.get("register_tokens", 0)
    tokens = meta[head].shape[1] // (fields["decoder_d_model"] if fields["use_decoder"] else width)
    if not fields["multi_scale"]:
        fields["context_length"] = max(tokens - prefix, 2) * patch
    return fields


def _count(meta: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the largest number that a pattern finds in the names; 0 without any."""
    return max((int(found[1]) + 1 for name in meta if (found := re.match(pattern, name))), default=0)


def _names(meta: Mapping[str, Tensor]) -> set[str]:
    """Every tensor name of the layout, with 0 for its numbers, for a file whose telling tensors are lost."""
    small = TTMConfig(context_length=16, patch_length=8, prediction_length=8, d_model=8, decoder_d_model=4, num_layers=1, decoder_num_layers=1, adaptive_patching_levels=1)
    several = [{}, {"adaptive_patching_levels": 0}, {"multi_scale": True, "multi_quantile_head": True}, {"resolution_prefix_tuning": True, "use_positional_encoding": True},
               {"register_tokens": 1, "fft_length": 1}, {"enable_forecast_channel_mixing": True, "fcm_use_mixer": True, "decoder_mode": "mix_channel"}]  # fmt: skip
    names = (name for changes in several for name in skeleton(TTM, replace(small, changes), 0, "official").state_dict())
    return {re.sub(r"\d+", "0", name) for name in names}
