"""Ways in which a Hub can misbehave, for tests of the client's side."""

import fnmatch
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from trainer.errors import ConfigError


@dataclass
class Fault:
    """One way to misbehave, for the requests that match. Exactly one of status, hang, cut, corrupt, rate is given."""

    path: str = "*"
    """Wildcard for the path of the request, as in */resolve/*/model.safetensors."""
    method: str = "*"
    """Wildcard for the method, as in GET."""
    times: int | None = None
    """How many requests are hit. None: all."""
    status: int | None = None
    """Answer this status and nothing else."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers of that answer, as in Retry-After."""
    hang: bool = False
    """Take the request and never answer."""
    cut: int | None = None
    """Close the connection after so many bytes of the content: of the file in a download, of the body in an upload."""
    corrupt: bool = False
    """Send a file of the right length with one byte changed."""
    rate: int | None = None
    """Send a file with so many bytes per second."""

    def __post_init__(self) -> None:
        kinds = [self.status is not None, self.hang, self.cut is not None, self.corrupt, self.rate is not None]
        if sum(kinds) != 1:
            raise ConfigError("A Fault needs exactly one of status, hang, cut, corrupt and rate.")
        self.released = threading.Event()
        """Set when the fault is over, so that hanging requests end."""

    def hits(self, method: str, path: str) -> bool:
        """Whether this request is hit; counts it."""
        if self.times == 0 or not fnmatch.fnmatchcase(path, self.path) or not fnmatch.fnmatchcase(method, self.method):
            return False
        if self.times is not None:
            self.times -= 1
        return True

    def spoil(self, blocks: Iterable[bytes], start: int, size: int) -> Iterable[bytes]:
        """A file of `size` bytes from byte `start` on, as this fault lets it through. ConnectionError where it is cut."""
        position = start
        for block in blocks:
            if self.corrupt and position + len(block) == size:
                block = block[:-1] + bytes([block[-1] ^ 1])
            if self.cut is not None and position + len(block) > self.cut:
                yield block[: max(0, self.cut - position)]
                raise ConnectionError("cut on purpose")
            if self.rate is None:
                yield block
            else:
                step = max(1, self.rate // 20)
                for i in range(0, len(block), step):
                    yield block[i : i + step]
                    if self.released.wait(step / self.rate):
                        raise ConnectionError("the server stopped")
            position += len(block)

