"""The endpoints of the Xet store, and the one of the Hub that leads to them."""

import re

from zoo.testing.calls import Call, Reply, as_json
from zoo.testing.store import Refused
from zoo.testing.xet import expiry


def token(call: Call, repo: str, kind: str) -> Reply:
    """GET /api/models/{repo}/xet-read-token or xet-write-token: the way to the Xet store, which is this server too."""
    _check(call)
    call.writer() if kind == "write" else call.reader(repo)
    cas, key, until = call.hub.endpoint, call.hub.xet.token, expiry()
    headers = {"X-Xet-Cas-Url": cas, "X-Xet-Access-Token": key, "X-Xet-Token-Expiration": str(until)}
    return as_json({"accessToken": key, "exp": until, "casUrl": cas}, **headers)


def put_xorb(call: Call, name: str) -> Reply:
    """POST /v1/xorbs/default/{hash}."""
    _check(call, call.token)
    return as_json({"was_inserted": call.hub.xet.add_xorb(name, call.blocks())})


def put_shard(call: Call) -> Reply:
    """POST /v1/shards."""
    _check(call, call.token)
    call.hub.xet.add_shard(b"".join(call.blocks()))
    return as_json({"result": 1})


def reconstruction(call: Call, name: str) -> Reply:
    """GET /v1/reconstructions/{hash}."""
    _check(call, call.token)
    span = re.fullmatch(r"bytes=(\d+)-(\d+)", call.headers.get("Range", ""))
    return as_json(call.hub.xet.reconstruction(name, (int(span[1]), int(span[2])) if span else None, call.hub.endpoint))


def get_xorb(call: Call, name: str) -> Reply:
    """GET of a part of a xorb, at the address that a reconstruction names."""
    _check(call, call.query.get("token", ""))
    return Reply(file=call.hub.xet.xorb(name))


def _check(call: Call, token: str | None = None) -> None:
    if not call.hub.xet:
        raise Refused(404, "This Hub does not speak Xet. Set HF_HUB_DISABLE_XET=1")
    if token is not None and token != call.hub.xet.token:
        raise Refused(401, "This is not the token of the Xet store")
