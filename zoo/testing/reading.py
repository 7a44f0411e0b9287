"""What a local Hub answers to who reads: models, revisions, listings, files, and files through Xet.

Source of the behaviour: huggingface_hub 2.4, read and run.
"""

from typing import Any
from urllib.parse import parse_qs

from zoo.testing.calls import Call, Reply, as_json
from zoo.testing.store import MAIN, Entry, Refused, pointer

PAGE = 1000
"""Files per page of a listing."""


def whoami(call: Call) -> Reply:
    """GET /api/whoami-v2."""
    role = {call.hub.token: "write", call.hub.read_token: "read"}.get(call.token)
    if role is None:
        raise Refused(401, "Invalid credentials in Authorization header")
    return as_json({"type": "user", "name": call.hub.user, "orgs": [], "auth": {"accessToken": {"role": role}}})


def models(call: Call) -> Reply:
    """GET /api/models?author=...&search=...: what is here."""
    author, search = call.query.get("author"), call.query.get("search", "")
    found = []
    for repo in call.hub.store.repos():
        private = call.hub.store.settings(repo)["private"] and call.token not in (call.hub.token, call.hub.read_token)
        if not private and author in (None, repo.partition("/")[0]) and search in repo:
            found.append(_describe(call, repo, MAIN))
    return as_json(found)


def info(call: Call, repo: str, revision: str = MAIN) -> Reply:
    """GET /api/models/{repo}[/revision/{revision}][?blobs=true]."""
    call.reader(repo)
    return as_json(_describe(call, repo, revision))


def tree(call: Call, repo: str, revision: str) -> Reply:
    """GET /api/models/{repo}/tree/{revision}: all files, page by page."""
    call.reader(repo)
    files = sorted(call.hub.store.find(repo, revision)["files"].items())
    start = int(call.query.get("cursor", 0))
    page, more = files[start : start + PAGE], len(files) > start + PAGE
    link = {"Link": f'<{call.hub.endpoint}{call.path}?recursive=true&cursor={start + PAGE}>; rel="next"'} if more else {}
    return as_json([_listed(call, path, entry) for path, entry in page], **link)


def paths_info(call: Call, repo: str, revision: str) -> Reply:
    """POST /api/models/{repo}/paths-info/{revision}: some files."""
    call.reader(repo)
    asked = parse_qs(b"".join(call.blocks()).decode()).get("paths", [])
    files = call.hub.store.find(repo, revision)["files"]
    return as_json([_listed(call, path, files[path]) for path in asked if path in files])


def refs(call: Call, repo: str) -> Reply:
    """GET /api/models/{repo}/refs."""
    call.reader(repo)
    found = {
        kind: [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": c} for n, c in call.hub.store.refs(repo, kind).items()]
        for kind in ("heads", "tags")
    }
    return as_json({"branches": found["heads"], "tags": found["tags"], "converts": []})


def commits(call: Call, repo: str, revision: str) -> Reply:
    """GET /api/models/{repo}/commits/{revision}."""
    call.reader(repo)
    return as_json(
        [
            {"id": c["id"], "title": c["title"], "message": c["description"], "date": c["date"], "authors": [{"user": call.hub.user}]}
            for c in call.hub.store.history(repo, revision)
        ]
    )


def resolve(call: Call, repo: str, revision: str, path: str) -> Reply:
    """GET and HEAD /{repo}/resolve/{revision}/{path}: the file itself, with what the client must know of it."""
    call.reader(repo)
    found = call.hub.store.find(repo, revision)
    entry = found["files"].get(path)
    if entry is None:
        raise Refused(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": found["id"]})
    headers = {"X-Repo-Commit": found["id"], "ETag": f'"{entry.etag}"', "Content-Type": "application/octet-stream"}
    if entry.lfs:
        headers |= {"X-Linked-Size": str(entry.size), "X-Linked-ETag": f'"{entry.sha256}"'}
    if entry.xet and call.hub.xet:
        token_url = f"{call.hub.endpoint}/api/models/{repo}/xet-read-token/{found['id']}"
        headers |= {"X-Xet-Hash": entry.xet, "Link": f'<{token_url}>; rel="xet-auth"'}
    return Reply(headers=headers, file=call.hub.store.blob(entry.sha256))


def _describe(call: Call, repo: str, revision: str) -> dict[str, Any]:
    found, settings = call.hub.store.find(repo, revision), call.hub.store.settings(repo)
    files = []
    for path, entry in sorted(found["files"].items()):
        more = {"size": entry.size, "blobId": entry.oid}
        if entry.lfs:
            more["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": len(pointer(entry.sha256, entry.size))}
        files.append({"rfilename": path, **(more if call.query.get("blobs", "").lower() == "true" else {})})
    return {
        "id": repo, "modelId": repo, "author": repo.partition("/")[0], "sha": found["id"], "lastModified": found["date"],
        "createdAt": settings["created"], "private": settings["private"], "gated": False, "disabled": False,
        "downloads": 0, "likes": 0, "tags": [], "siblings": files,
    }  # fmt: skip


def _listed(call: Call, path: str, entry: Entry) -> dict[str, Any]:
    values = {"type": "file", "path": path, "size": entry.size, "oid": entry.oid}
    if entry.lfs:
        values["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": len(pointer(entry.sha256, entry.size))}
    return {**values, **({"xetHash": entry.xet} if entry.xet and call.hub.xet else {})}
