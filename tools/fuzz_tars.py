"""Tars for `tools.fuzz_cases`: sound ones of a few pictures, and every way to damage them."""

import bz2
import gzip
import io
import lzma
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable

from PIL import Image

SAMPLES = 4
"""Samples of a tar."""
REFUSED = "refused"
"""Of a damage: no sample of the tar may be read."""
Good = set[int] | str | None
"""Which samples must still be read, and no others; REFUSED for none; None when that depends on chance."""
EVERY = set(range(SAMPLES))


def colour(shard: int, number: int) -> tuple[int, int, int]:
    """The colour of a good sample."""
    return 40 * number + 20, 200 if shard else 60, 100


def picture(rng: random.Random, shard: int, number: int, ending: str) -> bytes:
    """A small picture of the sample's colour."""
    file = io.BytesIO()
    kind = {"jpg": "JPEG", "jpeg": "JPEG", "tif": "TIFF", "tiff": "TIFF"}.get(ending, ending.upper())
    Image.new("RGB", (rng.randint(2, 30), rng.randint(2, 30)), colour(shard, number)).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def entry(name: str, content: bytes = b"", **fields: object) -> bytes:
    """A member with its header; `fields` of the header as given, whatever the content is."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def intact(rng: random.Random, shard: int) -> list[bytes]:
    """The members of a sound tar: a picture and a class for each sample."""
    members = []
    for number in range(SAMPLES):
        ending = rng.choice(("png", "bmp", "webp", "tif", "gif"))
        members += [entry(f"{number:03d}.{ending}", picture(rng, shard, number, ending)), entry(f"{number:03d}.cls", b"1")]
    return members


def _tar(members: list[bytes]) -> bytes:
    return b"".join(members) + bytes(2 * tarfile.BLOCKSIZE)


def _cut(rng: random.Random, members: list[bytes], hostile: str) -> tuple[bytes, Good]:
    whole = b"".join(members)
    return whole[: rng.randrange(len(whole))], REFUSED


def _flipped(rng: random.Random, members: list[bytes], hostile: str) -> tuple[bytes, Good]:
    data = bytearray(_tar(members))
    for _ in range(rng.randint(1, 20)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data), None


def _other_header(rng: random.Random, members: list[bytes], hostile: str) -> tuple[bytes, Good]:
    """One header with a random field, its checksum made right again."""
    place = rng.randrange(len(members))
    header = bytearray(members[place][:512])
    at = rng.choice((0, 100, 108, 124, 136, 156, 157, 257, 263, 329, 345))
    length = rng.randint(1, 12)
    header[at : at + length] = rng.choice((rng.randbytes(length), b"7" * length, b"\xff" * length, b"\x80" + bytes(length - 1)))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    members = [*members]
    members[place] = bytes(header) + members[place][512:]
    return _tar(members), None


def _inserted(make: Callable[[random.Random, str], bytes], good: Good) -> "Damage":
    """A damage that adds a member at a random place."""

    def damage(rng: random.Random, members: list[bytes], hostile: str) -> tuple[bytes, Good]:
        place = rng.randrange(len(members) + 1)
        return _tar([*members[:place], make(rng, hostile), *members[place:]]), good

    return damage


def _instead(make: Callable[[random.Random, str], tuple[str, bytes]]) -> "Damage":
    """A damage that puts something else in the place of one sample's picture, which is then not read."""

    def damage(rng: random.Random, members: list[bytes], hostile: str) -> tuple[bytes, Good]:
        number, (ending, content) = rng.randrange(SAMPLES), make(rng, hostile)
        members = [*members]
        members[2 * number] = entry(f"{number:03d}.{ending}", content)
        return _tar(members), EVERY - {number}

    return damage


def _two_pictures(rng: random.Random, members: list[bytes], hostile: str) -> tuple[bytes, Good]:
    number = rng.randrange(SAMPLES)
    return _tar([*members, entry(f"{number:03d}.jpeg", picture(rng, 1, number, "jpeg"))]), EVERY - {number}


def _as(pack: Callable[[bytes], bytes]) -> "Damage":
    """A damage of the whole file."""
    return lambda rng, members, hostile: (pack(_tar(members)), REFUSED)


def _pickle(rng: random.Random, hostile: str) -> bytes:
    """What would make a file if anybody unpickled it."""
    return f"cos\nsystem\n(S'touch {hostile}'\ntR.".encode()


def _program(rng: random.Random, hostile: str) -> bytes:
    """A member that a careless reader would unpickle or run, beside a good picture."""
    content = rng.choice((_pickle(rng, hostile), f"open({hostile!r}, 'w')".encode(), b"MZ" + bytes(100), b"\x7fELF" + bytes(100)))
    return entry(f"{rng.randrange(SAMPLES):03d}.{rng.choice(('pkl', 'pyd', 'pth', 'pt', 'so', 'py', 'pickle', 'cls.pyd', 'json.pkl'))}", content)


def _png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


BOMBS: dict[str, Callable[[random.Random, str], bytes]] = {
    "huge picture": lambda rng, hostile: _png(rng.choice((60_000, 2**31 - 1)), 60_000, zlib.compress(bytes(1000))),
    "picture of few bytes": lambda rng, hostile: _png(5000, 5000, zlib.compress(bytes(100))),
    "huge bitmap": lambda rng, hostile: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 100_000, rng.choice((100_000, -100_000)), 1, 24, 0, 0, 0, 0, 0, 0),
}
"""Pictures that claim more than they hold."""


def _other_content(rng: random.Random, hostile: str) -> tuple[str, bytes]:
    """What is no picture, under a picture's name."""
    ending = rng.choice(("png", "jpg", "webp", "tif", "gif", "bmp"))
    texts = (b"", b"<html>login</html>", b"version https://git-lfs.github.com/spec/v1\n", b"text", b"\0" * 1000, _pickle(rng, hostile), b"RIFF\0\0\0\0WEBP", b"\xff\xd8\xff")
    return ending, rng.choice((*texts, rng.randbytes(500), *(make(rng, hostile) for make in BOMBS.values())))


def _huge_header(rng: random.Random, hostile: str) -> bytes:
    kind = rng.choice((tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK))
    return entry("x", b"", type=kind, size=rng.choice((2**24, 2**33, 2**40)))


def _pax(rng: random.Random, hostile: str) -> bytes:
    """An extended header that says other things of the next member."""
    record = rng.choice(("size=99999999999", "path=../../evil.png", "path=\0", "size=-1", "size=x", "GNU.sparse.map=0,1", "hdrcharset=BINARY", "linkpath=/etc/passwd"))
    text = f" {record}\n"
    length = len(text) + 2
    return entry("x", f"{length if len(str(length)) == 2 else length + 1}{text}".encode(), type=tarfile.XHDTYPE)


def _zip(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("000.png", content)
    return file.getvalue()


LINKS = (tarfile.SYMTYPE, tarfile.LNKTYPE)
DEVICES = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE)
TRICKS = ("../evil.png", "a/../../evil.png", "..\\evil.png", "a/..")

Damage = Callable[[random.Random, list[bytes], str], tuple[bytes, Good]]
DAMAGES: dict[str, Damage] = {
    "truncated": _cut,
    "bytes changed": _flipped,
    "header changed": _other_header,
    "zero bytes": _as(lambda tar: b""),
    "no end mark": _as(lambda tar: tar[:-1024]),
    "compressed": lambda rng, members, hostile: (rng.choice((gzip.compress, bz2.compress, lzma.compress))(_tar(members)), REFUSED),
    "a zip": _as(_zip),
    "a web page": _as(lambda tar: b"<!doctype html>" * 100),
    "unsorted": lambda rng, members, hostile: (_tar(rng.sample(members, len(members))), EVERY),
    "duplicated key": lambda rng, members, hostile: (_tar([*members, rng.choice(members)]), REFUSED),
    "missing member": lambda rng, members, hostile: (_tar(members[:4] + members[5:]), EVERY - {2}),
    "no picture at all": _instead(lambda rng, hostile: ("txt", b"text")),
    "two pictures": _two_pictures,
    "other content": _instead(_other_content),
    "pickle instead": _instead(lambda rng, hostile: (rng.choice(("pkl", "pyd", "npy", "pth")), _pickle(rng, hostile))),
    "program beside": _inserted(_program, EVERY),
    "name not UTF-8": _inserted(lambda rng, hostile: entry("00\udcff\udcfe.png", b"x"), REFUSED),
    "path tricks": _inserted(lambda rng, hostile: entry(rng.choice((*TRICKS, f"/{hostile}.png")), b"x"), REFUSED),
    "link": _inserted(lambda rng, hostile: entry("000.png", type=rng.choice(LINKS), linkname=rng.choice((hostile, "/etc/passwd", "001.png"))), REFUSED),
    "device": _inserted(lambda rng, hostile: entry("000.jpg", type=rng.choice(DEVICES)), REFUSED),
    "huge header": _inserted(_huge_header, REFUSED),
    "extended header": _inserted(_pax, None),
    "huge member": _inserted(lambda rng, hostile: entry("009.png", size=rng.choice((2**33, 2**40, 2**62))), REFUSED),
    "folders and hidden files": _inserted(lambda rng, hostile: entry(rng.choice(("a/", ".hidden", "README", "a/.x.png")), b""), EVERY),
    "long name": _inserted(lambda rng, hostile: entry(f"002.{'x' * rng.choice((90, 300, 3000))}", b"x"), EVERY),
    "more after the end": lambda rng, members, hostile: (_tar(members) + rng.randbytes(3000), EVERY),
}
"""What is wrong -> what makes it of the members of a sound tar."""
