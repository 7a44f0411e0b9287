"""Files in folders: which there are, which classes their folders stand for, and splits of labelled sets."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from trainer.errors import DataError, did_you_mean
from trainer.remote import scheme
from trainer.shards import is_shards
from trainer.sources import TABLES

if TYPE_CHECKING:
    from modalities.common.sources import LabelledSource

JUNK = ("__MACOSX",)
TRAIN_FOLDER = "train"
TEST_FOLDERS = ("val", "valid", "validation", "test")
PARTS = (TRAIN_FOLDER, *TEST_FOLDERS)
"""Folders with these names are a part of the set that the folder above is named after."""


S = TypeVar("S", bound="LabelledSource")


def files_below(root: Path, endings: Sequence[str], what: str = "images") -> list[str]:
    """All files below `root` with these endings as sorted relative paths; DataError when there is no such folder or none in it."""
    if not root.is_dir():
        state = "is a file, not a folder" if root.is_file() else "does not exist"
        raise DataError(f"{root} {state}. Expected a folder with {what}.")
    found, others, seen = [], Counter(), set()
    for folder, subfolders, files in os.walk(root, onerror=_unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back to a folder above
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(s for s in subfolders if not s.startswith(".") and s not in JUNK)
        for file in files:
            ending = os.path.splitext(file)[1].lower()
            if file.startswith("."):
                continue
            if ending in endings:
                found.append(os.path.relpath(os.path.join(folder, file), root))
            else:
                others[ending or "no ending"] += 1
    if not found:
        seen_files = ", ".join(f"{count} x {ending}" for ending, count in others.most_common(5)) or "no files at all"
        raise DataError(f"There are no {what} in {root}. Found {seen_files}; expected files that end in {', '.join(endings)}.")
    return sorted(found, key=lambda file: Path(file).parts)


def _unreadable(error: OSError) -> None:
    raise DataError(f"The folder {error.filename} cannot be read ({error.strerror}): change its permissions or remove it.") from error


def class_names(root: Path, files: Iterable[str], known: Sequence[str] | None, one: str = "image") -> tuple[str, ...]:
    """The classes of a labelled folder: `known` ones, or the sorted names of its sub-folders."""
    layout = f"Expected one sub-folder per class: {root}/<class>/<{one}>."
    top = [file for file in files if len(Path(file).parts) == 1]
    if top:
        raise DataError(f"{len(top)} {one}(s) lie directly in {root} and have no class ({top[0]}). {layout}")
    names = sorted({Path(file).parts[0] for file in files})
    empty = sorted(d.name for d in root.iterdir() if d.is_dir() and not d.name.startswith(".") and d.name not in (*names, *JUNK))
    if empty:
        raise DataError(f"No {one}s in the class folder(s) {', '.join(empty)} of {root}. Fill them or remove them.")
    if known is None:
        if len(names) < 2:
            raise DataError(f"{root} has one class only ({names[0]}); a classifier needs at least two. {layout}")
        return tuple(names)
    strange = sorted(set(names) - set(known))
    if strange:
        raise DataError(
            f"{root} has the class(es) {', '.join(strange)}, which are not among the known ones: {', '.join(known)}. "
            "Rename or remove these folders."
        )
    return tuple(known)


def is_table(path: str) -> bool:
    """Whether a path or URL names a table of files."""
    return path.endswith(TABLES) and (scheme(path) != "" or not Path(path).is_dir())


def train_and_test(path: str, built_in: Sequence[str], what: str = "images") -> tuple[str, str | None]:
    """What to train on: the path itself or the folder `train` in it; and, where there is one beside it, the folder to test on."""
    if scheme(path) or is_shards(path) or (is_table(path) and Path(path).exists()):
        return path, None
    root = Path(path)
    if not root.exists():
        hint = did_you_mean(path, built_in)
        raise DataError(f"{path} does not exist.{hint} Expected {what} (a folder, tars, a table), or one of the built-in sets: {', '.join(built_in)}.")
    test = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    if (root / TRAIN_FOLDER).is_dir():
        return str(root / TRAIN_FOLDER), None if test is None else str(test)
    if test is not None:  # else "training" and "val" would become two classes
        raise DataError(
            f"{root} has a folder {test.name!r} but no {TRAIN_FOLDER!r}. Rename the folder with the training {what} to "
            f"{TRAIN_FOLDER!r}, or give data.path and data.test_path; if {test.name!r} is a class, put all classes into {TRAIN_FOLDER!r}."
        )
    return path, None


def labelled_subset(source: S, per_class: int = 10, seed: int = 0) -> S:
    """`per_class` samples of each class, in the order of the source; DataError when a class has fewer."""
    members_of = by_class(source)
    short = {source.classes[c]: len(members) for c, members in members_of.items() if len(members) < per_class}
    if short:
        counts = ", ".join(f"{name}: {count}" for name, count in short.items())
        raise DataError(
            f"{per_class} labelled samples per class were asked for, but {source.name} has fewer in {counts}. Ask for fewer or add some."
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = [members[i] for members in members_of.values() for i in torch.randperm(len(members), generator=generator)[:per_class].tolist()]
    return source.take(sorted(chosen))


def split(source: S, test_fraction: float, seed: int = 0) -> tuple[S, S]:
    """A (train, test) split by class, each class with at least one sample in both; DataError when a class has only one."""
    generator, test = torch.Generator().manual_seed(seed), set()
    for label, members in by_class(source).items():
        if len(members) < 2:
            raise DataError(f"Class {source.classes[label]!r} of {source.name} has {len(members)} sample(s); a split needs at least 2.")
        count = min(max(round(len(members) * test_fraction), 1), len(members) - 1)
        test.update(members[i] for i in torch.randperm(len(members), generator=generator)[:count].tolist())
    return source.take([i for i in range(len(source)) if i not in test]), source.take(sorted(test))


def by_class(source: S) -> dict[int, list[int]]:
    """Label -> indices of its samples."""
    if source.labels is None:
        raise DataError(f"{source.name} has no labels. Expected one sub-folder per class.")
    members: dict[int, list[int]] = {label: [] for label in range(len(source.classes))}
    for index, label in enumerate(source.labels.tolist()):
        members[label].append(index)
    return members
