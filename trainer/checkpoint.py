"""Complete training states on disk, whole or not at all.

A checkpoint is a folder `step-00001000/`:

    state.json, state/*.safetensors    what all processes share: model, objective, optimizer, callbacks, ...
                                       (one file, or one per process when the model is sharded)
    ranks/00000.json, .safetensors     what each process has for itself: its random number generators
    manifest.json                      format, versions, size and sha256 of each file and of itself: named last

It is written under a temporary name beside its place, synced and renamed, and its manifest gets its name last. A folder without
manifest is unfinished, is never read, and is removed by the next start.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import uuid
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from trainer.errors import CheckpointError
from trainer.files import TEMPORARY, explain, read_json, remove_leftovers, sha256_of, sync, sync_folder, write_json
from trainer.parallel import Processes, local
from trainer.state import decode, encode, names_in, read_tensors, unshared
from trainer.versions import versions
from trainer.weights import require_finite, write_safetensors

FORMAT_VERSION = 2
MANIFEST = "manifest.json"

Like = Callable[[str, torch.Size], Tensor | None]
"""(name in the state, shape) -> the tensor to read it into, or None for a whole one on the CPU."""

log = logging.getLogger("zoo")


def reached(point: str) -> None:
    """Called at the named points of a save. It does nothing; tools.fault_storm puts a kill in its place."""


class Snapshot:
    """A training state taken at one moment, ready to be written."""

    def __init__(self, step: int, shared: dict[str, Any], own: list[dict[str, Any]], sharded: bool, copy: bool = False) -> None:
        """`shared` is the same on all ranks (or sharded over them), `own` one state per rank. `copy` lets training go on meanwhile."""
        self.step, self.sharded, self.world = step, sharded, len(own)
        self.tensors: dict[str, Tensor] = {}
        self.tree = encode(shared, "", self.tensors)
        self.ranks: list[tuple[Any, dict[str, Tensor]]] = []
        for state in own:
            tensors: dict[str, Tensor] = {}
            self.ranks.append((encode(state, "", tensors), tensors))
        if not sharded:
            self.tensors = {k: v.cpu().clone() for k, v in self.tensors.items()} if copy else unshared(self.tensors)
        require_finite({k: local(v) for k, v in self.tensors.items() if k.startswith("objective.")}, f"The model at step {step}")

    @property
    def nbytes(self) -> int:
        """Bytes that the tensors take on disk, about."""
        return sum(t.nbytes for t in self.tensors.values()) + 2**20


def save_checkpoint(folder: Path, snapshot: Snapshot, keep: int, also: Collection[int | None] = (), processes: Processes | None = None) -> Path:
    """Write a snapshot below `folder`, then `prune` the older checkpoints.

    With `processes` (a sharded state) all ranks must call this. Raises CheckpointError when the disk does not take it;
    the older checkpoints stay.
    """
    target = checkpoint_path(folder, snapshot.step)
    main = processes is None or processes.main
    temporary = folder / f"{TEMPORARY}{target.name}-{uuid.uuid4().hex[:8]}"
    try:
        try:
            if main:
                _require_room(folder, snapshot.nbytes)
                (temporary / "state").mkdir(parents=True)
                (temporary / "ranks").mkdir()
            reached("folder made")
            if processes is None:
                write_safetensors(snapshot.tensors, temporary / "state" / "tensors.safetensors")
            else:
                temporary = processes.tell(temporary)
                writer = HuggingFaceStorageWriter(str(temporary / "state"), save_distributed=True)
                dcp.save(snapshot.tensors, storage_writer=writer, process_group=processes.words)
            reached("half written")
            if main:
                _write_rest(snapshot, temporary)
                _put_in_place(temporary, target, snapshot)
        finally:
            if main:
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise explain(error, target) from error
    if main:
        prune(folder, snapshot.step, keep, also)
    if processes is not None:
        processes.wait()
    return target


def _require_room(folder: Path, needed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(
            f"Cannot write a checkpoint to {folder}: it needs about {needed / 1e6:,.0f} MB and the disk has {free / 1e6:,.0f} MB free. "
            "The older checkpoints are kept. Free some space and go on with --resume, or lower train.keep_last."
        )


def _write_rest(snapshot: Snapshot, temporary: Path) -> None:
    write_json(temporary / "state.json", snapshot.tree)
    for rank, (tree, tensors) in enumerate(snapshot.ranks):
        write_safetensors(unshared(tensors), temporary / "ranks" / f"{rank:05d}.safetensors")
        write_json(temporary / "ranks" / f"{rank:05d}.json", tree)


def _put_in_place(temporary: Path, target: Path, snapshot: Snapshot) -> None:
    """Sync, rename, and mark complete."""
    files = sorted(p for p in temporary.rglob("*") if p.is_file())
    manifest = {
        "format_version": FORMAT_VERSION,
        "step": snapshot.step,
        "world": snapshot.world,
        "sharded": snapshot.sharded,
        "versions": versions(),
        "files": {str(p.relative_to(temporary)): {"size": p.stat().st_size, "sha256": sha256_of(p)} for p in files},
    }
    unmarked = temporary / f"{TEMPORARY}{MANIFEST}"
    write_json(unmarked, {**manifest, "sha256": _seal(manifest)})
    sync_folder(temporary)
    reached("before rename")
    if target.exists():  # damaged, or it would not be written again
        _remove(target)
    os.rename(temporary, target)
    reached("after rename")
    os.rename(target / unmarked.name, target / MANIFEST)
    sync(target)
    sync(target.parent)


def _seal(manifest: dict[str, Any]) -> str:
    """The sha256 of a manifest's own content."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def prune(folder: Path, step: int, keep: int, also: Collection[int | None] = ()) -> None:
    """Of the checkpoints up to `step`, remove all but the newest `keep` and those of the steps in `also`.

    Those beyond `step` are what a resume found damaged. They count for nothing and are written anew when training gets there.
    """
    for old in [path for path in list_checkpoints(folder) if step_of(path) <= step][:-keep]:
        if step_of(old) not in also:
            try:
                _remove(old)
            except OSError as error:  # the new one is there, that is what counts
                log.warning("%s could not be removed: %s", old, error.strerror)


def _remove(path: Path) -> None:
    # renamed first: a removal that is cut short must not leave a folder that looks complete
    doomed = path.rename(path.parent / f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}")
    shutil.rmtree(doomed, ignore_errors=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints below a folder, oldest first."""
    return [path for path in _folders(folder) if (path / MANIFEST).exists()]


def _folders(folder: Path) -> list[Path]:
    """Whatever bears the name of a checkpoint, oldest first; other folders are none of our business."""
    return sorted((path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name)), key=step_of)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies below `folder`."""
    return folder / f"step-{step:08d}"


def step_of(path: Path) -> int:
    """The step of a checkpoint by its name."""
    return int(path.name.removeprefix("step-"))


def clean(folder: Path) -> None:
    """Remove what a killed process left unfinished."""
    if folder.is_dir():
        remove_leftovers(folder)
        for path in _folders(folder):
            if not (path / MANIFEST).exists():
                _remove(path)


def newest(folder: Path) -> Path | None:
    """The newest checkpoint whose files are what was written; None when there is none.

    A damaged one is named in a warning and the one before it is used; when all are damaged, CheckpointError.
    """
    problems = []
    for path in reversed(list_checkpoints(folder)):
        try:
            verify(path)
            return path
        except CheckpointError as error:
            problems.append(str(error))
            log.warning("Skipping a checkpoint that cannot be used: %s", error)
    if problems:
        raise CheckpointError(f"No checkpoint in {folder} can be used. The newest: {problems[0]}")
    return None


def verify(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, after checking the format version and every file's size and sha256."""
    manifest = read_json(path / MANIFEST)
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {version!r}; this version of modality-zoo reads {FORMAT_VERSION}. Finish the run with the version "
            "that began it, or start a new run from its exported weights (--init_from)."
        )
    if manifest.pop("sha256", None) != _seal(manifest):
        raise CheckpointError(f"{path / MANIFEST} differs from what was written (sha256).")
    for name, facts in manifest["files"].items():
        file = path / name
        if not file.is_file() or file.stat().st_size != facts["size"] or sha256_of(file) != facts["sha256"]:
            raise CheckpointError(f"{file} is missing or differs from what was written (size or sha256).")
    return manifest


class Stored:
    """A checkpoint on disk, read part by part."""

    def __init__(self, path: Path) -> None:
        """`path` as `newest` gave it, verified."""
        self.path, self.manifest = path, read_json(path / MANIFEST)
        self.tree = read_json(path / "state.json")
        self.world: int = self.manifest["world"]

    def part(self, name: str, like: Like | None = None) -> Any:
        """One entry of the state, its tensors read now; into sharded ones where `like` gives them."""
        return decode(self.tree[name], self._tensors(list(names_in(self.tree[name])), like))

    def _tensors(self, names: list[str], like: Like | None) -> dict[str, Tensor]:
        if like is None and not self.manifest["sharded"]:
            return read_tensors(self.path / "state" / "tensors.safetensors", names)
        reader = HuggingFaceStorageReader(str(self.path / "state"))
        stored = reader.read_metadata().state_dict_metadata
        result = {}
        for name in names:
            place = like(name, stored[name].size) if like is not None else None
            result[name] = torch.empty(stored[name].size, dtype=stored[name].properties.dtype) if place is None else place
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            dcp.load(result, storage_reader=reader, no_dist=True)  # each rank reads its own pieces; no talk is needed
        return result

    def own(self, rank: int) -> Any:
        """The state that a rank had for itself."""
        path = self.path / "ranks" / f"{rank:05d}"
        tree = read_json(path.with_suffix(".json"))
        return decode(tree, read_tensors(path.with_suffix(".safetensors"), list(names_in(tree))))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The whole shared state of a checkpoint, verified. CheckpointError when anything differs from what was written."""
    verify(path)
    stored = Stored(path)
    return {name: stored.part(name) for name in stored.tree}
