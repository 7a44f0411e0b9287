"""Recomputes golden files of GPHT."""

from collections.abc import Callable

import torch
from torch import Tensor

from modalities.common.golden import Golden, gradients_of, model_of, pick
from modalities.time_series.interop import gpht as interop
from modalities.time_series.models.gpht import GPHT
from modalities.time_series.objectives.forecasting import ForecastingConfig

DEFAULTS = {"n_heads": 8}
"""What the class behind the files takes when their config does not say it and no shape shows it."""


def _gpht(golden: Golden) -> dict[str, Tensor]:
    series = golden.input("x").transpose(1, 2)
    model: GPHT = model_of(golden, interop, {**DEFAULTS, "seq_len": series.shape[2]})
    observed = torch.ones_like(series, dtype=torch.bool)
    found = model.stages(series, observed)
    computed = {"output.output": found.prediction.transpose(1, 2)}
    computed |= {f"output.stage{number}": output.transpose(1, 2) for number, output in enumerate(found.outputs)}
    gradients: dict[str, Tensor] = {}
    if "y_last_token" in golden.inputs:
        target = golden.input("y_last_token").transpose(1, 2)
        batch = {"series": series, "observed": observed, "target": target, "target_observed": torch.ones_like(target, dtype=torch.bool)}
        computed["output.loss"] = ForecastingConfig("mse", units="user").build(model)(batch).loss
        gradients = gradients_of(computed["output.loss"], model)
    if "ar_pred_len" in golden.inputs:
        forecast = model.forecast({"series": series, "observed": observed}, int(golden.input("ar_pred_len")))
        computed["output.ar_forecast"] = forecast.point.transpose(1, 2)
    return pick(computed, golden.expected) | golden.gradients(gradients)


RUNNERS: dict[str, Callable[[Golden], dict[str, Tensor]]] = {"time_series/gpht": _gpht}
