"""Opening encoded pictures, from a file or from bytes, without trusting them.

Only the formats below are tried. A picture that claims to be enormous is refused before memory is allocated,
and whatever Pillow raises on a damaged one becomes a DataError that names it and says what it really is.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from trainer.errors import DataError, ZooError

FORMATS = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
}
"""Formats that are read -> their file endings. Pillow knows more; some of those start other programs."""
EXTENSIONS = tuple(ending for endings in FORMATS.values() for ending in endings)


@contextlib.contextmanager
def opened(source: str | os.PathLike | bytes, where: str | None = None) -> Iterator[Image.Image]:
    """The opened picture of a file or of bytes; use it inside the block, whose errors are explained too.

    `where` names it in errors (by default the path). Raises DataError: missing, no picture, truncated, damaged, or
    more than twice PIL.Image.MAX_IMAGE_PIXELS pixels (about 179 million as Pillow comes).
    """
    where = where or ("the image" if isinstance(source, bytes) else str(source))
    try:
        with explained(where), Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=list(FORMATS)) as image:
            yield image
    except UnidentifiedImageError as error:
        raise DataError(f"{where} {_what_is(_head(source))}.") from error


@contextlib.contextmanager
def explained(where: str) -> Iterator[None]:
    """What Pillow raises in the block as a DataError that names `where`; UnidentifiedImageError passes through."""
    try:
        yield
    except (ZooError, UnidentifiedImageError):
        raise
    except FileNotFoundError as error:
        raise DataError(f"There is no file {where}.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{where} claims to be enormous ({error}). If you trust it, cut it into smaller pictures "
            "or raise PIL.Image.MAX_IMAGE_PIXELS."
        ) from error
    except PermissionError as error:
        raise DataError(f"{where} may not be read: change its permissions.") from error
    except IsADirectoryError as error:
        raise DataError(f"{where} is a folder; expected an image file.") from error
    except Exception as error:  # on damage Pillow raises nearly anything, struct.error and TypeError included
        raise DataError(f"{where} is a truncated or damaged image ({error or type(error).__name__}). Fetch it again or remove it.") from error


def decode_image(data: bytes, where: str) -> Image.Image:
    """The first picture of an encoded image, its pixels decoded, as a PIL image in the mode that it was stored in."""
    with opened(data, where) as image:
        image.load()
        return image


def _head(source: str | os.PathLike | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[:512]
    with open(Path(source), "rb") as file:
        return file.read(512)


def _what_is(head: bytes) -> str:
    """What a file that cannot be opened as an image is, by its first bytes, in words that follow its name."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "is empty (0 bytes): the download or the copy stopped before it began. Fetch it again or remove it"
    if text.startswith(b"version https://git-lfs"):
        return "is a git-LFS pointer, not the image. Run `git lfs pull` in that repository, or download the file itself"
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "is an HTML page, not an image (often a login or error page). Download the file again"
    if text.startswith((b"<?xml", b"<svg")):
        return "is an SVG drawing or XML, not a pixel image. Convert it to PNG"
    if head[4:8] == b"ftyp":
        return "is a HEIC/AVIF picture or a video, which is not read. Convert it to JPEG or PNG"
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"II*\x00", b"MM\x00*", b"BM")):
        return "begins like an image but its header is damaged or cut off. Fetch it again or remove it"
    if b"\x00" not in head and sum(byte < 32 and byte not in b"\t\r\n\f" for byte in head) == 0:
        return f"is a text file, not an image (it begins with {head[:40].decode('utf-8', 'replace')!r}). Remove it from the folder"
    return f"is not an image that can be read. Expected {', '.join(FORMATS)}. Convert or remove it"
