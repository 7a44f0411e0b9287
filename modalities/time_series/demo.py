"""The demo of time series: pre-training on generated series, zero-shot forecasts of real ones, fine-tuning against training from scratch."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modalities import registry
from modalities.common import pretrained
from modalities.common.demo import OwnDemo
from modalities.common.run import ModelRecipe
from modalities.time_series.evaluation import evaluate_set, from_model
from modalities.time_series.finetune import FinetuneRecipe, default_recipe
from modalities.time_series.metrics import geometric_mean
from modalities.time_series.models.forecaster import Forecaster
from modalities.time_series.pictures import Panel, draw_forecasts
from modalities.time_series.real import NAME, real_sets
from modalities.time_series.scoreboard import as_json, overall, table
from modalities.time_series.series import SeriesSet
from trainer.config import replace
from trainer.files import read_json, write_json

log = logging.getLogger("zoo")

BUNDLED, PRETRAINING = "time_series/ttm-tiny-synth", "time_series/ttm-tiny"
TUNED = {"electricity_victoria": 48, "elnino": 12, "co2": 8}
"""Real sets that are fine-tuned on, and steps ahead."""
SHOWN = ("electricity_victoria", "elnino", "co2", "sunspots", "elec_equip", "macrodata")
"""Real sets of which one forecast is drawn."""
PARTS = ("pretrain", "finetune")
FILES = ("zero-shot.json", "forecasts.png")


def run(folder: Path, train: Callable[[ModelRecipe, Path], Path]) -> dict[str, Any]:
    """The whole demo into a folder; returns the results. See `OwnDemo`."""
    began = time.perf_counter()
    log.info("1. Pre-training on generated series")
    minute = train(registry.find_recipe(PRETRAINING), folder / PARTS[0])
    log.info("2. Zero-shot on real series, which no model here has seen")
    sets = real_sets()
    models = {"bundled": pretrained.load(BUNDLED), "a minute": pretrained.load(minute)}
    scores = [evaluate_set(data, {name: from_model(model) for name, model in models.items()}) for data in sets]
    write_json(folder / FILES[0], as_json(scores))
    log.info("3. Fine-tuning and training from scratch, the same budget")
    errors: dict[str, dict[str, float]] = {}
    for name, horizon in TUNED.items():
        for start in ("fine-tuned", "from scratch"):
            place = folder / PARTS[1] / f"{name}-{start.replace(' ', '-')}"
            train(tuning(name, horizon, start == "from scratch"), place)
            last = next(row for row in read_json(place / "record.json")["evaluations"] if row["metric"] == "relative_mae")
            found = errors.setdefault(name, {})
            found[start] = last["value"]
            if start == "fine-tuned":
                found["zero-shot"] = last["before"]
    draw(models["bundled"], [data for data in sets if data.name in SHOWN], folder / FILES[1])
    means = {start: geometric_mean([found[start] for found in errors.values()]) for start in ("zero-shot", "fine-tuned", "from scratch")}
    print(f"\nZero-shot: the error of each model beside that of seasonal naive\n{table(scores)}\n\n{in_words(errors, means)}\n\nPictures: {folder / FILES[1]}. All scores: {folder / FILES[0]}.")
    return {"zero_shot": overall(scores), "finetune": {**errors, "geometric mean": means}, "seconds": round(time.perf_counter() - began, 1)}


def tuning(name: str, horizon: int, scratch: bool) -> FinetuneRecipe:
    """Fine-tuning of the bundled model on a built-in set; the same budget and settings from scratch."""
    changes = {"horizon": horizon, "scratch": scratch, "train.steps": 100, "train.evaluate.every": 20, "train.pictures": 1, "train.log_every": 50}
    return replace(default_recipe(BUNDLED, "linear", f"{NAME}:{name}"), {**changes, "train.optim.lr": 1e-3 if scratch else 3e-4})


def in_words(errors: dict[str, dict[str, float]], means: dict[str, float]) -> str:
    """A table of the errors on the test part of each set that was fine-tuned on."""
    lines = [f"{'Mean absolute error on the last fifth, over that of repeating the last value':<78}{'zero-shot':>12}{'fine-tuned':>12}{'from scratch':>14}"]
    for name, found in {**errors, "geometric mean": means}.items():
        lines.append(f"{name:<78}{found['zero-shot']:>12.3f}{found['fine-tuned']:>12.3f}{found['from scratch']:>14.3f}")
    return "\n".join(lines)


def draw(model: Forecaster, sets: list[SeriesSet], path: Path) -> None:
    """The last steps of the first channel of each set: what the model says, and what happened."""
    panels = []
    for data in sets:
        item, ahead = data.items[0], data.steps_ahead
        history, truth = item.values[:1, :-ahead], item.values[0, -ahead:]
        said = model.forecast(model.preprocess({"series": history, "frequency": item.frequency}), ahead)
        quantiles = None if said.quantiles is None else said.quantiles[0, :, 0].numpy()
        panels.append(Panel(data.name, history[0], said.point[0, 0].numpy(), quantiles, said.levels, truth, item.times))
    draw_forecasts(panels, path, "Zero-shot forecasts of real series", residuals=True)


DEMO = OwnDemo(run, PARTS, FILES)
