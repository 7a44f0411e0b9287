"""Forecasters in the layouts of the libraries that they come from."""

import copy
from pathlib import Path
from typing import Any

import torch

from modalities.common import pretrained
from modalities.common.exporting import Export, Run, quiet, transformers_library
from modalities.time_series.interop import chronos2, chronos_bolt, flowstate, gpht, time_moe, ttm
from modalities.time_series.interop.from_transformers import to_transformers
from modalities.time_series.models.forecaster import Forecaster
from modalities.time_series.models.from_transformers import TransformersForecaster
from modalities.time_series.models.ttm import TTM
from trainer.errors import ModelError
from trainer.files import write_json
from trainer.objective import Batch
from trainer.weights import write_safetensors

WEIGHTS, CONFIG = "model.safetensors", "config.json"
LONGEST = 1024
"""Points of the past on which outputs are compared, at most."""
_INTEROP = {
    "time_series/ttm": ttm, "time_series/flowstate": flowstate, "time_series/chronos-bolt": chronos_bolt, "time_series/chronos-2": chronos2, "time_series/time-moe": time_moe, "time_series/gpht": gpht,
}  # fmt: skip
"""System -> what writes its official layout."""
_PIPELINE = 'from chronos import BaseChronosPipeline\n\npipeline = BaseChronosPipeline.from_pretrained("PLACE")  # of the package chronos-forecasting'
_GRANITE = 'from tsfm_public import {0}\n\nmodel = {0}.from_pretrained("PLACE")  # of the package granite-tsfm; past_values: (B, T, C)'
_USAGE = {
    "time_series/ttm": _GRANITE,
    "time_series/flowstate": _GRANITE,
    "time_series/chronos-bolt": _PIPELINE,
    "time_series/chronos-2": _PIPELINE,
    "time_series/time-moe": 'from time_moe.models.modeling_time_moe import {0}\n\nmodel = {0}.from_pretrained("PLACE")  # of github.com/Time-MoE/Time-MoE',
    "time_series/gpht": f'from safetensors.torch import load_file\n\nstate = load_file("PLACE/{WEIGHTS}")  # for load_state_dict(state, strict=False) of the model of github.com/icantnamemyself/GPHT',
}
"""System -> how its own library opens it; {0} is the class that its config.json names."""


def official_export(model: Forecaster, objective: dict[str, Any]) -> Export:
    """Tensors and config under the names of the official class. ModelError for what that class cannot compute."""
    interop = _INTEROP[model.system]
    state, config = interop.to_official(model), interop.to_official_config(model)

    def write(folder: Path) -> None:
        write_safetensors(state, folder / WEIGHTS)
        write_json(folder / CONFIG, config)

    def load(folder: Path) -> Run:
        back = pretrained.load(folder)
        return lambda batch: forecasts(back, batch)

    usage = _USAGE[model.system].replace("{0}", config.get("architectures", [""])[0])
    checked = "what was written is checked by reading it back here; golden files of the official code say that this reading is right"
    return Export("pytorch", write, load, usage, notes=(checked, *_without_preprocess(model)), expected=lambda batch: forecasts(model, batch), example=lambda samples: example(model, samples))


def transformers_export(model: TransformersForecaster, objective: dict[str, Any]) -> Export:
    """What transformers' own classes load."""
    transformers = transformers_library()
    state, config = to_transformers(model)
    kind = type(model.network)

    def write(folder: Path) -> None:
        write_safetensors(state, folder / WEIGHTS)
        write_json(folder / CONFIG, config)

    def load(folder: Path) -> Run:
        theirs = copy.copy(model)
        with quiet(transformers.logging):
            network, report = kind.from_pretrained(folder, output_loading_info=True, local_files_only=True)
        lacking = {key: sorted(map(str, value)) for key, value in report.items() if value}
        if lacking:
            raise ModelError(f"transformers loads this model only in part: {lacking}.")
        theirs._modules = {**model._modules, "network": network.eval()}
        return lambda batch: forecasts(theirs, batch)

    usage = f'from transformers import {kind.__name__}\n\nmodel = {kind.__name__}.from_pretrained("PLACE")'
    return Export("transformers", write, load, usage, notes=_without_preprocess(model), expected=lambda batch: forecasts(model, batch), example=lambda samples: example(model, samples))


def forecasts(model: Forecaster, batch: Batch) -> dict[str, torch.Tensor]:
    """What a model says of as many steps as it gives at once, by name."""
    said = model.forecast(batch, model.direct_horizon)
    return {"point": said.point} | ({} if said.quantiles is None else {"quantiles": said.quantiles})


def example(model: Forecaster, samples: int) -> Batch:
    """Random walks with gaps, in channels and with covariates as the model reads them."""
    generator = torch.Generator().manual_seed(samples)
    length, channels, past, known = min(model.context_length, LONGEST), model.channels or 2, 0, 0
    if isinstance(model, TTM) and model.channels:
        past, known = len(model.config.past_only), len(model.config.exogenous)
    series = torch.randn(samples, channels, length, generator=generator).cumsum(2)
    batch = {"series": series, "observed": torch.rand(series.shape, generator=generator) > 0.1}
    for key, count, ahead in (("past_covariates", past, 0), ("future_covariates", known, model.direct_horizon)):
        if count:
            batch[key] = torch.randn(samples, count, length + ahead, generator=generator)
    if isinstance(model, TTM) and model.config.categorical_vocab_size_list:
        batch["static"] = torch.stack([torch.randint(0, size, (samples,), generator=generator) for size in model.config.categorical_vocab_size_list], 1)
    return batch


def _without_preprocess(model: Forecaster) -> tuple[str, ...]:
    """What is said of a model whose preprocessing is not the usual one."""
    usual = model.preprocess is None or model.preprocess == model.default_preprocess()
    return () if usual else ("the preprocessing of this model (sampling interval, names of columns) is not part of it",)
