"""Files that are named by a path or a URL, as files on this disk: http(s) and the Hugging Face Hub are copied to a cache folder once.

A URL is fetched to a temporary name, verified and renamed; a download that was cut off goes on where it stopped. Several
processes that want the same file fetch it once: the first one does, the others wait. Nothing else is a source: `pipe:` would run programs.
"""

import fcntl
import hashlib
import http.client
import itertools
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from trainer.errors import ConfigError, DataError
from trainer.files import explain, sha256_of

SCHEMES = ("http", "https", "hf")
CACHE = "MODALITY_ZOO_CACHE"
"""Environment variable: the cache folder."""
PIECE = 2**20
TRIES = 4
TIMEOUT = 60
"""Seconds without a byte after which a connection counts as broken."""
MOST = 1_000_000
"""Names that braces may stand for."""


def cache_folder() -> Path:
    """Where downloads and indices of shards are kept: $MODALITY_ZOO_CACHE, or `modality-zoo` in $XDG_CACHE_HOME or ~/.cache."""
    if os.environ.get(CACHE):
        return Path(os.environ[CACHE]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "modality-zoo"


def scheme(name: str) -> str:
    """"http", "https", "hf" or, for a path, "". ConfigError for any other scheme, and for what cannot be a path."""
    if "\0" in name:
        raise ConfigError(f"{name!r} holds a null character, so it is no path.")
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", name)
    if not found or (os.sep in found[1]):
        return ""
    if found[1].lower() not in SCHEMES:
        why = " It would run a program." if found[1].lower() == "pipe" else ""
        raise ConfigError(f"{name!r} is not read: data comes from paths, http(s):// and hf:// only.{why} Copy the data to one of these.")
    return found[1].lower()


def expand(name: str) -> list[str]:
    """The names that braces stand for: `a-{000..012}.tar` (leading zeros kept), `{train,val}.tar`. ConfigError when they do not close or name too many."""
    parts = re.split(r"\{([^{}]*)\}", name)
    if any("{" in part or "}" in part for part in parts):
        raise ConfigError(f"The braces in {name!r} do not pair up. Expected a-{{000..012}}.tar or {{train,val}}.tar.")
    choices: list[list[str]] = []
    count = 1
    for i, part in enumerate(parts):
        span = re.fullmatch(r"(\d+)\.\.(\d+)", part)
        if i % 2 == 0:
            choices.append([part])
        elif span:
            first, last = int(span[1]), int(span[2])
            if last < first or last - first >= MOST:
                raise ConfigError(f"{{{part}}} in {name!r} names {'nothing' if last < first else 'too many files'}; expected {{first..last}}.")
            choices.append([str(n).zfill(len(span[1])) for n in range(first, last + 1)])
        else:
            choices.append(part.split(","))
        count *= len(choices[-1])
    if count > MOST:
        raise ConfigError(f"{name!r} stands for {count:,} names; at most {MOST:,} are taken.")
    return ["".join(pick) for pick in itertools.product(*choices)]


def local_copy(name: str, size: int | None = None, sha256: str | None = None) -> Path:
    """The file that a path or URL names, on this disk; fetched at the first call.

    `size` (bytes) and `sha256` are verified after a download. DataError when it cannot be had or differs, ConfigError for another scheme,
    CheckpointError when the disk does not take it.
    """
    kind = scheme(name)
    if not kind:
        return Path(name).expanduser()
    if kind == "hf":
        return _from_hub(name)
    # a user's name and password in the URL are no part of the file's name
    path = urllib.parse.urlsplit(name).path
    target = cache_folder() / "downloads" / hashlib.sha256(name.encode()).hexdigest()[:24] / (Path(path).name or "file")
    if not target.exists():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target.parent / ".lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # dropped when the process ends, however it ends
                if not target.exists():
                    _fetch(name, target, size, sha256)
        except OSError as error:
            raise explain(error, target) from error
    return target


def _fetch(url: str, target: Path, size: int | None, sha256: str | None) -> None:
    """Fetch, verify, rename. The caller holds the lock."""
    part, tag = target.with_name(target.name + ".part"), target.with_name(target.name + ".etag")
    for attempt in range(TRIES):
        try:
            _go_on(url, part, tag)
            break
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            final = isinstance(error, urllib.error.HTTPError) and error.code in (400, 401, 403, 404, 405, 410)
            if final or attempt == TRIES - 1:
                raise DataError(f"{url} cannot be fetched ({error}). Check the address and the network; what has arrived is kept and the download goes on from there.") from error
            time.sleep(2**attempt)
    found = part.stat().st_size
    wrong = f"{found:,} bytes, expected {size:,}" if size not in (None, found) else ""
    if not wrong and sha256 is not None and sha256_of(part) != sha256:
        wrong = "another sha256 than its index says"
    if wrong:
        part.unlink()
        tag.unlink(missing_ok=True)
        raise DataError(f"{url} has {wrong}. The file or its index has changed, or the transfer was damaged: try again, or make the index anew.")
    part.replace(target)
    tag.unlink(missing_ok=True)


def _go_on(url: str, part: Path, tag: Path) -> None:
    """Fetch the rest of a download: what is there counts if the server says that the file is still the same."""
    have = part.stat().st_size if part.exists() and tag.exists() else 0
    request = urllib.request.Request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", tag.read_text())
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)  # http or https: `scheme` saw to it
    except urllib.error.HTTPError as error:
        if error.code != 416:  # all of it is there
            raise
        part.unlink()
        tag.unlink()
        raise ConnectionError("the download is begun anew") from error
    with answer:
        have = have if answer.status == 206 else 0
        etag = answer.headers.get("ETag", "")
        if etag and not etag.startswith("W/"):
            tag.write_text(etag)
        else:  # nothing to recognise the file by: a download that is cut off begins anew
            tag.unlink(missing_ok=True)
        left = answer.headers.get("Content-Length")
        with open(part, "ab" if have else "wb") as file:
            while piece := answer.read(PIECE):
                file.write(piece)
        if left is not None and part.stat().st_size - have != int(left):
            raise ConnectionError(f"the connection ended after {part.stat().st_size:,} of {have + int(left):,} bytes")


def _from_hub(name: str) -> Path:
    """`hf://[datasets/]owner/repository[@revision]/path/in/it` from the Hub's own cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    found = re.fullmatch(r"hf://(datasets/)?([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)", name)
    if not found:
        raise ConfigError(f"{name!r} is no address on the Hub. Expected hf://datasets/owner/repository/path or hf://datasets/owner/repository@revision/path.")
    kind, repository, revision, path = found.groups()
    try:
        return Path(hf_hub_download(repository, path, repo_type="dataset" if kind else "model", revision=revision))
    except (EntryNotFoundError, RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise DataError(f"{name} cannot be fetched ({str(error).splitlines()[0] if str(error) else type(error).__name__}). Check name, network and access.") from error


def parent(name: str) -> str:
    """What a path or URL lies in."""
    return name.rpartition("/")[0] if scheme(name) else str(Path(name).parent)


def join(folder: str, name: str) -> str:
    """A file in the folder that a path or URL names."""
    return f"{folder}/{name}" if scheme(folder) else str(Path(folder) / name)
