"""The part of a Xet store that a client talks to: it takes xorbs and shards and says how to put a file together.

Source of the formats and endpoints: Xet protocol specification 1.1 (huggingface.co/docs/xet). A *xorb* is a sequence of
compressed chunks; a *shard* lists files as ranges of chunks of xorbs. Hashes are computed by the client and taken
as names; that a file is what it claims to be is checked by its sha256 when it is committed.
"""

import struct
import tempfile
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainer.errors import MissingDependencyError
from trainer.files import TEMPORARY, read_json, write_json, write_text
from zoo.testing.store import BLOCK, SHA256, Refused

RECORD = 48
"""Bytes of every record in a shard, its header included."""
VERIFIED, WITH_SHA256 = 1 << 31, 1 << 30
"""Flags of a file in a shard: which records follow its terms."""
LIFETIME = 24 * 3600
"""Seconds for which an access token is promised to hold."""


class Xet:
    """Xorbs and file descriptions in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token = f"xet-{uuid.uuid4().hex}"
        """What the Hub hands out and this store accepts."""
        for part in ("xorbs", "files", "by-sha256"):
            (folder / part).mkdir(parents=True, exist_ok=True)

    def xorb(self, name: str) -> Path:
        """Where a xorb lies; 404 when it is unknown."""
        path = self._path("xorbs", name)
        if not path.exists():
            raise Refused(404, f"No xorb {name}")
        return path

    def add_xorb(self, name: str, blocks: Iterable[bytes]) -> bool:
        """Store a xorb; False when it was here already."""
        path = self._path("xorbs", name)
        new = not path.exists()
        temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        try:
            with open(temporary, "wb") as file:
                file.writelines(blocks)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return new

    def add_shard(self, shard: bytes) -> None:
        """Register the files that a shard describes; 400 when it is not one or names unknown xorbs."""
        try:
            files = list(parse_shard(shard))
        except (struct.error, IndexError) as error:
            raise Refused(400, f"This is no shard: {error}") from error
        for name, sha256, terms in files:
            for xorb, *_ in terms:
                self.xorb(xorb)
            write_json(self._path("files", name), {"terms": terms})
            if sha256:
                write_text(self._path("by-sha256", sha256), name)

    def name_of(self, sha256: str) -> str | None:
        """The hash by which Xet knows a content, if it was uploaded through Xet."""
        path = self._path("by-sha256", sha256)
        return path.read_text() if path.exists() else None

    def reconstruction(self, name: str, span: tuple[int, int] | None, endpoint: str) -> dict[str, Any]:
        """Which chunks of which xorbs make up a file, or its bytes `span` (first, last); 404 and 416 as documented."""
        path = self._path("files", name)
        if not path.exists():
            raise Refused(404, f"No file {name}")
        first, last = span or (0, None)
        terms, fetch, position, offset = [], {}, 0, 0
        for xorb, begin, end, length in read_json(path)["terms"]:
            if position + length > first and (last is None or position <= last):
                if not terms:
                    offset = first - position
                chunks = {"start": begin, "end": end}
                bounds = chunk_bounds(self.xorb(xorb))
                terms.append({"hash": xorb, "unpacked_length": length, "range": chunks})
                fetch.setdefault(xorb, []).append(
                    {
                        "range": chunks,
                        "url": f"{endpoint}/xet/xorbs/{xorb}?token={self.token}",
                        "url_range": {"start": bounds[begin], "end": bounds[end] - 1},
                    }
                )
            position += length
        if not terms and position > 0:
            raise Refused(416, "The range lies behind the end of the file.")
        return {"offset_into_first_range": offset, "terms": terms, "fetch_info": fetch}

    def content(self, sha256: str, size: int, endpoint: str) -> Iterable[bytes]:
        """The content of a file that was uploaded through Xet, put together by Xet's own library."""
        name = self.name_of(sha256)
        if name is None:
            raise Refused(400, f"The content with sha256 {sha256} was not uploaded.")
        try:
            import hf_xet
        except ModuleNotFoundError as error:
            raise MissingDependencyError("A local Hub needs hf_xet to store what came through Xet: pip install hf_xet.") from error
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            target = Path(folder) / "content"
            session = hf_xet.XetSession()
            access = {"endpoint": endpoint, "token": self.token, "token_expiry_unix_secs": expiry()}
            with session.new_file_download_group(**access) as group:
                group.start_download_file(hf_xet.XetFileInfo(name, size), str(target))
            with open(target, "rb") as file:
                while block := file.read(BLOCK):
                    yield block

    def _path(self, part: str, name: str) -> Path:
        if not SHA256.fullmatch(name):
            raise Refused(400, f"{name!r} is no hash.")
        return self.folder / part / name


def parse_shard(shard: bytes) -> Iterable[tuple[str, str | None, list[tuple[str, int, int, int]]]]:
    """(hash, sha256, terms) of each file in a shard; a term is (xorb, first chunk, end chunk, unpacked bytes)."""
    at = RECORD
    while shard[at : at + 32] != b"\xff" * 32:
        flags, count = struct.unpack_from("<II", shard, at + 32)
        name, terms = hash_text(shard[at : at + 32]), []
        for i in range(1, count + 1):
            xorb = hash_text(shard[at + RECORD * i : at + RECORD * i + 32])
            _, length, begin, end = struct.unpack_from("<IIII", shard, at + RECORD * i + 32)
            terms.append((xorb, begin, end, length))
        at += RECORD * (1 + count * (2 if flags & VERIFIED else 1))
        sha256 = hash_text(shard[at : at + 32]) if flags & WITH_SHA256 else None
        at += RECORD if flags & WITH_SHA256 else 0
        yield name, sha256, terms


def chunk_bounds(xorb: Path) -> list[int]:
    """Where the chunks of a xorb begin, and where the last one ends: N + 1 byte offsets."""
    content = xorb.read_bytes()
    bounds = [0]
    while bounds[-1] < len(content) and content[bounds[-1]] == 0:  # a chunk's version; the footer begins with text
        bounds.append(bounds[-1] + 8 + int.from_bytes(content[bounds[-1] + 1 : bounds[-1] + 4], "little"))
    return bounds


def hash_text(raw: bytes) -> str:
    """A hash of 32 bytes as Xet writes it: four little-endian numbers in hexadecimal."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))


def expiry() -> int:
    """Unix time until which a token is promised to hold."""
    return int(time.time()) + LIFETIME
