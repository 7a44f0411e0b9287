"""Reading and writing tensors by name: safetensors only, all of them finite."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import safetensors
from safetensors.torch import save_file
from torch import Tensor

from trainer.errors import CheckpointError
from trainer.files import explain
from trainer.tensor_file import TensorFile, is_finite, read_header


def read_safetensors(path: Path | str) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU. Raises CheckpointError that says what the file is instead."""
    file = TensorFile(path)
    return {name: file.tensor(name) for name in file.entries}


def read_metadata(path: Path | str) -> dict[str, str]:
    """The text metadata of a safetensors file (empty when it has none). Raises as `read_safetensors` does."""
    return read_header(Path(path))[1]


def write_safetensors(tensors: dict[str, Tensor], path: Path | str, metadata: dict[str, str] | None = None) -> None:
    """Write tensors to one file. The caller provides atomicity (`trainer.files.atomic_folder`)."""
    contiguous = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    with write_errors(path):
        save_file(contiguous, path, metadata={"format": "pt", **(metadata or {})})


def sort_metadata(path: Path | str) -> None:
    """Bring the metadata of a safetensors file into alphabetical order, in place.

    The library writes them in another order each time; the same weights must give the same bytes, and so the same hash.
    """
    with write_errors(path), open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= length:  # it is padded with spaces
            file.seek(8)
            file.write(text.ljust(length))


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


def require_finite(tensors: dict[str, Tensor], where: str) -> None:
    """Raise CheckpointError when a floating tensor holds NaN or infinity."""
    bad = [k for k, v in tensors.items() if not is_finite(v)]
    if bad:
        names = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
        raise CheckpointError(f"{where} holds NaN or infinity in {names}. Such weights are never written or used.")
