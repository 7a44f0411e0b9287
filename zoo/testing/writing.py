"""What a local Hub does for who writes: repositories, uploads in three ways, and commits that happen at once or not at all.

Source of the behaviour: huggingface_hub 2.4, read and run.
"""

import base64
import binascii
import json
import math
import re
from pathlib import Path

import yaml

from zoo.testing.calls import Call, Reply, as_json
from zoo.testing.store import MAIN, SHA256, Entry, Refused, check_path, git_oid, pointer

LARGE = (".safetensors", ".bin", ".pt", ".pth", ".onnx", ".h5", ".zip", ".npz")
"""Endings that are kept as large files whatever their size."""
LARGE_SIZE = 10 << 20
"""Bytes from which any file is kept as a large one."""


def create(call: Call) -> Reply:
    """POST /api/repos/create."""
    call.writer()
    asked = call.json()
    if asked.get("type", "model") != "model":
        raise Refused(400, "This Hub holds models only")
    repo_id = f"{asked.get('organization') or call.hub.user}/{asked['name']}"
    url = {"url": f"{call.hub.endpoint}/{repo_id}", "name": repo_id}
    try:
        call.hub.store.create(repo_id, asked.get("visibility") == "private" or asked.get("private") is True)
    except Refused as error:
        if error.status != 409:
            raise
        return as_json({**url, "error": str(error)}, 409, **error.headers)
    return as_json(url)


def delete(call: Call) -> Reply:
    """DELETE /api/repos/delete."""
    call.writer()
    asked = call.json()
    call.hub.store.delete(f"{asked.get('organization') or call.hub.user}/{asked['name']}")
    return Reply()


def validate_card(call: Call) -> Reply:
    """POST /api/validate-yaml: the head of a README."""
    content = str(call.json().get("content", ""))
    head = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", content, re.S)
    errors, warnings = [], [] if head else [{"message": "empty or missing yaml metadata in repo card"}]
    try:
        values = yaml.safe_load(head[1]) if head else {}
    except yaml.YAMLError as error:
        values, errors = {}, [{"message": f"The metadata are not YAML: {error}"}]
    if not isinstance(values, dict):
        errors.append({"message": "The metadata must be a mapping"})
    return as_json({"errors": errors, "warnings": warnings}, 400 if errors else 200)


def preupload(call: Call, repo: str, revision: str) -> Reply:
    """POST /api/models/{repo}/preupload/{revision}: which files travel as large ones, and which are here already."""
    call.writer()
    files = call.hub.store.find(repo, revision)["files"]
    answers = []
    for asked in call.json()["files"]:
        large = call.hub.large_files and (asked["path"].endswith(LARGE) or asked["size"] >= LARGE_SIZE)
        old = files.get(check_path(asked["path"]))
        answers.append(
            {
                "path": asked["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False,
                "oid": old.etag if old and old.lfs == large else None,
            }
        )  # fmt: skip
    return as_json({"files": answers})


def lfs_batch(call: Call, repo: str) -> Reply:
    """POST /{repo}.git/info/lfs/objects/batch: where to put large files, in parts when they are larger than one part."""
    call.writer()
    call.hub.store.root(repo)
    objects = []
    for asked in call.json()["objects"]:
        oid, size, actions = asked["oid"], asked["size"], {}
        if not call.hub.store.blob(oid).exists():
            place, header = f"{call.hub.endpoint}/upload/{call.hub.secret}/{oid}", {}
            if size > call.hub.part_size:
                count = math.ceil(size / call.hub.part_size)
                header = {"chunk_size": str(call.hub.part_size), **{str(i): f"{place}/{i}" for i in range(1, count + 1)}}
            verify = {"href": f"{call.hub.endpoint}/{repo}.git/info/lfs/objects/verify"}
            actions = {"actions": {"upload": {"href": place, "header": header}, "verify": verify}}
        objects.append({"oid": oid, "size": size, **actions})
    return as_json({"transfer": "basic", "objects": objects}, **{"Content-Type": "application/vnd.git-lfs+json"})


def lfs_put(call: Call, secret: str, oid: str) -> Reply:
    """PUT of a large file in one piece."""
    _check_secret(call, secret)
    call.hub.store.put(call.blocks(), expected=oid)
    return Reply()


def lfs_put_part(call: Call, secret: str, oid: str, number: str) -> Reply:
    """PUT of one part of a large file."""
    _check_secret(call, secret)
    sha256 = call.hub.store.put(call.blocks())
    call.hub.store.blob(sha256).replace(_part(call, oid, number))
    return Reply(headers={"ETag": f'"{sha256}"'})


def lfs_join(call: Call, secret: str, oid: str) -> Reply:
    """POST when all parts are here."""
    _check_secret(call, secret)
    parts = [_part(call, oid, str(part["partNumber"])) for part in call.json()["parts"]]
    if not all(part.exists() for part in parts):
        raise Refused(400, "A part is missing")
    call.hub.store.put((part.read_bytes() for part in parts), expected=oid)
    for part in parts:
        part.unlink()
    return Reply()


def lfs_verify(call: Call, repo: str) -> Reply:
    """POST of hash and size after an upload."""
    asked = call.json()
    blob = call.hub.store.blob(asked["oid"])
    if not blob.exists() or blob.stat().st_size != asked["size"]:
        raise Refused(404, f"No content {asked['oid']} of {asked['size']} bytes")
    return Reply()


def commit(call: Call, repo: str, revision: str) -> Reply:
    """POST /api/models/{repo}/commit/{branch}: all changes at once, or none."""
    call.writer()
    header, added, deleted = {}, {}, []
    for line in b"".join(call.blocks()).splitlines():
        item = json.loads(line)
        key, value = item["key"], item["value"]
        if key == "header":
            header = value
        elif key == "file":
            try:
                content = base64.b64decode(value["content"], validate=True)
            except binascii.Error as error:
                raise Refused(400, f"{value['path']}: {error}") from error
            added[check_path(value["path"])] = Entry(len(content), call.hub.store.put(content), git_oid(content))
        elif key == "lfsFile":
            added[check_path(value["path"])] = _large(call, value["oid"], value.get("size"))
        elif key in ("deletedFile", "deletedFolder"):
            deleted.append(value["path"].rstrip("/") + ("/" if key == "deletedFolder" else ""))
        else:
            raise Refused(400, f"Unknown change {key!r}")
    title = header.get("summary", "")
    made = call.hub.store.commit(repo, revision, title, header.get("description", ""), header.get("parentCommit"), added, deleted)
    return as_json({"success": True, "commitOid": made, "commitUrl": f"{call.hub.endpoint}/{repo}/commit/{made}", "pullRequestUrl": None})


def branch(call: Call, repo: str, name: str) -> Reply:
    """POST /api/models/{repo}/branch/{name}."""
    return _point(call, repo, "heads", name, call.json().get("startingPoint", MAIN))


def tag(call: Call, repo: str, revision: str) -> Reply:
    """POST /api/models/{repo}/tag/{revision}."""
    return _point(call, repo, "tags", call.json()["tag"], revision)


def _large(call: Call, sha256: str, size: int | None) -> Entry:
    """A file whose content was uploaded before; what came through Xet is put together now."""
    if not SHA256.fullmatch(sha256):
        raise Refused(400, f"{sha256!r} is no sha256.")
    blob = call.hub.store.blob(sha256)
    if not blob.exists():
        if not call.hub.xet:
            raise Refused(400, f"The content with sha256 {sha256} was not uploaded.")
        call.hub.store.put(call.hub.xet.content(sha256, size or 0, call.hub.endpoint), expected=sha256)
    size = blob.stat().st_size
    return Entry(size, sha256, git_oid(pointer(sha256, size)), True, call.hub.xet.name_of(sha256) if call.hub.xet else None)


def _point(call: Call, repo: str, kind: str, name: str, revision: str) -> Reply:
    call.writer()
    if name in call.hub.store.refs(repo, kind):
        raise Refused(409, f"{name} exists already")
    call.hub.store.set_ref(repo, kind, name, call.hub.store.find(repo, revision)["id"])
    return Reply()


def _part(call: Call, oid: str, number: str) -> Path:
    if not SHA256.fullmatch(oid) or not number.isdigit():
        raise Refused(400, "No such part")
    return call.hub.store.folder / "parts" / f"{oid}-{number}"


def _check_secret(call: Call, secret: str) -> None:
    if secret != call.hub.secret:
        raise Refused(403, "This address was not given by this server")
