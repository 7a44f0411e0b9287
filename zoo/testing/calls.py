"""One request to a local Hub and its answer, apart from HTTP."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.testing.store import Refused

if TYPE_CHECKING:
    from zoo.testing.hub import LocalHub


@dataclass
class Call:
    """One request."""

    hub: "LocalHub"
    method: str
    path: str
    query: dict[str, str]
    headers: Any
    blocks: Callable[[], Iterable[bytes]]
    """The body, to be read once."""

    @property
    def token(self) -> str:
        """What the client shows to be let in, or an empty text."""
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def json(self) -> Any:
        """The body as JSON; 400 when it is not."""
        try:
            return json.loads(b"".join(self.blocks()))
        except ValueError as error:
            raise Refused(400, f"The body is not JSON: {error}") from error

    def reader(self, repo_id: str) -> None:
        """Let through whoever may read a repository."""
        known = self.token in (self.hub.token, self.hub.read_token)
        if self.token and not known:
            raise Refused(401, "Invalid credentials in Authorization header")
        try:
            private = self.hub.store.settings(repo_id)["private"]
        except Refused:
            if known:
                raise
            private = True  # a stranger is not told whether a private repository exists
        if private and not known:
            raise Refused(401, "Invalid username or password.", "RepoNotFound")

    def writer(self) -> None:
        """Let through whoever may write."""
        if self.token == self.hub.read_token:
            raise Refused(403, "This token may read only; writing needs a token with write access")
        if self.token != self.hub.token:
            raise Refused(401, "Invalid credentials in Authorization header" if self.token else "Invalid username or password.")


@dataclass
class Reply:
    """One answer: a short body, or a file."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    file: Path | None = None


def as_json(value: Any, status: int = 200, **headers: str) -> Reply:
    """An answer in JSON."""
    return Reply(json.dumps(value).encode(), status, {"Content-Type": "application/json", **headers})
