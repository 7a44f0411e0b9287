"""`zoo export`: a model as another library has it, where that library can hold it, checked by its outputs before it appears."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
import yaml

from modalities import registry
from modalities.common import pretrained
from modalities.common.exporting import Export, example
from modalities.common.model import Model
from modalities.common.run import command
from modalities.common.stored import ORIGIN, beside
from trainer.errors import ConfigError, ModelError, UnknownNameError, did_you_mean
from trainer.files import atomic_folder, carry_over, write_text
from zoo.cards import CARD, card_of, read_origin
from zoo.graphs import onnx_export, torch_export

GRAPHS: dict[str, Callable[[Model], Export]] = {"onnx": onnx_export, "torch-export": torch_export}
"""Targets that take any model as a graph. Others are named by the system, in its registry entry."""
TOLERANCE = 1e-5
"""Largest difference between an output here and there, as a share of the largest value of that output (at least 1)."""
BATCHES = (1, 3)
"""Sizes of the batches on which both are compared."""


def export(name: tyro.conf.Positional[str], /, target: Annotated[str, tyro.conf.arg(name="to")], output: Path, size: str | None = None) -> Path:
    """Write a model in the layout of another library; what that cannot hold is named or refused.

    The folder appears complete, with a card, after the other library's own loader has read it and gives the same outputs.

    Args:
        name: Folder or name of the model, or its id on the Hub.
        target: timm, transformers, official, onnx or torch-export.
        output: Folder to write: new, empty, or an earlier export, which is replaced.
        size: Of an elastic model the part to export: small, base, large, or width_depth as in 384_12. Default: the whole.
    """
    known = dict.fromkeys([*(library for system in registry.systems().values() for library in system.exports), *GRAPHS])
    if target not in known:
        raise UnknownNameError(f"There is no export to {target!r}.{did_you_mean(target, known)} Targets: {', '.join(known)}.")
    earlier = _earlier(output)
    source = pretrained.locate(name)
    if output.exists() and output.resolve() == source.resolve():
        raise ConfigError(f"{output} is the model itself. Choose another folder with --output.")
    model = pretrained.load(source, size=size)
    own = registry.systems()[model.system].exports
    if target not in (*own, *GRAPHS):
        raise ModelError(f"{target} has no class that holds a {model.system}. Targets for it: {', '.join([*own, *GRAPHS])}.")
    origin = (read_origin(source) if source.is_dir() else None) or {"kind": None, "record": {}}
    with torch.no_grad():
        made = registry.load(own[target])(model, _objective(origin)) if target in own else GRAPHS[target](model)
        with atomic_folder(output, replace=True) as folder:
            made.write(folder)
            differences = check(model, made, folder)
            files = sorted(path.name for path in folder.iterdir())
            facts = {"target": target, "source": name, "command": command(), "differences": differences, "left_out": made.left_out, "notes": made.notes, "files": files}
            _add_card(model, made, folder, output, {**origin, "export": facts})
            carry_over(output, folder, lambda file: file in {*earlier, ORIGIN, CARD})
    worst = max(differences.values())
    for word, sentences in (("Left out", made.left_out), ("Note", made.notes)):
        for sentence in sentences:
            print(f"{word}: {sentence}.")
    print(f"{name} for {target}: {output} ({', '.join(files)}). Its outputs differ by {worst:.1g} at most.")
    return output


def check(model: Model, made: Export, folder: Path) -> dict[str, float]:
    """Largest difference of every output of what was written, read by the other library. ModelError when one is above TOLERANCE."""
    expected = made.expected or (lambda x: model.outputs({model.input_key: x}))
    run = made.load(folder)
    differences: dict[str, float] = {}
    for samples in BATCHES:
        x = made.example(samples) if made.example else example(model, samples)
        wanted, found = expected(x), run(x)
        if wanted.keys() != found.keys():
            raise ModelError(f"What was written for {made.library} gives {', '.join(found)} instead of {', '.join(wanted)}.")
        for name, value in wanted.items():
            same = found[name].shape == value.shape
            difference = (found[name] - value).abs().max().item() / max(1.0, value.abs().max().item()) if same else float("inf")
            if not difference <= TOLERANCE:
                why = f" Differences that are known: {'; '.join(made.notes)}." if made.notes else ""
                raise ModelError(
                    f"{made.library} cannot hold this model: of {samples} samples, {name} {tuple(found[name].shape)} differs from {tuple(value.shape)} "
                    f"here by {difference:.2g}; at most {TOLERANCE:g} is allowed.{why} Nothing was written."
                )
            differences[name] = max(differences.get(name, 0.0), difference)
    return differences


def _earlier(output: Path) -> list[str]:
    """Names of the files of an earlier export in a folder. ConfigError when the folder holds anything else."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return []
    origin = beside(output, ORIGIN) if output.is_dir() else None
    if not isinstance(origin, dict) or not isinstance(origin.get("export"), dict):
        raise ConfigError(f"{output} holds other things than an earlier export. Choose a new folder with --output.")
    return [str(name) for name in origin["export"].get("files", [])]


def _objective(origin: dict[str, Any]) -> dict[str, Any]:
    """What the other library wants to know of the objective that a model was trained with."""
    try:
        fields = yaml.safe_load(origin.get("recipe") or "")["objective"]
        return {key: fields[key] for key in ("mask_ratio", "norm_pix_loss") if key in fields}
    except (yaml.YAMLError, AttributeError, KeyError, TypeError):
        return {}


def _add_card(model: Model, made: Export, folder: Path, output: Path, origin: dict[str, Any]) -> None:
    """Write the card of the export, with how the weights were made; a person's words in the card that it replaces stay."""
    usage = made.usage.replace("PLACE", "path/to/this/folder")
    text, files = card_of(model, origin, renews=[output / CARD], snippet=usage, library=made.library)
    for name, content in files.items():
        if isinstance(content, str):
            write_text(folder / name, content)
        else:
            (folder / name).write_bytes(content.read_bytes())
    write_text(folder / CARD, text)
