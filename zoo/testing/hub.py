"""`LocalHub`: the server itself, with its address, its tokens, its faults and a record of all requests."""

import contextlib
import fnmatch
import logging
import os
import re
import socket
import tempfile
import threading
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qsl, unquote, urlsplit

from trainer.errors import ConfigError, ZooError
from trainer.files import explain
from zoo.testing.calls import Call, Reply, as_json
from zoo.testing.faults import Fault
from zoo.testing.routes import answer
from zoo.testing.store import Refused, Store, blocks_of
from zoo.testing.xet import Xet

log = logging.getLogger("zoo.testing")


@dataclass(frozen=True)
class Request:
    """What was asked and answered."""

    method: str
    path: str
    status: int
    """HTTP status; 0 when the connection was closed without an answer."""


class LocalHub:
    """A Hub on the loopback address, as a context manager.

        with LocalHub() as hub, hub.in_this_process(tmp_path):
            model.push_to_hub("me/model")

    `folder` keeps what is published, also over restarts; without it everything is gone at the end. `port` 0 takes a
    free one. With `xet` large files travel as they do to the real Hub: by Xet, or by git-LFS from a client that has
    `HF_HUB_DISABLE_XET=1`. Without it Xet is not spoken, and with `large_files=False` every file travels in the body of the commit, which
    any client can do. `part_size` is the size in bytes from which a large file is uploaded in parts.
    """

    def __init__(
        self, folder: Path | str | None = None, port: int = 0, xet: bool = True, large_files: bool = True, part_size: int = 64 << 20
    ) -> None:
        self.kept = Path(folder) if folder is not None else None
        self.port, self.speaks_xet, self.large_files, self.part_size = port, xet, large_files, part_size
        self.user = "local"
        """Owner of the tokens; may write in every namespace."""
        self.token, self.read_token = "hf_local", "hf_local_read"
        """For Authorization: one that may write, one that may only read."""
        self.secret = uuid.uuid4().hex
        """Part of the addresses for uploads, which carry no token."""
        self.requests: list[Request] = []
        self._faults: list[Fault] = []
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> "LocalHub":
        with contextlib.ExitStack() as stack:
            folder = self.kept or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="local-hub-", ignore_cleanup_errors=True)))
            try:
                self.store = Store(folder)
                self.xet = Xet(folder / "xet") if self.speaks_xet else None
            except OSError as error:
                raise explain(error, folder) from error
            try:
                self._server = _Server(("127.0.0.1", self.port), self)
            except OSError as error:
                raise ConfigError(f"Port {self.port} cannot be used ({error.strerror}). Choose another with --port, or 0 for a free one.") from error
            thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            stack.callback(self._server.server_close)
            stack.callback(self._server.shutdown)
            stack.callback(self.heal)
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        self._exit.close()

    @property
    def endpoint(self) -> str:
        """Address without a trailing slash, as HF_ENDPOINT takes it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self, home: Path | str) -> dict[str, str]:
        """Variables that lead a new process to this Hub, with caches below `home`."""
        return {
            "HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_TOKEN": self.token, "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1",
        }  # fmt: skip

    @contextlib.contextmanager
    def in_this_process(self, home: Path | str, **constants: Any) -> Iterator[None]:
        """Lead huggingface_hub in this process to this Hub, with caches below `home`.

        The library reads its variables once, when it is imported; here its `constants` are replaced instead, and put
        back at the end. More of them can be given by name (`HF_HUB_DISABLE_XET=True`).
        """
        from huggingface_hub import close_session
        from huggingface_hub import constants as hub_constants

        home = Path(home)
        values = {
            "ENDPOINT": self.endpoint, "HUGGINGFACE_CO_URL_TEMPLATE": self.endpoint + "/{repo_id}/resolve/{revision}/{filename}", "HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), "HF_XET_CACHE": str(home / "xet"),
            "HF_HUB_OFFLINE": False, "HF_TOKEN_PATH": str(home / "token"), **constants,
        }  # fmt: skip
        close_session()
        with mock.patch.multiple(hub_constants, **values), mock.patch.dict(os.environ, self.environment(home)):
            yield
        close_session()

    def fault(self, **what: Any) -> Fault:
        """Misbehave from now on, as the fields of `Fault` say; `heal` ends it."""
        self._faults.append(Fault(**what))
        return self._faults[-1]

    def heal(self) -> None:
        """End all faults."""
        for fault in self._faults:
            fault.released.set()
        self._faults.clear()

    def count(self, method: str = "*", path: str = "*") -> int:
        """How many requests so far match two wildcards."""
        return sum(fnmatch.fnmatchcase(r.method, method) and fnmatch.fnmatchcase(r.path, path) for r in self.requests)

    def find_fault(self, method: str, path: str) -> Fault | None:
        """The first fault that hits a request."""
        return next((fault for fault in list(self._faults) if fault.hits(method, path)), None)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], hub: LocalHub) -> None:
        self.hub = hub
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("A client left in the middle", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        hub, parts = self.server.hub, urlsplit(self.path)
        path, fault = unquote(parts.path), hub.find_fault(self.command, unquote(parts.path))
        call = Call(hub, self.command, parts.path, dict(parse_qsl(parts.query)), self.headers, self._blocks)
        self.body_read = False
        try:
            reply = self._reply(call, fault)
        except ConnectionError:
            reply = Reply(status=0)
        hub.requests.append(Request(self.command, path, reply.status))
        try:
            self._send(reply, fault)
        except ConnectionError:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *arguments: Any) -> None:
        log.debug(format, *arguments)

    def _reply(self, call: Call, fault: Fault | None) -> Reply:
        if fault is not None and fault.hang:
            fault.released.wait(600)
            raise ConnectionError("hung on purpose")
        if fault is not None and fault.status is not None:
            return as_json({"error": "on purpose"}, fault.status, **fault.headers)
        if fault is not None and fault.cut is not None and self.command in ("POST", "PUT"):
            for _ in fault.spoil(self._blocks(), 0, 0):
                pass
            raise ConnectionError("the body was shorter than the cut")
        try:
            return answer(call)
        except Refused as error:
            return as_json({"error": str(error)}, error.status, **error.headers)
        except ZooError as error:  # a full disk, for instance
            return as_json({"error": str(error)}, 500)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            log.debug("A request that this Hub does not understand", exc_info=True)
            return as_json({"error": f"Not understood: {error!r}"}, 400)

    def _send(self, reply: Reply, fault: Fault | None) -> None:
        if reply.status == 0:
            raise ConnectionError("no answer is sent")
        size = reply.file.stat().st_size if reply.file else len(reply.body)
        start, end = 0, size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if reply.file else None
        headers, status = dict(reply.headers), reply.status
        if asked:
            start, end = int(asked[1]), min(size, int(asked[2]) + 1) if asked[2] else size
            status = 206 if start < size else 416
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}" if start < size else f"bytes */{size}"
            end = max(start, end)
        if self.command in ("POST", "PUT") and not self.body_read:
            self.close_connection = True  # what is left of the body would be taken for the next request
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(end - start), "Accept-Ranges": "bytes"}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD" or start == end:
            return
        if reply.file is None:
            self.wfile.write(reply.body)
            return
        with open(reply.file, "rb") as file:
            file.seek(start)
            blocks = blocks_of(file, end - start)
            for block in blocks if fault is None else fault.spoil(blocks, start, size):
                self.wfile.write(block)

    def _blocks(self) -> Iterable[bytes]:
        """The body of the request, block by block."""
        self.body_read = True
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while length := int(self.rfile.readline().split(b";")[0], 16):
                yield from blocks_of(self.rfile, length)
                self.rfile.readline()
            self.rfile.readline()
            return
        length = int(self.headers.get("Content-Length") or 0)
        received = 0
        for block in blocks_of(self.rfile, length):
            received += len(block)
            yield block
        if received != length:
            raise ConnectionError(f"{length} bytes were announced, {received} came")
