"""Reading and writing tensors: safetensors only, with an error that says what a bad file really is."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer.errors import CheckpointError
from trainer.files import explain


def read_safetensors(path: Path | str) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU. Raises CheckpointError that says what the file is instead."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is missing. Expected a safetensors file with weights.")
    try:
        return load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} {what_is_wrong(path)} ({error}).") from error


def read_metadata(path: Path | str) -> dict[str, str]:
    """The text metadata of a safetensors file (empty when it has none)."""
    path = Path(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing. Expected a safetensors file.") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} {what_is_wrong(path)} ({error}).") from error


def write_safetensors(tensors: dict[str, Tensor], path: Path | str, metadata: dict[str, str] | None = None) -> None:
    """Write tensors to one file. The caller provides atomicity (`trainer.files.atomic_folder`)."""
    contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    with write_errors(path):
        save_file(contiguous, path, metadata={"format": "pt", **(metadata or {})})


@contextlib.contextmanager
def write_errors(path: Path | str) -> Iterator[None]:
    """Turn what safetensors raises on a full disk (its own type, the reason only as text) into our CheckpointError."""
    try:
        yield
    except OSError as error:
        raise explain(error, path) from error
    except safetensors.SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        reason = OSError(int(code[1]), str(error)) if code else OSError(str(error))
        raise explain(reason, path) from error


def what_is_wrong(path: Path) -> str:
    """Say in words what a file that is not readable as safetensors is, and what to do."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(512)
    text = head.lstrip().lower()
    if size == 0:
        return "is empty (0 bytes): the download or the copy stopped before it began. Fetch it again"
    if text.startswith(b"version https://git-lfs"):
        return "is a git-LFS pointer, not the weights. Run `git lfs pull` in that repository, or download the file itself"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is an HTML page, not weights (often a login or error page). Download the file again"
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return "is a PyTorch pickle, which can run code when opened. Convert it to safetensors first"
    if size >= 8:
        header = int.from_bytes(head[:8], "little")
        if header + 8 > size:
            if head[8:9] == b"{":
                return f"is truncated: its header needs {header + 8:,} bytes and the file has {size:,}. Fetch it again"
            return "is not a safetensors file. Expected weights as written by save_pretrained"
        end = _last_byte(path, header)
        if end is not None and end != size:
            return f"is truncated or padded: {end:,} bytes were expected and the file has {size:,}. Fetch it again"
    return "is not a readable safetensors file. Fetch or export it again"


def _last_byte(path: Path, header: int) -> int | None:
    """Where the data of a safetensors file should end according to its header."""
    try:
        with open(path, "rb") as file:
            file.seek(8)
            entries = json.loads(file.read(header))
        ends = [v["data_offsets"][1] for k, v in entries.items() if k != "__metadata__"]
        return 8 + header + max(ends, default=0)
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def require_finite(tensors: dict[str, Tensor], where: str) -> None:
    """Raise CheckpointError when a floating tensor holds NaN or infinity."""
    bad = [k for k, v in tensors.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if bad:
        names = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
        raise CheckpointError(f"{where} holds NaN or infinity in {names}. Such weights are never written or used.")
