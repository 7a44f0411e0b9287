"""What a local Hub keeps on disk: contents by hash, commits as JSON, branches as one-line files.

    blobs/<sha256>                    contents, whatever repository they belong to
    repos/<namespace>/<name>/repo.json
    repos/<namespace>/<name>/commits/<id>.json
    repos/<namespace>/<name>/heads/<branch>, tags/<tag>

A commit becomes visible by the rename of the branch's file, so a server that is killed at any moment has either
the old state or the new one.
"""

import dataclasses
import hashlib
import re
import shutil
import threading
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from trainer.errors import ZooError
from trainer.files import TEMPORARY, read_json, write_json, write_text

MAIN = "main"
NAME = re.compile(r"(?!.*(\.\.|--))[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
BLOCK = 1 << 20
"""Bytes that are copied at once."""


class Refused(ZooError):
    """What the server answers instead of what was asked: a status, the code that the client reads, a message."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **headers}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One file of a commit."""

    size: int
    """Bytes."""
    sha256: str
    """Hash of the content, which is also its name among the blobs."""
    oid: str
    """What git would call it: the blob's sha1, or that of the LFS pointer."""
    lfs: bool = False
    """Kept as a large file, so that its sha256 is announced."""
    xet: str | None = None
    """Hash under which Xet knows the content, if it came that way."""

    @property
    def etag(self) -> str:
        """What the client names its copy by."""
        return self.sha256 if self.lfs else self.oid


def pointer(sha256: str, size: int) -> bytes:
    """The git-LFS pointer that stands in git for a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def git_oid(content: bytes) -> str:
    """The sha1 by which git names a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Store:
    """Repositories in a folder. Methods raise Refused with the status that the Hub would answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.Lock()
        """Held while a branch moves."""
        for part in ("blobs", "repos", "parts"):
            (folder / part).mkdir(parents=True, exist_ok=True)

    def blob(self, sha256: str) -> Path:
        """Where a content lies, if it is here."""
        if not SHA256.fullmatch(sha256):
            raise Refused(400, f"{sha256!r} is no sha256.")
        return self.folder / "blobs" / sha256

    def put(self, content: bytes | Iterable[bytes], expected: str | None = None) -> str:
        """Store a content and return its sha256. Refused when it is not the expected one."""
        digest = hashlib.sha256()
        temporary = self.folder / "blobs" / f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            with open(temporary, "wb") as file:
                for block in [content] if isinstance(content, bytes) else content:
                    digest.update(block)
                    file.write(block)
            if expected not in (None, digest.hexdigest()):
                raise Refused(400, f"The content has the sha256 {digest.hexdigest()}, announced was {expected}.")
            temporary.replace(self.blob(digest.hexdigest()))
        finally:
            temporary.unlink(missing_ok=True)
        return digest.hexdigest()

    def repos(self) -> list[str]:
        """Ids of all repositories."""
        return sorted("/".join(p.parent.parts[-2:]) for p in (self.folder / "repos").glob("*/*/repo.json"))

    def root(self, repo_id: str) -> Path:
        """The folder of a repository; 404 when there is none."""
        folder = self._place(repo_id)
        if not (folder / "repo.json").exists():
            raise Refused(404, "Repository not found", "RepoNotFound")
        return folder

    def create(self, repo_id: str, private: bool) -> None:
        """A new repository with a first commit, as the Hub makes it; 409 when the name is taken."""
        folder = self._place(repo_id)
        if (folder / "repo.json").exists():
            raise Refused(409, "You already created this model repo")
        write_json(folder / "repo.json", {"private": private, "created": now()})
        attributes = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
        entry = Entry(len(attributes), self.put(attributes), git_oid(attributes))
        self.commit(repo_id, MAIN, "initial commit", "", None, {".gitattributes": entry}, [])

    def delete(self, repo_id: str) -> None:
        """Forget a repository. Contents stay."""
        shutil.rmtree(self.root(repo_id))

    def settings(self, repo_id: str) -> dict[str, Any]:
        """`private` and `created`."""
        return read_json(self.root(repo_id) / "repo.json")

    def refs(self, repo_id: str, kind: str) -> dict[str, str]:
        """Names and commits of the "heads" or "tags"."""
        folder = self.root(repo_id) / kind
        return {p.name: p.read_text() for p in sorted(folder.glob("*")) if not p.name.startswith(TEMPORARY)}

    def set_ref(self, repo_id: str, kind: str, name: str, commit: str) -> None:
        """Let a branch or tag point to a commit."""
        if not NAME.fullmatch(name):
            raise Refused(400, f"{name!r} is no valid name.")
        write_text(self.root(repo_id) / kind / name, commit)

    def find(self, repo_id: str, revision: str) -> dict[str, Any]:
        """The commit that a branch, a tag or an id stands for; 404 when it is unknown."""
        revision = revision.removeprefix("refs/heads/")
        found = {**self.refs(repo_id, "tags"), **self.refs(repo_id, "heads")}.get(revision, revision)
        path = self.root(repo_id) / "commits" / f"{found}.json"
        if not COMMIT.fullmatch(found) or not path.exists():
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        commit = read_json(path)
        return {**commit, "id": found, "files": {name: Entry(**values) for name, values in commit["files"].items()}}

    def history(self, repo_id: str, revision: str) -> list[dict[str, Any]]:
        """The commits that led to a revision, newest first."""
        found = [self.find(repo_id, revision)]
        while found[-1]["parent"]:
            found.append(self.find(repo_id, found[-1]["parent"]))
        return found

    def commit(
        self, repo_id: str, branch: str, title: str, description: str, expected: str | None,
        added: dict[str, Entry], deleted: list[str],
    ) -> str:  # fmt: skip
        """Add a commit to a branch and return its id; 412 when the branch is not at `expected` any more.

        `deleted` are files, or folders with a trailing slash.
        """
        with self.lock:
            heads = self.refs(repo_id, "heads")
            if branch not in heads and heads:
                raise Refused(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            parent = heads.get(branch)
            if expected is not None and expected != parent:
                raise Refused(412, "A commit has happened since. Please refresh and try again.")
            files = dict(self.find(repo_id, parent)["files"]) if parent else {}
            for path in deleted:
                gone = [name for name in files if name == path or (path.endswith("/") and name.startswith(path))]
                if not gone:
                    raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                for name in gone:
                    del files[name]
            files.update(added)
            content = {
                "parent": parent, "title": title, "description": description, "date": now(),
                "files": {name: dataclasses.asdict(entry) for name, entry in sorted(files.items())},
            }  # fmt: skip
            commit = hashlib.sha1(repr((repo_id, content)).encode()).hexdigest()
            write_json(self.root(repo_id) / "commits" / f"{commit}.json", content)
            self.set_ref(repo_id, "heads", branch, commit)
            return commit

    def _place(self, repo_id: str) -> Path:
        parts = repo_id.split("/")
        if len(parts) != 2 or not all(NAME.fullmatch(p) for p in parts):
            raise Refused(404, "Repository not found", "RepoNotFound")
        return self.folder / "repos" / parts[0] / parts[1]


def check_path(path: str) -> str:
    """A path inside a repository; 400 when it could lead outside."""
    parts = path.split("/")
    if not path or path.startswith("/") or "\\" in path or any(p in ("", ".", "..", ".git") for p in parts):
        raise Refused(400, f"{path!r} is no valid path in a repository.")
    return path


def blocks_of(file: BinaryIO, length: int) -> Iterable[bytes]:
    """`length` bytes of an open file, block by block."""
    while length > 0 and (block := file.read(min(BLOCK, length))):
        length -= len(block)
        yield block


def now() -> str:
    """This moment as the Hub writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
