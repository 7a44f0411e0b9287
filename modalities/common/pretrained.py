"""From a name or a folder to a model with its weights, whatever library wrote them."""

import importlib
from pathlib import Path
from typing import Any

from modalities import registry
from modalities.common import hub
from modalities.common.model import INDEX, WEIGHTS, Model, read_weights
from trainer.config import replace
from trainer.errors import CheckpointError, ConfigError, UnknownNameError, did_you_mean
from trainer.files import read_json


def create(name: str, **changes: Any) -> Model:
    """A registered model with random weights. `changes` replace fields of its config (`in_chans=1`).

    Raises UnknownNameError for a name that the zoo does not have and ConfigError for a wrong field.
    """
    entry = registry.find(name)
    cls = registry.system_class(entry.system)
    config = replace(replace(cls.config_class(), entry.fields, name), changes, name)
    model = cls(config)
    model.name, model.preprocess = name, model.default_preprocess()
    return model


def load(source: Path | str, revision: str | None = None) -> Model:
    """A model with weights from a folder (ours, transformers' or timm's layout), by the name of bundled weights or from the Hub."""
    folder = locate(source, revision)
    stored = read_json(folder / "config.json") if (folder / "config.json").exists() else None
    if isinstance(stored, dict) and "format_version" in stored:
        return registry.system_class(stored.get("model")).from_pretrained(folder)
    if not any((folder / name).exists() for name in (WEIGHTS, INDEX)):
        _say_what_is_there(folder)
    state = read_weights(folder)
    for modality in registry.MODALITIES:
        interop = importlib.import_module(f"modalities.{modality}.interop")
        layout = interop.recognise(state.keys(), stored)
        if layout is not None:
            return interop.build(state, stored, layout, str(folder))
    keys = ", ".join(sorted(state)[:5])
    raise CheckpointError(
        f"{folder} is in no layout that the zoo knows (first tensors: {keys}). Expected a folder written by save_pretrained, "
        "or a ViT-MAE checkpoint in the layout of the official code, transformers or timm, with its config.json."
    )


def locate(source: Path | str, revision: str | None = None, weights: bool = True) -> Path:
    """The folder that a name, a path or a Hub id stands for. What is on the Hub is downloaded (with `weights` or without); `revision` is for that alone."""
    folder = Path(source).expanduser()
    asked = None if folder.exists() or str(source) in registry.entries() else hub.hub_id(str(source))
    if asked is not None:
        return hub.fetch(asked[0], revision or asked[1], weights=weights).folder
    if revision is not None:
        raise ConfigError(f"revision={revision!r} is for models of the Hub (namespace/name), and {str(source)!r} is none.")
    if folder.is_dir():
        export = folder / "export"
        return export if (folder / "recipe.yaml").exists() and export.is_dir() else folder
    if str(source) in registry.entries():
        entry = registry.find(str(source))
        if entry.folder is None:
            raise CheckpointError(
                f"{entry.name} names an architecture; no weights come with it. Use zoo.create({entry.name!r}) for random weights, "
                f"give a folder with weights, or one of: {', '.join(registry.list_models(pretrained=True))}."
            )
        return entry.folder
    if folder.exists():
        raise CheckpointError(f"{folder} is a file. Expected the folder with its config.json.")
    hint = did_you_mean(str(source), registry.entries())
    raise UnknownNameError(f"{str(source)!r} is neither a folder nor a model of the zoo or of the Hub.{hint} `zoo list` shows all names.")


def modality_of(source: Path | str) -> str:
    """The modality of the model that a name or folder stands for."""
    if str(source) in registry.entries():
        return registry.find(str(source)).modality
    config = locate(source) / "config.json"
    stored = read_json(config) if config.exists() else None
    system = stored.get("model") if isinstance(stored, dict) else None
    return str(system).partition("/")[0] if system in registry.systems() else load(source).system.partition("/")[0]


def _say_what_is_there(folder: Path) -> None:
    names = sorted(p.name for p in folder.iterdir())
    pickles = [n for n in names if n.endswith((".bin", ".pth", ".pt", ".ckpt"))]
    if pickles:
        raise CheckpointError(
            f"{folder} holds a pickle ({pickles[0]}) and no {WEIGHTS}. A pickle can run code when it is opened and is never loaded here: "
            "save the weights as safetensors first."
        )
    raise CheckpointError(f"{folder} holds no {WEIGHTS} (it holds: {', '.join(names[:8]) or 'nothing'}). Expected a model folder.")
