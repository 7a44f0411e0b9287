"""What the members of a sample mean: a table from file endings to decoders that trust nothing.

Nothing here unpickles, starts a program or opens another file. Sizes are checked before memory is allocated,
and every error is a DataError that begins with where the member was found.
"""

import io
import json
import math
import zipfile
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

import numpy as np

from trainer import media
from trainer.errors import DataError, ZooError, did_you_mean
from trainer.image_files import EXTENSIONS as IMAGES
from trainer.image_files import decode_image
from trainer.video_files import EXTENSIONS as VIDEOS

GIB = 2**30
LONGEST_HEADER = 10_000
"""Bytes of the header of an npy file."""


@dataclass(frozen=True)
class Limits:
    """What one member may claim, so that a hostile or broken one cannot fill the memory. Images: see `image_files.opened`."""

    encoded: int = GIB
    """Bytes of the member as it is stored."""
    decoded: int = 4 * GIB
    """Bytes of the array, waveform, video or volume that it becomes."""
    arrays: int = 1000
    """Arrays in one npz."""
    depth: int = 50
    """Lists and objects within one another in JSON."""
    text: int = 64 * 2**20
    """Bytes of text or JSON."""


LIMITS = Limits()


def decode(name: str, data: bytes, where: str, raw: Collection[str] = (), limits: Limits = LIMITS) -> Any:
    """What the member `name` of a sample holds, by its ending.

    Images: a PIL image in its stored mode. npy: an array; npz: a dict of arrays. json: its value; txt: a str;
    cls: an int. Audio, video, volumes: `media.Waveform`, `media.Frames`, `media.Volume`.

    `where` names the member in errors (shard, key, member, or a path). `raw`: endings that are handed over as bytes;
    of any other unknown ending DataError is raised, as of content that is damaged, not what the ending says, or beyond
    `limits`. MissingDependencyError when the optional library for it is not installed.
    """
    ending = ending_of(name)
    if ending in raw:
        return data
    if ending not in DECODERS:
        raise DataError(
            f"{where}: nothing here reads {'a member without ending' if not ending else f'the ending {ending!r}'}.{did_you_mean(ending, DECODERS)} "
            f"Known: {', '.join(DECODERS)}. To get the bytes themselves, ask for this ending as raw."
        )
    if len(data) > limits.encoded:
        raise DataError(f"{where} has {len(data):,} bytes; at most {limits.encoded:,} are read. Cut it into smaller samples.")
    try:
        return DECODERS[ending](data, where, limits)
    except ZooError:
        raise
    except Exception as error:  # on damage the libraries behind this raise nearly anything
        raise DataError(f"{where} is damaged or no {ending} at all ({error or type(error).__name__}). Fetch it again or remove it.") from error


def ending_of(name: str) -> str:
    """"x.seg.PNG" -> "png", "x.nii.gz" -> "nii.gz", "png" -> "png": what decides how a member is read."""
    name = name.rpartition("/")[2].lower()
    return "nii.gz" if name == "nii.gz" or name.endswith(".nii.gz") else name.rpartition(".")[2]


def npy_header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether Fortran order, type) of the npy file that begins where `file` stands; then it stands at the numbers.

    Raises DataError for Python objects, impossible or damaged headers, and what is no npy file.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise DataError(f"{where} is an npy file of the unknown version {version}; expected 1.0, 2.0 or 3.0.")
        begin = file.tell()
        length = int.from_bytes(file.read(2 if version == (1, 0) else 4), "little")
        if length > LONGEST_HEADER:  # numpy would allocate it first
            raise DataError(f"{where} claims a header of {length:,} bytes; at most {LONGEST_HEADER:,} are read. It is damaged: save it again.")
        file.seek(begin)
        # 3.0 differs from 2.0 in that the header is UTF-8, which matters only to the field names of records
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(file, max_header_size=LONGEST_HEADER)
    except (ZooError, OSError):
        raise
    except Exception as error:  # numpy lets errors of Python's own parser through
        raise DataError(f"{where} is damaged or no npy at all ({error or type(error).__name__}). Fetch it again or remove it.") from error
    if dtype.hasobject:
        raise DataError(f"{where} holds Python objects, which only pickle can read, and a pickle can run any program. Save plain numbers.")
    if any(type(side) is not int or side < 0 for side in shape) or dtype.itemsize == 0:
        raise DataError(f"{where} has an impossible header: shape {shape}, type {dtype}. Save it again.")
    return shape, fortran, dtype


def _array(data: bytes, where: str, limits: Limits) -> np.ndarray:
    """An npy file. The header says shape and type; both must fit the bytes that are there."""
    file = io.BytesIO(data)
    shape, fortran, dtype = npy_header(file, where)
    claimed, found = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
    if claimed > limits.decoded:
        raise DataError(f"{where} claims the shape {shape} of {dtype}: {claimed:,} bytes, at most {limits.decoded:,} are read. Cut it into smaller samples.")
    if claimed != found:
        raise DataError(f"{where} claims the shape {shape} of {dtype}, {claimed:,} bytes, but {found:,} follow. It was cut off or damaged: fetch it again.")
    values = np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")
    return values.astype(dtype.newbyteorder("="))  # a copy: writable, and in the byte order that torch takes


def _arrays(data: bytes, where: str, limits: Limits) -> dict[str, np.ndarray]:
    """An npz file: a zip of npy files."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos = archive.infolist()
        total = sum(info.file_size for info in infos)
        if len(infos) > limits.arrays or total > limits.decoded:
            raise DataError(
                f"{where} claims {len(infos):,} arrays of {total:,} bytes; at most {limits.arrays:,} and {limits.decoded:,} are read. "
                "Cut it into smaller samples."
            )
        strange = [i.filename for i in infos if not i.filename.endswith(".npy") or i.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]
        if strange:
            raise DataError(f"{where} holds {strange[0]!r}, which numpy.savez or savez_compressed would not have written.")
        return {i.filename.removesuffix(".npy"): _array(archive.read(i), f"{where} [{i.filename}]", limits) for i in infos}


def _text(data: bytes, where: str, limits: Limits) -> str:
    if len(data) > limits.text:
        raise DataError(f"{where} has {len(data):,} bytes of text; at most {limits.text:,} are read.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text (byte {error.start} is 0x{data[error.start]:02x}). Save it as UTF-8.") from error


def _json(data: bytes, where: str, limits: Limits) -> Any:
    deep = f"{where} has lists or objects more than {limits.depth} deep, which no honest sample needs."
    try:
        value = json.loads(_text(data, where, limits))
    except RecursionError as error:
        raise DataError(deep) from error
    level = [value]
    for _ in range(limits.depth + 1):
        level = [inner for outer in level if isinstance(outer, (list, dict)) for inner in (outer.values() if isinstance(outer, dict) else outer)]
        if not level:
            return value
    raise DataError(deep)


def _class(data: bytes, where: str, limits: Limits) -> int:
    text = data[:40].strip()
    if len(data) > 40 or not text.isdigit() or int(text) >= 2**31:
        raise DataError(f"{where} holds {data[:20]!r}; expected the number of a class as decimal digits, such as 7.")
    return int(text)


def _image(data: bytes, where: str, limits: Limits) -> Any:
    return decode_image(data, where)


def _sound(data: bytes, where: str, limits: Limits) -> media.Waveform:
    return media.decode_sound(data, where, limits.decoded)


def _video(data: bytes, where: str, limits: Limits) -> media.Frames:
    return media.decode_video(data, where, limits.decoded)


def _volume(data: bytes, where: str, limits: Limits, packed: bool = False) -> media.Volume:
    return media.decode_volume(inflate(data, where, limits.decoded) if packed else data, where, limits.decoded)


def inflate(data: bytes, where: str, limit: int) -> bytes:
    """What a gzip file holds, or DataError as soon as it grows beyond `limit` bytes."""
    unpacker = zlib.decompressobj(wbits=31)
    content = unpacker.decompress(data, limit + 1)
    if len(content) > limit:
        raise DataError(f"{where} unpacks to more than {limit:,} bytes. Cut it into smaller samples.")
    if not unpacker.eof:
        raise DataError(f"{where} is cut off: the gzip stream has no end. Fetch it again.")
    return content


DECODERS: dict[str, Callable[[bytes, str, Limits], Any]] = {
    **{ending.removeprefix("."): _image for ending in IMAGES},
    "npy": _array,
    "npz": _arrays,
    "json": _json,
    "txt": _text,
    "cls": _class,
    **dict.fromkeys(("wav", "flac", "ogg", "mp3"), _sound),
    **{ending.removeprefix("."): _video for ending in VIDEOS},
    "nii": _volume,
    "nii.gz": partial(_volume, packed=True),
}
"""Ending -> decoder(content, where, limits)."""
