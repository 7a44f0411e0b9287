"""What lies in a model folder or a single weight file: its config, its preprocessing and its tensors, checked but not yet read."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import ModelCard
from torch import Tensor

from modalities.common.loading import Names, Weights, own_name
from modalities.common.preprocess import FILE as PREPROCESSING
from trainer.errors import CheckpointError, shorten
from trainer.files import open_regular, parse_json, read_json
from trainer.tensor_file import TensorFile, is_finite

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
ORIGIN = "origin.json"
"""How the weights were made, for the card."""
FORMAT_VERSION = 1
CARD_LIMIT = 2**20
"""Bytes of a card that are read."""
UNKNOWN = "unknown"
"""The Hub's word for weights whose licence nobody stated."""
PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl", ".pickle")
"""Endings of files that may run code when they are opened."""


@dataclass(frozen=True)
class Description:
    """What a checkpoint holds: the interop module of a modality says it of other libraries' layouts."""

    layout: str
    """Whose names the file uses."""
    system: str
    """The system that it is, as registered ("vision/mae")."""
    fields: dict[str, Any]
    """Fields of that system's config."""
    names: Names = own_name
    """Name in our model -> name or names in the file."""
    objective: dict[str, Any] = field(default_factory=dict)
    """Fields of the objective that it was trained with, where the file says them."""
    preprocess: dict[str, Any] = field(default_factory=dict)
    """Fields in which its preprocessing differs from the usual one."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Tensors of the file that are no weights -> why they are left out, for the report."""


class Without:
    """Weights but for some tensors, as `loading.Weights`."""

    def __init__(self, weights: Weights, ignored: Collection[str]) -> None:
        self.read, self.forget, self.searches = weights.read, weights.forget, weights.searches
        self.meta = {name: tensor for name, tensor in weights.meta.items() if name not in ignored}


class InMemory:
    """Tensors that are in memory already, as `loading.Weights`."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._state = state
        self.meta = {name: tensor.to("meta") for name, tensor in state.items()}

    def read(self, name: str) -> Tensor:
        """The tensor itself, no copy."""
        return self._state[name]

    def forget(self, name: str) -> None:
        """It belongs to the caller."""

    def searches(self) -> list[Callable[[], list[str]]]:
        """One function that names the tensors with NaN or infinity."""
        return [lambda: [name for name, tensor in self._state.items() if not is_finite(tensor)]]


class InFiles:
    """The tensors of one safetensors file or of several shards, as `loading.Weights`; views of the files' memory maps."""

    def __init__(self, paths: list[Path]) -> None:
        """Open and check the files. CheckpointError when one is bad or two hold a tensor of the same name."""
        self.files = [TensorFile(path) for path in paths]
        self._owner: dict[str, TensorFile] = {}
        for file in self.files:
            for name in sorted(file.entries, key=lambda name: file.entries[name].begin):
                if name in self._owner:
                    raise CheckpointError(f"{file.path} and {self._owner[name].path} both hold {shorten(name)}. Fetch or export the shards again.")
                self._owner[name] = file
        self.meta = {n: torch.empty(f.entries[n].shape, dtype=f.entries[n].dtype, device="meta") for n, f in self._owner.items()}

    def read(self, name: str) -> Tensor:
        """A view of the file."""
        return self._owner[name].tensor(name)

    def forget(self, name: str) -> None:
        """Release its pages."""
        self._owner[name].forget(name)

    def searches(self) -> list[Callable[[], list[str]]]:
        """Functions that name the tensors with NaN or infinity in parts of the files."""
        return [search for file in self.files for search in file.searches()]

    def file_of(self, name: str) -> str | None:
        """The name of the file that holds a tensor."""
        return self._owner[name].path.name if name in self._owner else None


@dataclass(frozen=True)
class Stored:
    """A model folder or weight file."""

    path: Path
    """The folder or the file."""
    config: Any
    """config.json, or what the metadata of a single file says; None when there is none."""
    weights: InFiles
    """The tensors."""
    preprocessing: Any
    """preprocessor_config.json, or what the metadata of a single file says; None when there is none."""

    @property
    def folder(self) -> Path:
        """The folder it lies in."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def is_ours(self) -> bool:
        """Whether it was written by `save_pretrained`."""
        return isinstance(self.config, dict) and "format_version" in self.config

    @classmethod
    def open(cls, path: Path) -> "Stored":
        """Open a folder or a single safetensors file. The config lies beside the weights, or in the metadata of a single file.

        CheckpointError says what is wrong.
        """
        if path.is_dir():
            if not (path / WEIGHTS).exists() and not (path / INDEX).exists():
                raise CheckpointError(_what_is_there(path))
            folder, weights = path, _weights(path)
        elif path.suffix in PICKLES:
            raise CheckpointError(f"{path} is a pickle by its name, which can run code when it is opened and is never loaded here. {_CONVERT}")
        else:
            folder, weights = path.parent, InFiles([path])
        if (folder / CONFIG).exists() or len(weights.files) > 1:
            return cls(path, beside(folder, CONFIG), weights, beside(folder, PREPROCESSING))
        said = weights.files[0].metadata
        inside = {key: parse_json(said[key].encode(), f"The {key} in the metadata of {path}") for key in ("config", "preprocess") if key in said}
        return cls(path, inside.get("config"), weights, inside.get("preprocess"))


def check_config(values: Any, where: str) -> dict[str, Any]:
    """Our config.json, checked for its outer form: model, config, format_version, and name and licence, which may be absent."""
    if not isinstance(values, dict) or not {"model", "config", "format_version"} <= values.keys():
        raise CheckpointError(f"{where} is not a config of modality-zoo: it needs the fields model, config and format_version.")
    if values["format_version"] != FORMAT_VERSION or type(values["format_version"]) is not int:
        raise CheckpointError(
            f"{where} has format version {shorten(values['format_version'])}; this version of modality-zoo reads {FORMAT_VERSION}. Update modality-zoo."
        )
    if not isinstance(values["model"], str) or not isinstance(values["config"], dict):
        raise CheckpointError(f"{where} must give the name of a system as model and a mapping as config, found {shorten(values['model'])}.")
    for key in ("name", "licence"):
        text = values.get(key)
        if text is not None and not (isinstance(text, str) and len(text) <= 200 and text.isprintable()):
            raise CheckpointError(f"{where} must give its {key} as one line of text, found {shorten(text)}.")
    return values


def _weights(folder: Path) -> InFiles:
    """The weights of a folder, from one file or from shards; the index must tell the truth about every shard."""
    if not (folder / INDEX).exists():
        return InFiles([folder / WEIGHTS])
    index = read_json(folder / INDEX)
    place = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(place, dict) or not place or not all(isinstance(file, str) for file in place.values()):
        raise CheckpointError(f"{folder / INDEX} must hold a weight_map from tensor names to file names, found {shorten(place)}.")
    files = sorted(set(place.values()))
    strange = [file for file in files if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,200}\.safetensors", file)]
    if strange:
        raise CheckpointError(f"{folder / INDEX} must name plain .safetensors files beside it, found {shorten(strange[0])}. Do not use this folder: no tool writes such names.")
    if (folder / WEIGHTS).exists() and WEIGHTS not in files:
        raise CheckpointError(f"{folder} holds both {WEIGHTS} and {INDEX} for other files. Remove the one that is out of date.")
    weights = InFiles([folder / file for file in files])
    wrong = sorted(name for name in place.keys() | weights.meta.keys() if weights.file_of(name) != place.get(name))
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"{folder / INDEX} does not agree with the shards about {len(wrong)} tensor(s): {shorten(name)} should be in {place.get(name) or 'no file'} "
            f"and is in {weights.file_of(name) or 'none'}. Fetch or export the folder again."
        )
    return weights


def require_place(target: Path) -> None:
    """Raise CheckpointError when a model folder written to `target` would replace something else than a model."""
    if target.is_dir() and any(target.iterdir()) and not (target / CONFIG).exists():
        raise CheckpointError(f"{target} holds other files and no model. Choose an empty or new folder.")


def beside(folder: Path, name: str) -> Any:
    """A JSON file of the folder; None when there is none."""
    return read_json(folder / name) if (folder / name).exists() else None


def licence_of_card(folder: Path) -> str:
    """The licence that the card of another library's model states; "unknown" when there is none to be read."""
    try:
        with open_regular(folder / "README.md") as file:
            licence = ModelCard(file.read(CARD_LIMIT).decode("utf-8"), ignore_metadata_errors=True).data.license
    except (CheckpointError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
        return UNKNOWN
    return licence if isinstance(licence, str) and len(licence) <= 200 and licence.isprintable() else UNKNOWN


_CONVERT = "`zoo convert FILE --from LAYOUT --to FOLDER` converts an official release."


def _what_is_there(folder: Path) -> str:
    """Why a folder without weights cannot be loaded."""
    try:
        names = sorted(p.name for p in folder.iterdir())
    except OSError as error:
        return f"Cannot read the folder {folder}: {error.strerror}."
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        return f"{folder} holds a pickle ({pickles[0]}) and no {WEIGHTS}. A pickle can run code when it is opened and is never loaded here. {_CONVERT}"
    others = [name for name in names if name.endswith(".safetensors")]
    if others:
        return f"{folder} holds no {WEIGHTS}, but {others[0]}. Give the path of that file, or rename it."
    return f"{folder} holds no {WEIGHTS} (it holds: {', '.join(names[:8]) or 'nothing'}). Expected a model folder."
