"""From a name, a folder or a file to a model with its weights, whatever library wrote them."""

import importlib
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modalities import registry
from modalities.common import hub
from modalities.common.load_report import Row
from modalities.common.loading import DTYPES, Placement, Search, Weights, load_model, skeleton
from modalities.common.model import Model
from modalities.common.preprocess import Preprocess
from modalities.common.stored import CONFIG, Description, InMemory, Stored, Without, check_config, licence_of_card
from trainer import config as configs
from trainer.errors import CheckpointError, ConfigError, UnknownNameError, did_you_mean, shorten

log = logging.getLogger("zoo")


@dataclass(frozen=True)
class Wish:
    """How the model that is loaded shall differ from the one that was stored."""

    task: str | None = None
    """What the model shall do, as its system names it ("classification"). None: what it was stored for."""
    num_outputs: int | None = None
    """Outputs of a new head for the task. None: the head of the checkpoint."""
    changes: Mapping[str, Any] | None = None
    """Fields of the config with other values (input_size, in_chans, ...)."""
    placement: Placement = Placement()
    """Type and device of the weights."""
    size: str | None = None
    """A part of the model, as its system names it ("small", "384_12"). None: the whole."""


def create(name: str, **changes: Any) -> Model:
    """A registered model with random weights. `changes` replace fields of its config (`in_chans=1`).

    Raises UnknownNameError for a name that the zoo does not have and ConfigError for a wrong field.
    """
    entry = registry.find(name)
    cls = registry.system_class(entry.system)
    config = configs.replace(configs.replace(cls.config_class(), entry.fields, name), changes, name)
    model = cls(config)
    model.name, model.preprocess = name, model.default_preprocess()
    return model


def load(
    source: Path | str,
    revision: str | None = None,
    *,
    system: str | None = None,
    task: str | None = None,
    num_outputs: int | None = None,
    size: str | None = None,
    input_size: int | tuple[int, ...] | None = None,
    in_chans: int | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    allow_nonfinite: bool = False,
    **changes: Any,
) -> Model:
    """A model with weights; `zoo.from_pretrained` says what it takes. `system`: the only system that is accepted."""
    given = {"input_size": input_size, "in_chans": in_chans}
    changes |= {name: value for name, value in given.items() if value is not None}
    wish = Wish(task, num_outputs, changes, placement(dtype, device, allow_nonfinite), size)
    stored = Stored.open(locate(source, revision))
    if not stored.is_ours:
        described = recognise(stored.weights.meta, stored.config, str(stored.path), stored.preprocessing)
        _require_system(described.system, system, stored.path)
        model = assemble(described, stored.weights, str(stored.path), wish)
        model.licence = model.licence or licence_of_card(stored.folder)
    else:
        config = check_config(stored.config, str(stored.folder / CONFIG))
        registry.system_class(config["model"])
        _require_system(config["model"], system, stored.path)
        described = Description("modality-zoo", config["model"], config["config"])
        preprocess = None if stored.preprocessing is None else Preprocess.from_values(stored.preprocessing, f"The preprocessing of {stored.path}")
        model = assemble(described, stored.weights, str(stored.path), wish, preprocess)
        model.name = config.get("name") if task is None and size is None else None
        model.licence = config.get("licence")
    facts = {"source": str(source), "path": str(stored.path), "loaded": datetime.now(UTC).isoformat(timespec="seconds")}
    snapshot = hub.origin(stored.folder)
    if snapshot is not None:
        facts |= {"repo": snapshot.repo_id, "revision": snapshot.commit, "date": snapshot.date}
    model.load_report = replace(model.load_report, **facts)
    log.debug("%s", model.load_report)
    return model


def recognise(meta: Mapping[str, Tensor], config: Any, where: str, preprocessing: Any = None) -> Description:
    """What the tensors, the config and the preprocessing of another library are. CheckpointError when no modality knows them."""
    for modality in registry.MODALITIES:
        for interop in importlib.import_module(f"modalities.{modality}.interop").MODULES:
            layout = interop.recognise(meta.keys(), config)
            if layout is not None:
                return interop.describe(meta, config, layout, where, preprocessing)
    keys = ", ".join(shorten(name) for name in sorted(meta)[:5])
    raise CheckpointError(
        f"{where} is in no layout that the zoo knows (first tensors: {keys}). Expected a folder written by save_pretrained, "
        "or a ViT-MAE or VideoMAE checkpoint in the layout of the official code, transformers or (images) timm, with its config.json."
    )


def from_tensors(state: Mapping[str, Tensor], config: Any, where: str, layout: str | None = None, preprocessing: Any = None) -> Model:
    """A model from tensors in memory in another library's layout: `layout`, or the one that names and config show."""
    weights = InMemory(state)
    described = recognise(weights.meta, config, where, preprocessing)
    if layout is not None and described.layout.partition("-")[0] != layout:
        raise CheckpointError(f"{where} is in the {described.layout} layout by its tensors and config, not in the {layout} layout.")
    return assemble(described, weights, where)


def assemble(described: Description, weights: Weights, where: str, wish: Wish = Wish(), preprocess: Preprocess | None = None) -> Model:
    """The model that `described` says, from `weights`, changed as wished, with its preprocessing and load report."""
    cls = registry.system_class(described.system)
    old = configs.from_dict(cls.config_class, described.fields, where)
    target, new = _wished(cls, old, wish, where)
    new_head = wish.num_outputs is not None
    left = [Row("unused", cls.part_of(n), None, None, (n,), (tuple(weights.meta[n].shape),), why) for n, why in described.ignored.items()]
    weights = Without(weights, described.ignored) if left else weights
    with Search(weights) if not wish.placement.allow_nonfinite else nullcontext() as search:
        source = model = skeleton(cls, old, len(weights.meta), where)
        if (target, new) != (cls, old) or new_head:
            model = skeleton(target, new, len(weights.meta), where)
        load_model(model, source, weights, where, described.names, wish.placement, described.layout, new_head, search)
    if described.layout != "modality-zoo":
        usual = source.default_preprocess()
        preprocess = usual and configs.replace(usual, described.preprocess, where)
        model.licence = registry.systems()[described.system].weights_licence if described.layout == "official" else None
    before, after = configs.leaves(old), configs.leaves(new)
    notes = [f"{name}: {before[name]} in the checkpoint, {after[name]} here" for name in after if name in before and before[name] != after[name]]
    if preprocess is not None:
        source.require_preprocess(preprocess, where)
        model.preprocess = model.taken_preprocess(source, preprocess)
        if model.preprocess is None:
            notes.append(f"preprocessing: none for inputs of {model.input_shape()}; normalise them yourself as the checkpoint's {preprocess}")
    model.load_report = replace(model.load_report, rows=(*model.load_report.rows, *left), notes=(*model.load_report.notes, *notes))
    return model


def placement(dtype: torch.dtype | str | None, device: torch.device | str | None, allow_nonfinite: bool = False) -> Placement:
    """The options `dtype`, `device` and `allow_nonfinite`, checked. ConfigError for a type or a device that cannot be had."""
    wanted = DTYPES.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if dtype not in (None, "auto") and wanted not in DTYPES.values():
        raise ConfigError(f"dtype must be None, 'auto' (as stored) or one of {', '.join(DTYPES)}, found {shorten(dtype)}.")
    try:
        place = torch.device("cpu" if device is None else device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:  # AssertionError: torch without CUDA
        raise ConfigError(f"device={device!r} cannot be used here: {str(error).splitlines()[0]} Leave it out for the CPU.") from error
    if place.type == "meta":
        raise ConfigError("The device 'meta' holds no weights. Use `with torch.device('meta'): zoo.create(name)` for a model without memory.")
    return Placement(None if dtype == "auto" else wanted, dtype == "auto", place, allow_nonfinite)


def locate(source: Path | str, revision: str | None = None, weights: bool = True) -> Path:
    """The folder or weight file that a name, a path or a Hub id stands for. What is on the Hub is downloaded (with `weights` or without); `revision` is for that alone."""
    path = Path(source).expanduser()
    asked = None if _exists(path) or str(source) in registry.entries() else hub.hub_id(str(source))
    if asked is not None:
        return hub.fetch(asked[0], revision or asked[1], weights=weights).folder
    if revision is not None:
        raise ConfigError(f"revision={revision!r} is for models of the Hub (namespace/name), and {str(source)!r} is none.")
    if _exists(path) and path.is_dir():
        export = path / "export"
        return export if (path / "recipe.yaml").exists() and export.is_dir() else path
    if str(source) in registry.entries():
        entry = registry.find(str(source))
        if entry.folder is None:
            raise CheckpointError(
                f"{entry.name} names an architecture; no weights come with it. Use zoo.create({entry.name!r}) for random weights, "
                f"give a folder with weights, or one of: {', '.join(registry.list_models(pretrained=True))}."
            )
        return entry.folder
    if _exists(path):
        if path.suffix == ".json":
            raise CheckpointError(f"{path} is a file without weights. Give its folder, or the .safetensors file.")
        return path
    hint = did_you_mean(str(source), registry.entries())
    raise UnknownNameError(f"{shorten(str(source), 200)} is neither a folder nor a model of the zoo or of the Hub.{hint} `zoo list` shows all names.")


def modality_of(source: Path | str) -> str:
    """The modality of the model that a name, folder or file stands for. No weights are read."""
    if str(source) in registry.entries():
        return registry.find(str(source)).modality
    stored = Stored.open(locate(source))
    if stored.is_ours:
        system = check_config(stored.config, str(stored.folder / CONFIG))["model"]
        registry.system_class(system)
    else:
        system = recognise(stored.weights.meta, stored.config, str(stored.path)).system
    return system.partition("/")[0]


def _wished(cls: type[Model], config: Any, wish: Wish, where: str) -> tuple[type[Model], Any]:
    """Class and config of the model that is asked for, given those of the checkpoint."""
    changes = dict(wish.changes or {})
    if wish.size is not None:
        cls, config = cls.sub_model(config, wish.size)
    if wish.task is None:
        if wish.num_outputs is not None:
            raise ConfigError(f"num_outputs={wish.num_outputs} needs the task that the new head is for, as in task='classification'.")
        return cls, configs.replace(config, changes, where)
    tasks = registry.systems()[cls.system].tasks
    if wish.task not in tasks:
        raise ConfigError(f"A {cls.system} is not made for the task {wish.task!r}.{did_you_mean(str(wish.task), tasks)} Tasks: {', '.join(tasks) or 'none'}.")
    target = registry.system_class(tasks[wish.task])
    return target, target.for_task(wish.task, config, wish.num_outputs, changes)


def _require_system(found: str, wanted: str | None, path: Path) -> None:
    if wanted is not None and found != wanted:
        raise CheckpointError(f"{path} holds a {found}, not a {wanted}. Load it with zoo.from_pretrained.")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long for the file system
        return False
