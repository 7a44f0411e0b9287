"""`zoo demo MODALITY`: the whole way once, on data that come with the project, in a few minutes on two cores.

Pre-train a masked auto-encoder without labels; with few labels per class, fine-tune it and, with the same
budget, the same network from scratch; probe frozen features before and after pre-training; compare with raw
pixels; publish with a card; load what was published in a new process and predict a few samples. What differs between modalities is in
`modalities/<name>/demo.py`.
"""

import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from modalities import registry
from modalities.common import pretrained
from modalities.common.demo import Demo
from modalities.common.evaluation import percent, probes, result
from modalities.common.model import Model
from modalities.common.run import ModelRecipe, command, run
from trainer.errors import ConfigError, Interrupted, ZooError
from trainer.evaluation import measure
from trainer.files import read_json, write_json
from zoo.cards import write_card
from zoo.publishing import publish

log = logging.getLogger("zoo")

SEEDS = (0, 1, 2)
SHOWN = "test-samples"
"""Folder of the samples that a new process names."""
PARTS = ("pretrain", "finetune", "published", SHOWN)
PICTURES = ("reconstructions.png", "reconstructions.gif")
RESULTS = "results.json"

HOW = {"logistic regression": "logistic", "5-NN": "knn"}
"""How baselines are measured."""

Values = dict[str, dict[str, list[float]]]


def run_demo(modality: str, folder: Path) -> dict[str, Any]:
    """Run the demo of a modality into `folder` and return the results. A finished demo there is replaced, a stopped one goes on."""
    demo = registry.load(f"modalities.{modality}.demo:DEMO")
    try:
        if isinstance(demo, Demo):
            return _run_demo(demo, folder)
        _prepare(folder, demo.parts, demo.files)
        results = demo.run(folder, _run_or_resume)
        write_json(folder / RESULTS, results)
        return results
    except Interrupted as error:
        raise Interrupted(f"The demo stopped; what is done so far is in {folder}. The same command goes on from there.") from error


def _run_demo(demo: Demo, folder: Path) -> dict[str, Any]:
    began = time.perf_counter()
    _prepare(folder)
    recipe = registry.find_recipe(demo.recipe)
    log.info("1. Pre-training without labels")
    export = _run_or_resume(recipe, folder / "pretrain")
    model = pretrained.load(export)
    values: Values = {k: {} for k in ("probe", "knn", "finetune", *demo.baselines)}
    log.info("2. Frozen features and what they are compared with, %d labels per class, %d seeds", demo.per_class, len(SEEDS))
    for seed in SEEDS:
        _measure_frozen(demo, model, demo.labelled(recipe.data, seed), seed, values)
    log.info("3. Fine-tuning and training from scratch, the same budget")
    fitted: dict[str, list[float]] = {}
    for seed in SEEDS:
        for start in ("pretrained", "scratch"):
            finetune = demo.finetune(str(export), demo.labelled(recipe.data, seed), seed, start == "scratch")
            place = folder / "finetune" / f"{start}-{seed}"
            _run_or_resume(finetune, place)
            record = read_json(place / "record.json")
            values["finetune"].setdefault(start, []).append(next(row["value"] for row in record["evaluations"] if row["metric"] == "accuracy"))
            fitted.setdefault(start, []).append(100 * record["final"]["accuracy"])
    log.info("4. Publishing, and loading back in a new process")
    test = demo.labelled(recipe.data, 0).build_plain(model.preprocess)[1]
    _record_evaluations(demo, folder / "pretrain", values, test)
    demo.draw(model, test, folder / PICTURES[0], demo.caption)
    publish(folder / "pretrain", to=folder / "published" / demo.published)
    classifier = folder / "published" / "classifier"
    publish(folder / "finetune" / "pretrained-0", to=classifier)
    said = _predict_elsewhere(demo, classifier, test, folder / SHOWN)
    seconds = time.perf_counter() - began
    results = {
        kind: {name: {"mean": round(mean(found), 2), "values": found} for name, found in rows.items()} for kind, rows in values.items()
    }
    results["seconds"] = round(seconds, 1)
    write_json(folder / RESULTS, results)
    _show(demo, results, fitted, said, folder)
    return results


def _run_or_resume(recipe: ModelRecipe, place: Path) -> Path:
    """Run a recipe in a folder: from the start, from where it stopped, or not at all when it is done."""
    if (place / "record.json").exists() and (place / "export").is_dir():
        return place / "export"
    return run(recipe, place, resume=(place / "recipe.yaml").exists(), card=write_card)


def _prepare(folder: Path, parts: tuple[str, ...] = PARTS, files: tuple[str, ...] = PICTURES) -> None:
    """Make room: remove a finished demo, keep the runs of a stopped one, touch nothing else."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file. Choose a folder with --to.")
    known = {*parts, *files, RESULTS}
    strange = [p.name for p in folder.iterdir() if p.name not in known] if folder.exists() else []
    if strange:
        raise ConfigError(f"{folder} holds other things than an earlier demo ({', '.join(sorted(strange)[:5])}). Choose another folder with --to.")
    for part in parts if (folder / RESULTS).exists() else ("published", SHOWN):
        shutil.rmtree(folder / part, ignore_errors=True)
    (folder / RESULTS).unlink(missing_ok=True)


def _measure_frozen(demo: Demo, model: Model, data: Any, seed: int, values: Values) -> None:
    """Probe and 5-NN on features of the pre-trained and of a random network, and on what they are compared with."""
    train, test = data.build_plain(model.preprocess)
    torch.manual_seed(seed)
    networks = {"pretrained": model, "scratch": type(model)(model.config)}
    for name, network in networks.items():
        found = measure([demo.frozen(train, test)], demo.objective(network))
        for kind in ("probe", "knn"):
            values[kind].setdefault(name, []).append(percent(found[kind]))
    for name, vectors in demo.baselines.items():
        found = probes(vectors(train), vectors(test))
        values[name].setdefault("logistic", []).append(percent(found["probe"]))
        values[name].setdefault("knn", []).append(percent(found["knn"]))


def _record_evaluations(demo: Demo, run_folder: Path, values: Values, test: Any) -> None:
    """Put the measured results into the record of the pre-training run, for its card."""
    rows = {
        "fine-tuned": values["finetune"]["pretrained"],
        "same network and budget from scratch": values["finetune"]["scratch"],
        "linear probe on frozen features": values["probe"]["pretrained"],
        "5-NN on frozen features": values["knn"]["pretrained"],
        **{f"{how} on {name}": values[name][key] for name in demo.baselines for how, key in HOW.items()},
    }
    record = read_json(run_folder / "record.json")
    details = {f"{what}, {demo.per_class} labels per class, mean of {len(found)} seeds": round(mean(found), 2) for what, found in rows.items()}
    record["evaluations"] = [row for row in record["evaluations"] if row["metric"] == "loss"] + [
        {**result(test, demo.task, "accuracy", value, detail, "%"), "command": command()} for detail, value in details.items()
    ]
    write_json(run_folder / "record.json", record)


def _predict_elsewhere(demo: Demo, classifier: Path, test: Any, folder: Path) -> str:
    """Write a few test samples as files and let a new process load the published classifier and name them."""
    folder.mkdir()
    files = [demo.write(test, i, folder / f"{i}-is-{test.classes[int(test.labels[i])].replace(', ', '-').replace(' ', '-')}") for i in range(4)]
    done = subprocess.run([sys.executable, "-m", "zoo.cli", "predict", str(classifier), *map(str, files)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ZooError(f"The published model did not load in a new process: {done.stderr.strip()}")
    return f"zoo predict {classifier} {folder}/*{files[0].suffix}\n{done.stdout.strip()}"


def _show(demo: Demo, results: dict[str, Any], fitted: dict[str, list[float]], said: str, folder: Path) -> None:
    """The table, and where everything lies."""
    rows = [
        ("fine-tuned, pre-trained", results["finetune"]["pretrained"]),
        ("fine-tuned, from scratch", results["finetune"]["scratch"]),
        ("linear probe, pre-trained features", results["probe"]["pretrained"]),
        ("linear probe, random features", results["probe"]["scratch"]),
        ("5-NN, pre-trained features", results["knn"]["pretrained"]),
        ("5-NN, random features", results["knn"]["scratch"]),
        *((f"{how}, {name}", results[name][key]) for name in demo.baselines for how, key in HOW.items()),
    ]
    best = max(row["mean"] for _, row in rows)
    table = Table(title=f"{demo.title}, {demo.per_class} labels per class: test accuracy in %")
    for heading, justify in (("method", "left"), ("mean", "right"), (f"{len(SEEDS)} seeds", "right")):
        table.add_column(heading, justify=justify)
    for name, row in rows:
        style = "bold" if row["mean"] == best else None
        table.add_row(name, f"{row['mean']:.1f}", "  ".join(f"{v:.1f}" for v in row["values"]), style=style)
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    accuracies = {start: ", ".join(f"{v:.0f}" for v in found) for start, found in fitted.items()}
    console.print(f"Accuracy on the training {demo.samples} at the end: pre-trained {accuracies['pretrained']}; from scratch {accuracies['scratch']} %\n")
    console.print(said)
    console.print(
        f"\n{results['seconds']:.0f} s in all. Everything lies in {folder}:\n"
        "  results.json           the figures of the table\n"
        f"  reconstructions.png    {demo.caption}\n"
        "  pretrain/ finetune/    the runs: recipe, metrics.jsonl, tensorboard, pictures, checkpoints, export\n"
        f"  {SHOWN + '/':<23}the {demo.samples} that a new process named\n"
        "  published/             what would be published: weights, config, preprocessing, card"
    )
