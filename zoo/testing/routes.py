"""Which function answers which request. Datasets, spaces and pull requests are not offered."""

import re
from collections.abc import Callable
from urllib.parse import unquote

from zoo.testing.calls import Call, Reply
from zoo.testing.reading import commits, info, models, paths_info, refs, resolve, tree, whoami
from zoo.testing.store import Refused
from zoo.testing.writing import branch, commit, create, delete, lfs_batch, lfs_join, lfs_put, lfs_put_part, lfs_verify, preupload, tag, validate_card
from zoo.testing.xet_calls import get_xorb, put_shard, put_xorb, reconstruction, token

REPO, REVISION, HASH = r"(?P<repo>[^/]+/[^/]+)", r"(?P<revision>[^/]+)", r"(?P<name>[0-9a-f]+)"
ROUTES: list[tuple[str, str, Callable[..., Reply]]] = [
    ("POST", "/api/repos/create", create),
    ("DELETE", "/api/repos/delete", delete),
    ("GET", "/api/whoami-v2", whoami),
    ("POST", "/api/validate-yaml", validate_card),
    ("GET", "/api/models", models),
    ("GET", f"/api/models/{REPO}", info),
    ("GET", f"/api/models/{REPO}/revision/{REVISION}", info),
    ("GET", f"/api/models/{REPO}/tree/{REVISION}", tree),
    ("POST", f"/api/models/{REPO}/paths-info/{REVISION}", paths_info),
    ("GET", f"/api/models/{REPO}/refs", refs),
    ("GET", f"/api/models/{REPO}/commits/{REVISION}", commits),
    ("POST", f"/api/models/{REPO}/branch/(?P<name>[^/]+)", branch),
    ("POST", f"/api/models/{REPO}/tag/{REVISION}", tag),
    ("POST", f"/api/models/{REPO}/preupload/{REVISION}", preupload),
    ("POST", f"/api/models/{REPO}/commit/{REVISION}", commit),
    ("GET", f"/api/models/{REPO}/xet-(?P<kind>read|write)-token/[^/]+", token),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", lfs_batch),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/verify", lfs_verify),
    ("PUT", "/upload/(?P<secret>[^/]+)/(?P<oid>[^/]+)", lfs_put),
    ("POST", "/upload/(?P<secret>[^/]+)/(?P<oid>[^/]+)", lfs_join),
    ("PUT", "/upload/(?P<secret>[^/]+)/(?P<oid>[^/]+)/(?P<number>[0-9]+)", lfs_put_part),
    ("GET", f"/{REPO}/resolve/{REVISION}/(?P<path>.+)", resolve),
    ("POST", f"/v1/xorbs/default/{HASH}", put_xorb),
    ("POST", "/v1/shards", put_shard),
    ("GET", f"/v1/reconstructions/{HASH}", reconstruction),
    ("GET", f"/xet/xorbs/{HASH}", get_xorb),
]
"""Method, path (the whole of it), function. HEAD is GET without the body."""


def answer(call: Call) -> Reply:
    """The reply to a request; Refused when there is none."""
    method = "GET" if call.method == "HEAD" else call.method
    for wanted, pattern, function in ROUTES:
        found = re.fullmatch(pattern, call.path)
        if found and wanted == method:
            return function(call, **{name: unquote(value) for name, value in found.groupdict().items()})
    raise Refused(404, f"A local Hub has no {call.method} {call.path}")
