"""Recomputes golden files of CE-SSL: the classifier with low-rank updates, one step of semi-supervised training, and what is left when the updates are merged."""

from collections.abc import Callable

import torch
from torch import Tensor

from modalities.common.golden import Golden, gradients_of, model_of, pick
from modalities.common.low_rank import importances
from modalities.time_series.interop import ce_ssl as interop
from modalities.time_series.models.ce_ssl import CESSL
from modalities.time_series.objectives.ecg import ECGClassificationConfig


def _ce_ssl(golden: Golden) -> dict[str, Tensor]:
    model: CESSL = model_of(golden, interop, {})
    computed: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    skip = {name: layer.skip for name, layer in model.updated_layers().items()}
    for layer in model.updated_layers().values():
        layer.skip = 0.0  # the files are made without deactivation, but for the merge
    with torch.no_grad():
        computed["output.logits_eval"] = model({"series": golden.input("ecg").squeeze(2)})
    if "ecg_unlabelled" in golden.inputs:
        objective = ECGClassificationConfig(cutmix=0.0).build(model).train()
        batch = {"series": golden.input("ecg").squeeze(2), "unlabelled": golden.input("ecg_unlabelled").squeeze(2), "label": golden.input("labels")}
        logits = objective.logits(batch)
        loss = objective.loss(logits, batch["label"])
        computed |= {"output.logits_semi_train": logits, "output.loss_semi": loss}
        computed["output.importance"] = torch.stack(list(importances(loss, model, golden.config.get("information", "taylor")).values()))
        gradients = gradients_of(loss, model)
        norm = model.encoder_layers[0].bn1
        computed |= {"output.bn1_running_mean_after": norm.running_mean.clone(), "output.bn1_running_var_after": norm.running_var.clone()}
    for name, layer in model.updated_layers().items():
        layer.skip = skip[name]
    with torch.no_grad():
        computed["output.logits_merged_deactivation"] = model.eval().merged()({"series": golden.input("ecg").squeeze(2)})
    return pick(computed, golden.expected) | golden.gradients(gradients)


RUNNERS: dict[str, Callable[[Golden], dict[str, Tensor]]] = {"time_series/ce_ssl": _ce_ssl}
