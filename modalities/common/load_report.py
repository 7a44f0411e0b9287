"""What became of every tensor when a model was loaded."""

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["matched", "renamed", "resized", "new", "unused"]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """One tensor of the model with the tensors of the file that it came from, or one tensor that found no other side."""

    kind: Kind
    """matched: same name. renamed: other name, or joined from several. resized: other shape. new: not in the file. unused: not in the model."""
    part: str
    """Which part of the model it belongs to, in words ("encoder")."""
    name: str | None = None
    """Name in the model; None when it is unused."""
    shape: Shape | None = None
    """Shape in the model."""
    stored: tuple[str, ...] = ()
    """Names in the file; several when they are joined, none when it is new."""
    stored_shapes: tuple[Shape, ...] = ()
    """Their shapes."""
    note: str = ""
    """How it was changed, or why it is new or unused."""


@dataclass(frozen=True)
class LoadReport:
    """Every tensor of the file and of the model, and where they came from. `str(report)` says it in words, `table()` in full."""

    rows: tuple[Row, ...]
    """All tensors: the model's in its order, then the unused ones of the file."""
    layout: str
    """Whose names the file uses: modality-zoo, official, transformers, timm, ..."""
    source: str
    """What was asked for: a name, a Hub id, a folder or a file."""
    path: str = ""
    """The folder or file that was read. Empty when the tensors came from memory."""
    repo: str | None = None
    """Repository on the Hub, if it came from one."""
    revision: str | None = None
    """The commit of that repository."""
    date: str | None = None
    """When that commit was made (ISO 8601), as far as it is known."""
    loaded: str = ""
    """When it was loaded: ISO date and time in UTC."""
    sha256: dict[str, str] | None = None
    """Hash of each weight file, where it was computed or announced."""
    notes: tuple[str, ...] = ()
    """What else differs from the checkpoint: other numbers, changed config fields, preprocessing."""

    def of(self, *kinds: Kind) -> list[Row]:
        """The rows of some kinds."""
        return [row for row in self.rows if row.kind in kinds]

    def words(self) -> str:
        """One clause per part: "encoder complete 150/150; decoder left out, 88 tensors; classification head new"."""
        parts = list(dict.fromkeys(row.part for row in self.rows))
        said = [(part, *self._said(part)) for part in parts]
        return "; ".join(f"{part} {text}" for part, _, text in sorted(said, key=lambda entry: entry[1]))

    def _said(self, part: str) -> tuple[int, str]:
        """Place in the sentence (loaded, left out, new) and what is said of a part."""
        count = {kind: sum(row.kind == kind and row.part == part for row in self.rows) for kind in Kind.__args__}
        kept = count["matched"] + count["renamed"] + count["resized"]
        if not kept:
            left = f"left out, {count['unused']} tensor{'s' if count['unused'] > 1 else ''}"
            return (2, f"new, the stored one {left}" if count["unused"] else "new") if count["new"] else (1, left)
        said = [f"complete {kept}/{kept}" if not count["new"] else f"{kept}/{kept + count['new']}, {count['new']} new"]
        said += [f"{count['resized']} resized"] if count["resized"] else []
        said += [f"{count['unused']} of the file left out"] if count["unused"] else []
        return 0, ", ".join(said)

    def __str__(self) -> str:
        where = self.source if not self.revision else f"{self.source} at revision {self.revision}{' of ' + self.date if self.date else ''}"
        lines = [f"{where} ({self.layout} layout{', loaded ' + self.loaded if self.loaded else ''}): {self.words()}"]
        lines += [f"  {row.name}: {row.note}" for row in self.rows if row.kind == "resized"]
        lines += [f"  {why}: {compact(names) if len(names) <= 6 else f'{len(names)} tensors'}" for why, names in self._reasons().items()]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def _reasons(self) -> dict[str, list[str]]:
        """Why tensors are new or unused -> their names."""
        found: dict[str, list[str]] = {}
        for row in self.of("new", "unused"):
            found.setdefault(f"{row.kind}, {row.note}", []).extend([row.name] if row.name else row.stored)
        return found

    def table(self) -> str:
        """Every tensor in a line: kind, part, name and shape in the model, name and shape in the file, note."""
        lines = [("kind", "part", "in the model", "shape", "in the file", "shape", "note")]
        for row in self.rows:
            shapes = ", ".join(dict.fromkeys(_shape(s) for s in row.stored_shapes))
            lines.append((row.kind, row.part, row.name or "-", _shape(row.shape), ", ".join(row.stored) or "-", shapes or "-", row.note))
        widths = [max(len(line[i]) for line in lines) for i in range(7)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def compact(names: list[str], most: int = 60) -> str:
    """Names in a sentence, none left out: above `most`, those that differ in one number are joined as blocks.0-11.norm."""
    names = sorted(names)
    if len(names) <= most:
        return ", ".join(names)
    numbers: dict[tuple[str, str], list[int]] = {}
    for name in names:
        found = re.search(r"(?<!\d)(0|[1-9]\d*)(?!\d)", name)
        key = (name, "") if found is None else (name[: found.start()], name[found.end() :])
        numbers.setdefault(key, []).append(-1 if found is None else int(found[0]))
    return ", ".join(f"{before}{_ranges(found)}{after}" for (before, after), found in numbers.items())


def _ranges(numbers: list[int]) -> str:
    """Sorted, with runs as 0-11; -1 stands for no number."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1 and number > 0:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return "+".join("" if run == [-1] else "-".join(map(str, run)) for run in runs)


def _shape(shape: Shape | None) -> str:
    return "-" if shape is None else " x ".join(map(str, shape)) or "scalar"
