"""The damaged and hostile data of `tools.fuzz_data`: each case makes some in a folder, reads it, and tells what was promised of it.

Good samples are pictures of one colour that says which sample it is, so that it shows whether the right ones arrive.
"""

import gzip
import io
import json
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from modalities.vision.files import open_images
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.sources import ImageSource
from tools.fuzz_tars import BOMBS, DAMAGES, REFUSED, SAMPLES, colour, entry, intact, picture
from trainer.archives import ArchiveLimits, extract
from trainer.corrupt import SkipCorrupt
from trainer.decoders import DECODERS, Limits, decode
from trainer.errors import ZooError
from trainer.files import sha256_of
from trainer.shards import Shard, write_index
from trainer.sources import FileTable, open_arrays
from trainer.video_files import EXTENSIONS as VIDEOS

PLAIN = ImagePreprocess(size=(2, 2), channels=3, mean=(0.0,) * 3, std=(1.0,) * 3, crop_pct=1.0)
FEW = Limits(encoded=2**24, decoded=2**25, arrays=20, text=2**20)
"""Limits that a bomb of a case exceeds while an honest sample of a case does not."""
TOLERANCE = 3 / 255


class Broken(Exception):
    """A promise does not hold."""


def ours(action: Callable[[], object], *names: str) -> ZooError | None:
    """Run it: None when it went well, the error when it is one of ours and names all of `names`. Other errors pass through."""
    try:
        action()
    except ZooError as error:
        missing = [name for name in names if name not in str(error)]
        if missing:
            raise Broken(f"the message does not name {missing}: {error}") from error
        return error
    return None


def shards(rng: random.Random, folder: Path, hostile: str) -> str:
    """Two tars, the second damaged, with an index or without; read one by one and with `skip`."""
    damage = rng.choice(sorted(DAMAGES))
    contents = [intact(rng, 0), intact(rng, 1)]
    content, good = DAMAGES[damage](rng, contents[1], hostile)
    for name, tar in (("a.tar", b"".join(contents[0]) + tarfile.NUL * 1024), ("b.tar", content)):
        (folder / name).write_bytes(tar)
    indexed = rng.random() < 0.6
    if indexed:
        files = [folder / "a.tar", folder / "b.tar"]
        write_index(folder, [Shard(f.name, SAMPLES, f.stat().st_size, sha256_of(f)) for f in files], {"classes": ["x", "y"]})
    made: list[ImageSource] = []
    error = ours(lambda: made.append(open_images(folder, PLAIN, labelled=False)), "b.tar")
    if error is not None:
        if indexed or (good is not None and good != REFUSED):
            raise Broken(f"{damage}: refused as a whole: {error}")
        return f"{damage}: refused"
    return f"{damage}: {_arrivals(made[0], 'b.tar', good)}"


def _arrivals(source: ImageSource, damaged: str, good: set[int] | str | None) -> str:
    """Read all samples, then again with `skip`; samples of other files than `damaged` must arrive, of it those that are `good`."""
    errors = 0
    tolerant = SkipCorrupt(source, 10_000)
    for index in range(len(source)):
        name = "a sample"
        error = ours(lambda: source[index])
        if error is not None:
            errors += 1
            if damaged not in str(error):
                raise Broken(f"the message does not name {damaged}: {error}")
        else:
            name = source.id(index)
        if error is None and damaged not in name or (error is None and isinstance(good, set) and int(name[-3:]) in good):
            number = int(name[-3:])
            wanted = colour(damaged in name, number)
            for found in (source[index]["image"], tolerant[index]["image"]):
                if abs(found.mean(dim=(1, 2)).numpy() - np.array(wanted) / 255).max() > TOLERANCE:
                    raise Broken(f"{name} is not the picture that was put there")
        elif error is None and (good == REFUSED or isinstance(good, set)):
            raise Broken(f"{name} should not have been read")
        if error is not None and (index < SAMPLES or (isinstance(good, set) and (index - SAMPLES) in good)):
            raise Broken(f"sample {index} is good and was not read: {error}")
        tolerant[index]  # must give some sample
    if tolerant.skipped != errors:
        raise Broken(f"{errors} samples cannot be read, and {tolerant.skipped} are counted")
    return f"{errors} of {len(source)} skipped" if errors else "read"


def folder_of_images(rng: random.Random, folder: Path, hostile: str) -> str:
    """A folder with good pictures and damaged ones."""
    for number in range(3):
        (folder / f"good-{number:03d}.{rng.choice(('png', 'bmp', 'tif'))}").write_bytes(b"")
    for path in folder.iterdir():
        path.write_bytes(picture(rng, 0, int(path.stem[-3:]), path.suffix[1:]))
    ending, content = damaged_picture(rng, hostile)
    (folder / f"bad-999.{ending}").write_bytes(content)
    source = open_images(folder, PLAIN, labelled=False)
    tolerant, outcome = SkipCorrupt(source, 10), "read"
    for index in range(len(source)):
        if source.id(index).startswith("bad"):
            outcome = "refused" if ours(lambda: source[index], "bad-999") else "read"
            continue
        wanted = np.array(colour(0, int(source.id(index)[5:8]))) / 255
        if abs(tolerant[index]["image"].mean(dim=(1, 2)).numpy() - wanted).max() > TOLERANCE:
            raise Broken(f"{source.id(index)} is not the picture that was put there")
    if tolerant[0] is None or (outcome == "refused") != bool(tolerant.skipped):
        raise Broken("the count of skipped pictures is wrong")
    return f"{ending}: {outcome}"


def damaged_picture(rng: random.Random, hostile: str) -> tuple[str, bytes]:
    """(ending, content) of a picture of any kind with any damage."""
    kind = rng.choice(("jpg", "png", "webp", "tif", "bmp", "gif"))
    modes = {"jpg": ("RGB", "L", "CMYK"), "png": ("RGB", "L", "P", "RGBA", "I;16", "1", "LA"), "tif": ("RGB", "L", "F", "I;16", "CMYK", "1")}
    mode = rng.choice(modes.get(kind, ("RGB",)))
    size = rng.randint(1, 60), rng.randint(1, 60)
    pixels = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(pixels).convert("L").convert(mode) if mode in ("I;16", "F") else Image.fromarray(pixels).convert(mode)
    file = io.BytesIO()
    options = {"compression": rng.choice((None, "tiff_lzw", "tiff_adobe_deflate"))} if kind == "tif" and mode != "F" else {}
    image.save(file, {"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind.upper()), **options)
    if rng.random() < 0.1:
        return kind, rng.choice([*BOMBS.values()])(rng, hostile)
    return kind, mutated(rng, file.getvalue())


def mutated(rng: random.Random, content: bytes) -> bytes:
    """Bytes with random damage."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(7)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 2:
            data[at:at] = rng.randbytes(rng.randint(1, 50))
        elif kind == 3:
            del data[at : at + rng.randint(1, 50)]
        elif kind == 4:
            data[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\x80\0\0\0"))
        elif kind == 5:
            data[at : at + 8] = bytes(8)
        else:
            data += data[at:]
    return bytes(data[: 2**20])


def members(rng: random.Random, folder: Path, hostile: str) -> str:
    """One member of any ending, damaged, through `decode`."""
    ending = rng.choice([e for e in sorted(DECODERS) if e not in ("jpeg", "tiff")])
    honest = _honest(rng, ending)
    content = rng.choice((mutated(rng, honest), mutated(rng, honest), rng.randbytes(rng.randrange(200)), b"", _trap(rng, ending, hostile)))
    error = ours(lambda: decode(f"x.{ending}", content, "b.tar: 00007", limits=FEW), "b.tar: 00007")
    return f"{ending}: {'refused' if error else 'read'}"


def _honest(rng: random.Random, ending: str) -> bytes:
    """A sound file of a kind, as far as that can be written without optional libraries."""
    file = io.BytesIO()
    values = np.arange(rng.randint(1, 200)).astype(rng.choice(("<f4", ">i2", "u1", "<f8", "?")))
    if ending in ("npy", "npz"):
        np.save(file, values) if ending == "npy" else np.savez_compressed(file, a=values, b=values[:1])
    elif ending in ("json", "txt", "cls"):
        return {"json": json.dumps({"a": [1, {"b": "\u00fc"}, None, 1e300]}), "txt": "some text \u00fc", "cls": "17"}[ending].encode()
    elif ending == "wav":
        return b"RIFF" + struct.pack("<I4s4sIHHIIHH4sI", 36 + 200, b"WAVE", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16, b"data", 200) + bytes(200)
    elif ending in ("nii", "nii.gz"):
        header = bytearray(352)
        struct.pack_into("<i", header, 0, 348)
        struct.pack_into("<8h", header, 40, 3, 4, 5, 6, 1, 1, 1, 1)
        struct.pack_into("<hh", header, 70, 4, 16)
        struct.pack_into("<f", header, 108, 352)
        header[344:348] = b"n+1\0"
        content = bytes(header) + bytes(2 * 4 * 5 * 6)
        return gzip.compress(content) if ending == "nii.gz" else content
    elif f".{ending}" in VIDEOS:
        return b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + rng.randbytes(100)
    elif ending in ("flac", "ogg", "mp3"):
        return {"flac": b"fLaC", "ogg": b"OggS", "mp3": b"ID3\x03"}[ending] + rng.randbytes(200)
    else:
        return picture(rng, 0, 1, ending)
    return file.getvalue()


def _trap(rng: random.Random, ending: str, hostile: str) -> bytes:
    """A bomb, or content that would run a program if it were unpickled."""
    pickle = f"cos\nsystem\n(S'touch {hostile}'\ntR.".encode()
    header = str({"descr": "|O", "fortran_order": False, "shape": (1,)}).encode() + b"\n"
    objects = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + pickle
    claim = str({"descr": rng.choice(("<f8", "|V2000000000", "<U900000")), "fortran_order": False, "shape": rng.choice(((2**60,), (2**31, 2**31), (10**4, 10**4)))}).encode()
    traps = {
        "npy": (objects, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(claim) + 1) + claim + b"\n", b"\x93NUMPY\x02\x00\xff\xff\xff\xff"),
        "npz": (_zip_bomb(None), _zip_bomb(objects)),
        "json": (b"[" * 10**6, b'{"a":' * 10**5, b"[" * 60 + b"]" * 60, b"9" * 10**6, b'"' + b"x" * 2**21 + b'"'),
        "cls": (b"9" * 10**6, b"-1", b"1e9"),
        "nii.gz": (_gzip_bomb(),),
    }
    return rng.choice((*traps.get(ending, ()), pickle, *(make(rng, hostile) for make in BOMBS.values())))


@cache
def _zip_bomb(content: bytes | None) -> bytes:
    """A zip of what should be an array: the content, or 64 MiB of zeros."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(2**26) if content is None else content)
    return file.getvalue()


@cache
def _gzip_bomb() -> bytes:
    return gzip.compress(bytes(2**26))


def archives(rng: random.Random, folder: Path, hostile: str) -> str:
    """An archive with tricks in it, through `extract`."""
    names = ["a.txt", "b/c.txt", "../evil", f"{hostile}-absolute", "b/../../evil", "a.txt", "\udcff.txt", "C:/evil", "x" * 5000, "..\\evil"]
    chosen = [rng.choice(names) for _ in range(rng.randint(1, 3))]
    path = folder / "x.archive"
    if rng.random() < 0.4:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for i, name in enumerate(chosen):
                name = name.encode("utf-8", "replace").decode()
                info = zipfile.ZipInfo(f"{i}-{name}" if rng.random() < 0.5 else name)
                info.external_attr = rng.choice((0, 0o120777, 0o100644)) << 16
                archive.writestr(info, rng.choice((b"content", bytes(2**21))))
        content = path.read_bytes()
    else:
        kinds = (tarfile.REGTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE)
        parts = [entry(name, b"content", type=rng.choice(kinds), linkname=hostile) for name in chosen]
        content = b"".join(parts) + bytes(1024)
        content = rng.choice((content, gzip.compress(content), content[: rng.randrange(len(content))]))
    path.write_bytes(mutated(rng, content) if rng.random() < 0.4 else content)
    error = ours(lambda: extract(path, folder / "out", ArchiveLimits(100, 2**20)), "x.archive")
    if error is not None and (folder / "out").exists():
        raise Broken("an archive that was refused left files behind")
    return f"archive: {'refused' if error else 'unpacked'}"


def names(rng: random.Random, folder: Path, hostile: str) -> str:
    """Paths that are programs, other schemes, or not there."""
    programs = (f"pipe:touch {hostile}", f"pipe:touch {hostile} && cat x.tar", f"|touch {hostile}", f"file:{hostile}", f"$(touch {hostile}).tar", f"`touch {hostile}`.tar")
    others = ("ftp://127.0.0.1/x.tar", "s3://bucket/x.tar", "data:,x.tar", "gopher://x/x.tar", "x-{0..999999999}.tar", "x-{.tar", "\0.tar", "../" * 50 + "x.tar", "pipe:")
    name = rng.choice((*programs, *others)).replace("x.tar", rng.choice(("x.tar", "index.json", "x.csv")))
    if ours(lambda: open_images(name, PLAIN, labelled=False)) is None:
        raise Broken(f"{name!r} was taken for data")
    return "name: refused"


def tables(rng: random.Random, folder: Path, hostile: str) -> str:
    """Tables of files and files of arrays that are mapped, damaged."""
    if rng.random() < 0.5:
        ending = rng.choice(("npy", "npz"))
        path = folder / f"x.{ending}"
        path.write_bytes(rng.choice((mutated(rng, _honest(rng, ending)), _trap(rng, ending, hostile))))
        return f"arrays: {'refused' if ours(lambda: open_arrays(path), 'x.np') else 'read'}"
    ending = rng.choice(("csv", "tsv", "jsonl"))
    lines = ["path,label", "a.png,1", f"pipe:touch {hostile},2"] if ending == "csv" else ["path\tlabel", "a.png\t1"] if ending == "tsv" else ['{"path": "a.png", "label": 1}'] * 2
    path = folder / f"x.{ending}"
    path.write_bytes(mutated(rng, "\n".join(lines).encode()))

    def read() -> None:
        table = FileTable(path)
        for i in range(len(table)):
            table.path(i)

    return f"table: {'refused' if ours(read) else 'read'}"


CASES: dict[str, tuple[int, Callable[[random.Random, Path, str], str]]] = {
    "shards": (8, shards),
    "images": (6, folder_of_images),
    "members": (8, members),
    "archives": (4, archives),
    "tables": (2, tables),
    "names": (1, names),
}
"""Kind -> (how often in proportion, what makes and reads one)."""
