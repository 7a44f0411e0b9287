"""From a Hub id to a complete, checked folder on this machine.

Only safetensors, JSON, the card and its pictures are ever downloaded. What arrived is compared once with the hashes that the
Hub announces and the result is kept beside the download, in the cache that all of huggingface_hub's users share:

    models--ns--name/.modality-zoo/<commit>.json    date of the commit; size, time and hash of every checked file
"""

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import HFValidationError, WeakFileLock, validate_repo_id

from modalities import registry
from modalities.common.hub_errors import Unreachable, hub_errors
from modalities.common.stored import INDEX, WEIGHTS
from trainer.errors import CheckpointError, ConfigError, did_you_mean
from trainer.files import read_json, sha256_of, write_json, write_text

log = logging.getLogger("zoo")

SMALL = ("config.json", "preprocessor_config.json", "README.md", INDEX)
"""Files beside the weights that are downloaded."""
PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp")
"""Endings of pictures that are downloaded with a card."""
PICKLES = (".bin", ".pth", ".pt", ".ckpt")
"""Endings of weights that are never downloaded."""
MAIN = "main"
COMMIT = re.compile(r"[0-9a-f]{40}")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,200}")
REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}(/[A-Za-z0-9_][A-Za-z0-9_.-]{0,200})*")
TIMEOUT = 5
"""Seconds to wait for the first answer of the Hub, unless HF_HUB_ETAG_TIMEOUT says otherwise."""


@dataclass(frozen=True)
class Snapshot:
    """One revision of a repository of the Hub, complete on this machine."""

    folder: Path
    """Where its files are."""
    repo_id: str
    """`namespace/name`."""
    commit: str
    """Full id of the commit."""
    date: str | None
    """When that commit was made (ISO 8601), as far as it is known."""


@dataclass(frozen=True)
class _File:
    """What the Hub announces of a file."""

    size: int
    sha256: str | None
    """Hash of the content, which the Hub knows for large files."""
    git_oid: str | None
    """Git's hash of a small file's content."""


def hub_id(source: str) -> tuple[str, str | None] | None:
    """(id, revision) when a text has the form of a Hub id, `namespace/name` or `namespace/name@revision`; else None.

    Names that begin like the zoo's own (`vision/...`) never stand for a model of the Hub.
    """
    name, at, revision = source.partition("@")
    if name.count("/") != 1 or name.partition("/")[0] in registry.MODALITIES or (at and not revision):
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name, revision or None


def fetch(repo_id: str, revision: str | None = None, cache: Path | str | None = None, weights: bool = True) -> Snapshot:
    """Download a model from the Hub, or find it in the cache, and check it.

    `revision` is a branch, a tag or a commit; by default the newest state. `cache` is the folder of downloads, by default
    that of huggingface_hub. `weights=False` brings the small files alone. One process downloads, others that want the same wait for it. When the Hub cannot be reached,
    is offline by HF_HUB_OFFLINE or has an internal error, a complete copy in the cache is used. Raises CheckpointError
    and UnknownNameError in one line that says what is wrong.
    """
    revision = revision or MAIN
    if hub_id(repo_id) != (repo_id, None):
        raise ConfigError(f"{repo_id!r} is no id of a model on the Hub. Expected namespace/name.")
    if not REVISION.fullmatch(revision) or ".." in revision:
        raise ConfigError(f"{revision!r} is no branch, tag or commit. Leave the revision out for the newest state.")
    store = Path(cache or constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}"
    if COMMIT.fullmatch(revision) and (known := _remembered(store, repo_id, revision)):
        return known
    try:
        commit, date, files = _ask(repo_id, revision)
    except Unreachable as error:
        return _from_cache(store, repo_id, revision, error, weights)
    known = _remembered(store, repo_id, commit)
    if known is None:
        try:
            with hub_errors(repo_id, revision), _lock(store, commit):
                known = _remembered(store, repo_id, commit) or _download(store, repo_id, commit, date, files, weights)
        except Unreachable as error:
            raise CheckpointError(f"{error} while {repo_id} was downloaded. Nothing incomplete is used; load it again to go on.") from error
    if _cached_commit(store, revision) != commit:
        _keep(write_text, store / "refs" / revision, commit)
    return known


def origin(folder: Path) -> Snapshot | None:
    """Where a folder of the Hub's cache comes from; None for any other folder."""
    folder = Path(folder)
    store = folder.parent.parent
    if folder.parent.name != "snapshots" or not store.name.startswith("models--") or not COMMIT.fullmatch(folder.name):
        return None
    return Snapshot(folder, store.name.removeprefix("models--").replace("--", "/"), folder.name, _record(store, folder.name).get("date"))


def wanted(names: Iterable[str]) -> list[str]:
    """The files beside the weights that are taken from a repository."""
    return [n for n in names if NAME.fullmatch(n) and (n in SMALL or n.lower().endswith(PICTURES))]


def patience() -> float:
    """Seconds to wait for the first answer of the Hub."""
    return constants.HF_HUB_ETAG_TIMEOUT if "HF_HUB_ETAG_TIMEOUT" in os.environ else TIMEOUT


def _ask(repo_id: str, revision: str) -> tuple[str, str | None, dict[str, _File]]:
    """(commit, its date, its files) from the Hub, by one request that is not repeated."""
    if constants.HF_HUB_OFFLINE:
        raise Unreachable("HF_HUB_OFFLINE is set")
    timeout = patience()
    with hub_errors(repo_id, revision, timeout):
        info = HfApi().model_info(repo_id, revision=revision, files_metadata=True, timeout=timeout)
        files = {
            s.rfilename: _File(int(s.size), s.lfs.sha256 if s.lfs else None, None if s.lfs else s.blob_id) for s in info.siblings or []
        }
    if not COMMIT.fullmatch(str(info.sha)):
        raise CheckpointError(f"{constants.ENDPOINT} does not answer as a Hub (commit {str(info.sha)[:50]!r}). Check HF_ENDPOINT.")
    return info.sha, info.last_modified.isoformat() if info.last_modified else None, files


def _download(store: Path, repo_id: str, commit: str, date: str | None, files: dict[str, _File], weights: bool) -> Snapshot:
    """Fetch what is not in the cache yet, check everything, and remember it."""
    folder = store / "snapshots" / commit
    if not {WEIGHTS, INDEX} & files.keys():
        raise CheckpointError(_no_weights(repo_id, files))
    names = wanted(files)
    _probe(repo_id, commit, next(iter(files)))
    for name in names:
        _download_file(store, repo_id, commit, name, files[name])
    if not weights:
        return Snapshot(folder, repo_id, commit, date)
    shards = _shards(folder) if INDEX in files else [WEIGHTS]
    missing = [name for name in shards if name not in files]
    if missing:
        raise CheckpointError(f"{repo_id} is incomplete on the Hub: {INDEX} names {missing[0]}, which is not there. Its owner has to upload it again.")
    for name in shards:
        _download_file(store, repo_id, commit, name, files[name])
    return _remember(store, repo_id, commit, date, [*names, *shards])


def _probe(repo_id: str, commit: str, name: str) -> None:
    """Raise Unreachable when the Hub answers questions but hands out no files: the download itself would try for minutes before it said so."""
    with hub_errors(repo_id, commit, patience()), contextlib.suppress(HfHubHTTPError):
        get_hf_file_metadata(hf_hub_url(repo_id, name, revision=commit), timeout=patience())


def _download_file(store: Path, repo_id: str, commit: str, name: str, file: _File) -> None:
    """Bring one file into the cache. What does not have the announced hash is removed and fetched once more."""
    for attempt in (1, 2):
        hf_hub_download(repo_id, name, revision=commit, cache_dir=store.parent)
        path = store / "snapshots" / commit / name
        found = _wrong_hash(path, file.sha256 or file.git_oid)
        if found is None:
            return
        _discard(path)
        if attempt == 1:
            log.warning("%s of %s is damaged and is fetched again.", name, repo_id)
    raise CheckpointError(
        f"{name} of {repo_id} arrived damaged twice: the Hub announces the hash {file.sha256 or file.git_oid} and the file has {found}. "
        "It was removed. Try again later, or from another network."
    )


def _from_cache(store: Path, repo_id: str, revision: str, error: Unreachable, weights: bool) -> Snapshot:
    """A complete copy in the cache, in place of the Hub that cannot be asked."""
    commit = _cached_commit(store, revision)
    folder = store / "snapshots" / (commit or "")
    if commit is None or not folder.is_dir():
        raise CheckpointError(
            f"{error}, and {store.parent} holds no copy of {repo_id} at {revision}.{did_you_mean(repo_id, registry.entries())} "
            "Load it once with a connection. There is no folder of this name either."
        )
    known = _remembered(store, repo_id, commit)
    if known is None:
        names = _expected(store, folder, commit, weights)
        missing = [name for name in names if not (folder / name).exists()]
        if missing:
            raise CheckpointError(f"{error}, and the copy of {repo_id} in {folder} is incomplete: {', '.join(missing)} missing. Load it once with a connection.")
        for name in names:
            link = folder / name
            found = _wrong_hash(link, os.path.basename(os.readlink(link)) if link.is_symlink() else None)
            if found is not None:
                raise CheckpointError(f"{error}, and {link} is damaged: its hash is {found}. Remove it and load {repo_id} once with a connection.")
        known = _remember(store, repo_id, commit, None, names) if weights else Snapshot(folder, repo_id, commit, None)
    if not constants.HF_HUB_OFFLINE:
        log.warning("%s; using the copy of %s at commit %s.", error, repo_id, commit[:12])
    return known


def _expected(store: Path, folder: Path, commit: str, weights: bool) -> list[str]:
    """The files that a copy should have: those of an earlier check, or what a copy by another program needs."""
    small = sorted({"config.json", *wanted(_record(store, commit).get("files", {})), *wanted(p.name for p in folder.iterdir())})
    if not weights:
        return small
    return [*small, *(_shards(folder) if (folder / INDEX).exists() else [WEIGHTS])]


def _shards(folder: Path) -> list[str]:
    """The weight files that the index in a folder names; CheckpointError when one is not a plain file name."""
    index = read_json(folder / INDEX)
    places = index.get("weight_map") if isinstance(index, dict) else None
    names = sorted(set(map(str, places.values()))) if isinstance(places, dict) else []
    if not names or not all(NAME.fullmatch(name) and name.endswith(".safetensors") for name in names):
        raise CheckpointError(f"{folder / INDEX} must name plain .safetensors files beside it, found {str(names[:3])[:200]}. It was not written by a known library.")
    return names


def _no_weights(repo_id: str, files: Iterable[str]) -> str:
    """Why a repository without weights that can be loaded cannot be used."""
    names = sorted(files)
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        return f"{repo_id} holds a pickle ({pickles[0]}) and no {WEIGHTS}. A pickle can run code when it is opened and is never downloaded here."
    return f"{repo_id} holds no {WEIGHTS} (it holds: {', '.join(names[:8]) or 'nothing'}). Expected a model's repository."


def _cached_commit(store: Path, revision: str) -> str | None:
    """The commit that a revision stood for when it was last fetched."""
    if COMMIT.fullmatch(revision):
        return revision
    path = store / "refs" / revision
    commit = path.read_text().strip() if path.is_file() else ""
    return commit if COMMIT.fullmatch(commit) else None


def _lock(store: Path, commit: str) -> contextlib.AbstractContextManager[Any]:
    """Held by the one process that downloads. Nothing in a cache that may only be read: there is nothing to download to."""
    path = store.parent / ".locks" / store.name / f"modality-zoo-{commit}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return contextlib.nullcontext()
    return WeakFileLock(path) if os.access(path.parent, os.W_OK) else contextlib.nullcontext()


def _keep(write: Callable[[Path, Any], None], path: Path, value: Any) -> None:
    """Write into the cache what saves work next time; a cache that may only be read does without."""
    try:
        write(path, value)
    except CheckpointError:
        log.debug("Cannot write %s", path, exc_info=True)


def _remember(store: Path, repo_id: str, commit: str, date: str | None, names: list[str]) -> Snapshot:
    folder = store / "snapshots" / commit
    _keep(write_json, _record_path(store, commit), {"date": date, "files": {name: _stamp(folder / name) for name in names}})
    return Snapshot(folder, repo_id, commit, date)


def _remembered(store: Path, repo_id: str, commit: str) -> Snapshot | None:
    """A copy that was found good before and has not changed since; costs a few looks at the folder."""
    folder, checked = store / "snapshots" / commit, _record(store, commit)
    if not checked or any(_stamp(folder / name) != stamp for name, stamp in checked["files"].items()):
        return None
    return Snapshot(folder, repo_id, commit, checked.get("date"))


def _record_path(store: Path, commit: str) -> Path:
    return store / ".modality-zoo" / f"{commit}.json"


def _record(store: Path, commit: str) -> dict[str, Any]:
    """The result of an earlier check; empty when there is none, or none that can be read."""
    try:
        found = read_json(_record_path(store, commit))
    except CheckpointError:
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("files"), dict) and found["files"] else {}


def _stamp(path: Path) -> list[int] | None:
    """Size and time of change, which tell that a file is still the one that was checked."""
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _wrong_hash(path: Path, announced: str | None) -> str | None:
    """The hash of a file when it is not the announced one (a sha256, or git's sha1); else None."""
    if announced is None or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", announced):
        return None
    if len(announced) == 64:
        found = sha256_of(path)
    else:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.sha1(b"blob %d\0" % path.stat().st_size)).hexdigest()
    return None if found == announced else found


def _discard(path: Path) -> None:
    """Remove a file of the cache with the content that its link leads to."""
    chain = [path]
    while chain[-1].is_symlink():
        chain.append(chain[-1].parent / os.readlink(chain[-1]))
    for link in chain:
        link.unlink(missing_ok=True)

