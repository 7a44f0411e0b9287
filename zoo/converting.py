"""`zoo convert`: the weights of an official release, as a model folder of this project.

The only place where a pickle is opened: after a look at every name that it wants to import, with torch's restricted
reader, on an explicit order.
"""

import argparse
import logging
import pickletools
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import torch
import tyro
from torch import Tensor

from modalities.common import pretrained
from modalities.common.model import Model
from modalities.common.run import command
from modalities.common.stored import CONFIG, PREPROCESSING, beside, licence_of_card
from trainer.errors import CheckpointError, ConfigError, did_you_mean, shorten
from trainer.files import read_json, sha256_of
from trainer.tensor_file import PICKLE, what_is_wrong
from trainer.weights import read_safetensors
from zoo.cards import CARD, card_of

log = logging.getLogger("zoo")

LAYOUTS = ("official", "transformers", "timm")
"""Whose release it is."""
ALLOWED = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "argparse.Namespace",  # the training options that official files keep beside the weights
    *(f"torch.{kind}Storage" for kind in ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")),
}
"""Everything that a pickle may name."""
WITHIN = ("model", "module", "teacher")
"""Under which key of a file the weights may lie (of a self-distilled model the teacher's are published)."""
NETWORKS = ("encoder", "decoder", "model")
"""Networks that a file may hold beside each other, each under its key: with an `encoder` all of them are taken, and their keys become the first part of the names."""
LARGEST_PICKLE = 64 * 2**20
"""Bytes of the pickle proper, without the tensors, of which a file may hold so many."""
MARK = 0x1950A86A20F9469CFC6C
"""With which files of torch before 1.6 begin."""


def convert(
    file: tyro.conf.Positional[Path],
    /,
    layout: Annotated[str, tyro.conf.arg(name="from")],
    to: Path,
    config: Path | None = None,
    licence: str | None = None,
) -> Path:
    """Convert the weights of an official release (.pth, .bin or .safetensors) to a model folder of this project.

    A pickle can run code when it is opened. This one is opened only if it names nothing but tensors, and only by torch's
    restricted reader. Every tensor must find its place, none may hold NaN.

    Args:
        file: The file with the weights.
        layout: Whose release it is: official (the code of the paper), transformers or timm.
        to: Folder to write: new, empty, or an earlier conversion, which is replaced.
        config: JSON file with the arguments of the model. Default: config.json beside the file, if there is one.
        licence: Licence of the weights as the Hub names it. Default: that of the official release, or what the card beside the file says.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"--from must say whose layout it is: {', '.join(LAYOUTS)}; found {layout!r}.{did_you_mean(layout, LAYOUTS)}")
    state = read_release(file)
    values = read_json(config) if config else beside(file.parent, CONFIG)
    model = pretrained.from_tensors(state, values, str(file), layout, beside(file.parent, PREPROCESSING))
    model.licence = licence or model.licence or licence_of_card(file.parent)
    card, files = card_of(model, conversion_origin(model, file), renews=[to / CARD])
    model.save_pretrained(to, card=card, files=files)
    log.info("%s", model.load_report)
    log.info("Converted %s to %s. Licence of the weights: %s. Load it with zoo.from_pretrained(%r).", file, to, model.licence, str(to))
    return to


def read_release(path: Path) -> dict[str, Tensor]:
    """The weights of a file by name: safetensors, or a pickle of torch.save that holds tensors (perhaps under one of `WITHIN`) and options.

    Raises CheckpointError that says what else the file is, which forbidden name it wants to import, or which entry is no tensor.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is no file. Expected the weights of an official release.")
    with open(path, "rb") as file:
        head = file.read(9)
    if not head.startswith(PICKLE) or head[8:9] == b"{":
        return read_safetensors(path)
    archive = head.startswith(b"PK")
    if archive and not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} {what_is_wrong(path).split(',')[0]}, and it is damaged. Fetch it again, or open it with torch where you trust it and save it anew.")
    _require_allowed(_named_in_archive(path) if archive else _named_in_pickles(path), path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # torch's remarks about old storages
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except Exception as error:  # the reader follows the instructions of the file, and raises whatever they lead to
        raise CheckpointError(f"{path} cannot be read as weights ({shorten(str(error), 300)}). Fetch it again.") from error
    return _tensors(content, path)


def _named_in_archive(path: Path) -> set[str]:
    """What the pickle in an archive of torch.save imports. CheckpointError unless the archive is stored plainly."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            if any(r.compress_type != zipfile.ZIP_STORED or r.flag_bits & 1 for r in records):
                raise CheckpointError(f"{path} holds compressed or encrypted records, which torch.save never writes. Do not use it.")
            pickles = [r for r in records if r.filename.endswith(".pkl")]
            if len(pickles) != 1 or not pickles[0].filename.endswith("data.pkl"):
                raise CheckpointError(f"{path} holds the records {shorten([r.filename for r in records][:6], 200)}; weights of torch.save have one data.pkl. Is it a TorchScript?")
            if pickles[0].file_size > LARGEST_PICKLE:
                raise CheckpointError(f"{path} holds a pickle of {pickles[0].file_size:,} bytes, more than any list of tensors needs. Do not use it.")
            return globals_of(archive.read(pickles[0]))
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        raise CheckpointError(f"{path} is a damaged archive of torch.save ({shorten(str(error), 200)}). Fetch it again.") from error


def _named_in_pickles(path: Path) -> set[str]:
    """What the pickles of a file of torch before 1.6 import: its mark, two of its writer, the content and the list of storages, before the bytes of the tensors."""
    found: set[str] = set()
    try:
        with open(path, "rb") as file:
            if not any(argument == MARK for _, argument, _ in pickletools.genops(file)):
                raise ValueError("it does not begin with torch's mark")
            for _ in range(4):
                found |= globals_of(file)
                if file.tell() > LARGEST_PICKLE:
                    raise ValueError(f"a pickle of more than {LARGEST_PICKLE:,} bytes")
    except (OSError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path} is a pickle, and none that torch.save wrote, or it is damaged ({shorten(str(error), 200)}). Fetch it again.") from error
    return found


def _require_allowed(names: set[str], path: Path) -> None:
    """Raise CheckpointError when a pickle imports more than weights need."""
    forbidden = sorted(names - ALLOWED)
    if forbidden:
        raise CheckpointError(
            f"{path} wants to import {', '.join(forbidden[:5])}, which no weights need. It was not opened: a pickle can run code. "
            "Get the weights from a source that you trust, or open it where nothing can be harmed."
        )


def globals_of(data: bytes | BinaryIO) -> set[str]:
    """Everything that a pickle imports, as module.name, found without running it; a file is read to the pickle's end. ValueError when it is no pickle."""
    found: set[str] = set()
    for operation, argument, _ in pickletools.genops(data):
        if operation.name in ("GLOBAL", "INST"):
            found.add(str(argument).replace(" ", ".").replace("__builtin__", "builtins"))  # as Python 2 called it
        elif operation.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER"):  # the name is only known when it runs
            found.add(f"something by {operation.name}")
    return found


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """The weights in what a pickle held. Each must be an ordinary tensor that fills the memory it claims."""
    if isinstance(content, Mapping) and isinstance(content.get("encoder"), Mapping):
        networks = {key: content[key] for key in NETWORKS if isinstance(content.get(key), Mapping)}
        state: Any = {f"{key}.{name}": tensor for key, network in networks.items() for name, tensor in network.items()}
    else:
        state = next((content[key] for key in WITHIN if key in content), content) if isinstance(content, Mapping) else content
    if isinstance(state, Mapping) and isinstance(state.get("config"), Mapping):  # SparK keeps its arguments among the weights, which tell them as well
        state = {name: tensor for name, tensor in state.items() if name != "config"}
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{path} holds a {type(state).__name__} and no weights by name.")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            keys = ", ".join(shorten(key, 30) for key in list(state)[:8])
            raise CheckpointError(f"{path}: {shorten(name)} is a {type(tensor).__name__}, not a tensor (entries: {keys}). Expected weights by name, or such under {' or '.join(map(repr, WITHIN))}.")
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise CheckpointError(f"{path}: {shorten(name)} is no ordinary tensor ({tensor.layout}, {tensor.device}). Expected plain weights.")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{path}: {shorten(name)} claims {tuple(tensor.shape)} and holds {tensor.untyped_storage().nbytes():,} bytes. Do not use this file.")
    return {name: tensor.detach() for name, tensor in state.items()}


def conversion_origin(model: Model, file: Path) -> dict[str, Any]:
    """Where a converted model came from, for its card."""
    record = {"file": file.name, "sha256": sha256_of(file), "layout": model.load_report.layout, "command": command(), "words": model.load_report.words()}
    return {"kind": "conversion", "record": record}
