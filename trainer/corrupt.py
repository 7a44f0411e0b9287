"""What happens to samples that cannot be read: the run stops, or another sample takes the place.

By default the error, which names the file (or shard, key and member), ends the run. `SkipCorrupt` goes on instead, and a
quarantine list (`zoo data check` writes it) leaves samples out beforehand.
"""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from trainer.data import Source
from trainer.errors import ConfigError, DataError
from trainer.files import write_bytes

log = logging.getLogger("zoo")


class SkipCorrupt:
    """A source whose unreadable samples are replaced, up to a limit.

    In the place of sample i stands the first of i + 1, i + 2, ... (after the last comes 0) that can be read. So batches
    stay a function of (seed, step), whatever the workers and restarts, and the epoch keeps its length; the neighbour is
    seen twice. Only DataError counts as unreadable. Each such sample is told of once in the log, by the process that met
    it; more than `max_errors` of them are a DataError. The limit holds for each rank and begins anew when a run is resumed.

    All other attributes are those of the wrapped source.
    """

    def __init__(self, source: Source, max_errors: int) -> None:
        self.source, self.max_errors = source, max_errors
        # Shared with the loader's workers. Without a lock: if two write at once, one sample is told of again.
        self._bad = torch.full((max_errors,), -1).share_memory_()

    def __len__(self) -> int:
        return len(self.source)

    def __getattr__(self, name: str) -> Any:
        if name == "source":  # not set yet: a copy is being made
            raise AttributeError(name)
        return getattr(self.source, name)

    def __getitem__(self, index: int) -> dict[str, Any]:
        for step in range(len(self)):
            candidate = (index + step) % len(self)
            try:
                return self.source[candidate]
            except DataError as error:
                self._note(candidate, error)
        raise DataError(f"None of the {len(self):,} samples can be read.")

    def take(self, indices: Collection[int]) -> "SkipCorrupt":
        """The same with only these samples, its count at 0."""
        return SkipCorrupt(self.source.take(indices), self.max_errors)

    @property
    def skipped(self) -> int:
        """How many samples could not be read so far, over all workers of this rank."""
        return int((self._bad >= 0).sum())

    def _note(self, index: int, error: DataError) -> None:
        if (self._bad == index).any():
            return
        count = self.skipped
        if count >= self.max_errors:
            raise DataError(
                f"More than {self.max_errors} samples cannot be read (max_errors), the last because: {error} "
                "`zoo data check` lists them all; repair them, or give its list as exclude."
            ) from error
        self._bad[count] = index
        log.warning("Skipped, %d of at most %d: %s", count + 1, self.max_errors, error)


def write_quarantine(path: Path | str, reasons: Mapping[str, str]) -> None:
    """Write the list of samples to leave out, id and reason on each line, atomically."""
    head = "# Samples to leave out: id, tab, reason. Lines may be removed or added by hand.\n"
    lines = [f"{_escape(name)}\t{_escape(reason)}\n" for name, reason in sorted(reasons.items())]
    write_bytes(path, (head + "".join(lines)).encode("utf-8", "surrogateescape"))


def read_quarantine(path: Path | str) -> set[str]:
    """The ids in a quarantine list; DataError when it cannot be read."""
    try:
        text = Path(path).read_text("utf-8", "surrogateescape")
    except OSError as error:
        raise DataError(f"Cannot read the list of samples to leave out, {path}: {error.strerror}. `zoo data check` writes one.") from error
    return {_unescape(line.partition("\t")[0]) for line in text.split("\n") if line.strip() and not line.startswith("#")}


def check_policy(on_error: str, max_errors: int, default: int) -> None:
    """ConfigError unless the fields `on_error` and `max_errors` of a data config go together."""
    if max_errors < 1:
        raise ConfigError(f"data.max_errors must be at least 1, found {max_errors}. To stop at the first, use --data.on_error raise.")
    if on_error == "raise" and max_errors != default:
        raise ConfigError(f"data.max_errors is {max_errors}, but data.on_error is raise: the first error ends the run. Add --data.on_error skip.")


_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}


def _escape(text: str) -> str:
    """One line without tabs; "#" at the start is escaped too."""
    text = "".join(_ESCAPES.get(c, c) for c in text)
    return f"\\{text}" if text.startswith("#") else text


def _unescape(text: str) -> str:
    back = {escape[1]: plain for plain, escape in _ESCAPES.items()}
    out, pieces = [], iter(text)
    for c in pieces:
        following = next(pieces, "") if c == "\\" else c
        out.append(back.get(following, following) if c == "\\" else c)
    return "".join(out)
