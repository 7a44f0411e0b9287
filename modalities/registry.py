"""Names to models, without importing them.

A modality announces its systems, models and recipes in its `__init__.py` as plain data (`SYSTEMS`,
`MODELS`, `RECIPES`), so that listing names imports neither torch nor the modality's libraries. A class is
imported when it is first asked for.
"""

import fnmatch
import importlib
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from trainer import config
from trainer.errors import ConfigError, MissingDependencyError, UnknownNameError, did_you_mean, shorten

MODALITIES = ("vision", "video", "time_series", "graph")
"""Packages under `modalities/` that offer models. Adding a modality adds its name here, nothing else."""


@dataclass(frozen=True)
class SystemEntry:
    """A kind of model: its class and what a card says of all its sizes."""

    target: str
    """Where the class is: `module:Class`."""
    title: str
    """Name in words."""
    what: str
    """What it is and how it is trained, two or three sentences."""
    paper: str
    """Authors, year, title, arXiv number."""
    citation: str
    """BibTeX."""
    limits: str
    """What it cannot do, what to beware of."""
    pipeline_tag: str
    """The Hub's task name."""
    tags: tuple[str, ...] = ()
    """More words to be found by on the Hub."""
    picture: str = ""
    """Caption of the pictures that training draws."""
    snippet: str = ""
    """Python lines that use the loaded `model`, shown in the card after the line that loads it."""
    tasks: dict[str, str] = field(default_factory=dict)
    """What else its weights can become: task -> the system that does it, as in classification -> vision/mae-vit."""
    headless: dict[str, str] = field(default_factory=dict)
    """What of the above reads otherwise for a model that is stored without its head: field -> text."""
    exports: dict[str, str] = field(default_factory=dict)
    """Other library -> the function that gives a model its form, `module:function` of (model, fields of its objective) -> Export."""
    weights_licence: str | None = None
    """Licence of the weights of the official release, as the Hub names it, when it is not the project's own."""


@dataclass(frozen=True)
class ModelEntry:
    """A registered model: an architecture in one size, perhaps with weights that come with the project."""

    name: str
    """`modality/system-size[-weights]`, as in vision/mae-base."""
    system: str
    """The class it is an instance of, as in vision/mae (a key of SYSTEMS)."""
    summary: str
    """One line for `zoo list`."""
    parameters: int
    """Number of parameters, fixed position tables included (a test compares it with the built model)."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Config fields that differ from the defaults of the system's config class."""
    weights: str | None = None
    """Folder of bundled weights, relative to the modality's package. None: architecture only."""
    official: tuple[str, ...] = ()
    """Where weights of the official release are and how they are loaded or converted, in sentences (Markdown)."""
    words: dict[str, Any] = field(default_factory=dict)
    """What of the system's words reads otherwise for this model: field of SystemEntry -> text (another way of training has another paper)."""

    @property
    def modality(self) -> str:
        """The package it lives in."""
        return self.name.partition("/")[0]

    @property
    def folder(self) -> Path | None:
        """Where the bundled weights lie, or None."""
        return Path(__file__).parent / self.modality / self.weights if self.weights else None


@cache
def entries() -> dict[str, ModelEntry]:
    """All registered models by name, in the order of their modalities."""
    found: dict[str, ModelEntry] = {}
    for modality in MODALITIES:
        found.update({entry.name: entry for entry in importlib.import_module(f"modalities.{modality}").MODELS})
    return found


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """Names of the registered models that match a wildcard ("*mae*") or belong to a modality ("vision").

    `pretrained` keeps those whose weights come with the project.
    """
    if not any(c in pattern for c in "*?["):
        pattern = f"{pattern}/*" if pattern in MODALITIES else f"*{pattern}*"
    return [n for n, e in entries().items() if fnmatch.fnmatch(n, pattern) and (e.weights or not pretrained)]


def find(name: str) -> ModelEntry:
    """The entry of a registered model, or UnknownNameError with the nearest name."""
    if name not in entries():
        raise UnknownNameError(
            f"{name!r} is no model of the zoo.{did_you_mean(name, entries())} `zoo list` shows all names."
        )
    return entries()[name]


@cache
def systems() -> dict[str, SystemEntry]:
    """All systems by name ("vision/mae")."""
    return _collect("SYSTEMS")


def about(system: str, name: str | None) -> SystemEntry:
    """What there is to say of a system and, where `name` is a registered model of it, of that model."""
    entry = entries().get(name or "")
    return replace(systems()[system], **(entry.words if entry is not None and entry.system == system else {}))


@cache
def recipes() -> dict[str, str]:
    """Recipe name -> the function that builds it ("modalities.vision.recipes:mae_base")."""
    return _collect("RECIPES")


def system_class(name: str) -> type:
    """The class of a system; UnknownNameError when a config names none of ours."""
    if name not in systems():
        raise UnknownNameError(
            f"{shorten(name)} is no system of the zoo.{did_you_mean(str(name), systems())} Known: {', '.join(systems())}."
        )
    return load(systems()[name].target)


def config_of(name: str, **changes: Any) -> Any:
    """The config of a registered model, with further fields changed; UnknownNameError with the nearest name."""
    entry = find(name)
    return config.replace(system_class(entry.system).config_class(), {**entry.fields, **changes})


def find_recipe(name: str) -> Any:
    """The recipe (a dataclass tree) registered under a name, or UnknownNameError with the nearest one."""
    if name not in recipes():
        raise UnknownNameError(
            f"{name!r} is no recipe.{did_you_mean(name, recipes())} Recipes: {', '.join(recipes())}."
        )
    return load(recipes()[name])()


def load(target: str) -> Any:
    """Import `module:attribute`. A missing optional library becomes one line that names the extra."""
    module, _, attribute = target.partition(":")
    return getattr(_imported(module), attribute)


def load_task(modality: str, name: str, what: str) -> Any:
    """A function of a modality's `tasks` that not every modality has. ConfigError where it is missing; `what` was asked for, in words."""
    tasks = _imported(f"modalities.{modality}.tasks")
    if not hasattr(tasks, name):
        raise ConfigError(f"{what} is not there for {modality}. Leave it out.")
    return getattr(tasks, name)


def _imported(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("modalities", "trainer", "zoo"):
            raise
        extra = module.split(".")[1] if module.startswith("modalities.") else "all"
        raise MissingDependencyError(
            f"{error.name!r} is not installed, and {module} needs it: pip install 'modality-zoo[{extra}]'."
        ) from error


def _collect(attribute: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for modality in MODALITIES:
        found.update(getattr(importlib.import_module(f"modalities.{modality}"), attribute))
    return found
