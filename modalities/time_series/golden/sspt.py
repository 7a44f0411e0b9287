"""Recomputes golden files of SSPT: the pre-training tasks, the next close, and the loss of stock selection as the authors' code has it."""

from collections.abc import Callable

from torch import Tensor

from modalities.common.golden import Golden, gradients_of, model_of, pick
from modalities.time_series.interop import sspt as interop
from modalities.time_series.models.sspt import SSPT, TASKS
from modalities.time_series.objectives.stocks import StockPretrainingConfig, StockSelectionConfig

DEFAULTS = {"num_heads": 4}
"""What the class behind the files takes when their config does not say it and no shape shows it."""


def _sspt(golden: Golden) -> dict[str, Tensor]:
    model: SSPT = model_of(golden, interop, DEFAULTS)
    series = golden.input("x").transpose(1, 2)
    masked = golden.inputs.get("x_masked", golden.input("x")).transpose(1, 2)
    features = model.pooled(series)
    said = {task: model.said(masked if task == "mask_avg_price" else series, task) for task in model.pretrain_outlayers}
    computed = {"output.features": model.feature_extractor(golden.input("x")), "output.price": model.fc(features)}
    computed |= {f"output.logits.{task}": logits for task, logits in said.items()}
    gradients: dict[str, Tensor] = {}
    labelled = [task for task in said if f"label.{task}" in golden.inputs]
    if labelled:
        weights = {task: golden.config.get("_coef", {}).get(task, 1.0) if task in labelled else 0.0 for task in TASKS}
        objective = StockPretrainingConfig(**weights).build(model)
        keys = {"stock": "stock", "sector": "sector", "mask_avg_price": "mean_price"}
        labels = {keys[task]: golden.input(f"label.{task}") for task in labelled}
        batch = {"series": series, "masked": masked, **{key: label if key == "mean_price" else label.long() for key, label in labels.items()}}
        computed |= {f"output.loss.{task}": loss for task, loss in objective.losses(batch).items()}
        computed["output.loss.pretrain"] = objective(batch).loss
        gradients = gradients_of(computed["output.loss.pretrain"], model)
    if "price_label" in golden.inputs:
        price, valid = golden.input("price_label")[None], golden.input("stock_mask").bool()[None]
        selection = StockSelectionConfig(golden.config.get("_loss_alpha", 5.0), "coded", "none").build(model)
        regression, ranking = selection.terms(computed["output.price"][None, :, 0], price, valid)
        computed |= {"output.finetune.reg_loss": regression, "output.finetune.rank_loss": ranking}
        computed["output.finetune.loss"] = regression + selection.config.ranking_weight * ranking
    return pick(computed, golden.expected) | golden.gradients(gradients)


RUNNERS: dict[str, Callable[[Golden], dict[str, Tensor]]] = {"time_series/sspt": _sspt}
