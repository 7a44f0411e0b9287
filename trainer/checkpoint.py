"""Complete training states on disk: tensors in safetensors, everything else in JSON, no pickle.

A checkpoint is a folder `step-00001000/` with `state.json` (the structure), `state.safetensors` (its
tensors) and `manifest.json` (format, versions, size and sha256 of each file). It is written under a
temporary name and renamed, so a folder with the final name is always complete.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.errors import CheckpointError
from trainer.files import atomic_folder, read_json, remove_leftovers, sha256_of, write_json
from trainer.weights import read_safetensors, require_finite, write_safetensors

FORMAT_VERSION = 1
log = logging.getLogger("zoo")


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write the state of `step` below `folder` and remove all but the newest `keep` checkpoints.

    Raises CheckpointError when the disk does not take it (the older checkpoints stay) or when a tensor of
    the model is not finite (a good checkpoint is never followed by a broken one).
    """
    tensors: dict[str, Tensor] = {}
    tree = encode(state, "", tensors)
    require_finite({k: v for k, v in tensors.items() if k.startswith("objective.")}, f"The model at step {step}")
    target = folder / f"step-{step:08d}"
    with atomic_folder(target, replace=True) as temporary:
        write_safetensors(tensors, temporary / "state.safetensors")
        write_json(temporary / "state.json", tree)
        write_json(
            temporary / "manifest.json",
            {
                "format_version": FORMAT_VERSION,
                "step": step,
                "torch": torch.__version__,
                "files": {
                    p.name: {"size": p.stat().st_size, "sha256": sha256_of(p)} for p in sorted(temporary.iterdir())
                },
            },
        )
    for old in list_checkpoints(folder)[:-keep]:
        # renamed first: a removal that is cut short must not leave a folder that looks complete
        doomed = old.rename(old.parent / f".tmp-{old.name}")
        for path in doomed.iterdir():
            path.unlink()
        doomed.rmdir()
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints below a folder, oldest first."""
    return sorted(p.parent for p in folder.glob("step-*/manifest.json"))


def load_newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that reads back well and its state; None when there is none.

    A damaged one is named in a warning and the one before it is used; when all are damaged, CheckpointError.
    """
    if folder.is_dir():
        remove_leftovers(folder)
    found = list_checkpoints(folder)
    problems = []
    for path in reversed(found):
        try:
            return path, load_checkpoint(path)
        except CheckpointError as error:
            problems.append(str(error))
            log.warning("Skipping a damaged checkpoint: %s", error)
    if problems:
        raise CheckpointError(f"No checkpoint in {folder} can be read. The newest: {problems[0]}")
    return None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read one checkpoint after checking format version and hashes. CheckpointError when anything differs."""
    manifest = read_json(path / "manifest.json")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {manifest.get('format_version')!r}; this version reads {FORMAT_VERSION}."
        )
    for name, facts in manifest["files"].items():
        file = path / name
        if not file.is_file() or file.stat().st_size != facts["size"] or sha256_of(file) != facts["sha256"]:
            raise CheckpointError(f"{file} is missing or differs from what was written (size or sha256).")
    return decode(read_json(path / "state.json"), read_safetensors(path / "state.safetensors"))


def encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A state tree as JSON values; its tensors and arrays go to `tensors` under their path in the tree."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().clone()  # a clone: tied weights may not share memory in the file
        return {"__tensor__": name}
    if isinstance(value, np.ndarray):
        tensors[name] = torch.from_numpy(value.astype(np.int64) if value.dtype == np.uint32 else value.copy())
        return {"__array__": name, "dtype": str(value.dtype)}
    if isinstance(value, dict):
        if all(isinstance(k, str) for k in value):
            return {k: encode(v, f"{name}.{k}" if name else k, tensors) for k, v in value.items()}
        return {"__items__": [[k, encode(v, f"{name}.{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"__tuple__": [encode(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]}
    if isinstance(value, list):
        return [encode(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise CheckpointError(f"A training state may hold tensors and plain values; {name} is a {type(value).__name__}.")


def decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `encode`."""
    if isinstance(value, dict):
        if "__tensor__" in value:
            return tensors[value["__tensor__"]]
        if "__array__" in value:
            return tensors[value["__array__"]].numpy().astype(value["dtype"])
        if "__items__" in value:
            return {k: decode(v, tensors) for k, v in value["__items__"]}
        if "__tuple__" in value:
            return tuple(decode(v, tensors) for v in value["__tuple__"])
        return {k: decode(v, tensors) for k, v in value.items()}
    if isinstance(value, list):
        return [decode(v, tensors) for v in value]
    return value
