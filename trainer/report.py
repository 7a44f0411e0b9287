"""The report of a run: one HTML file that needs no network and no script, made from what lies in the run's folder.

It can be made at any time, also while the run goes on or after it was stopped. Whatever is missing or cannot be read
is named in the report instead of stopping it.
"""

import base64
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, StrictUndefined

from trainer.curves import draw_curves, panels, picture, series
from trainer.errors import CheckpointError, ConfigError
from trainer.files import read_json, write_text
from trainer.logs import read_lines

TEMPLATE = Path(__file__).with_name("report.html.j2")
PICTURES = 6
"""How many of the last pictures are shown."""
TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".gif": "image/gif"}


def write_report(folder: Path | str) -> Path:
    """Draw `curves.png` of the run in `folder`, write its `report.html` and return the path of that.

    Raises ConfigError when there is no run in the folder, CheckpointError when the disk does not take the files.
    """
    folder = Path(folder)
    if not any((folder / name).exists() for name in ("recipe.yaml", "metrics.jsonl")):
        raise ConfigError(f"There is no run in {folder}: expected recipe.yaml or metrics.jsonl. Give the folder that --to named.")
    draw_curves(folder)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    run = Run.read(folder)
    found = panels(run.lines, run.sessions)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=run.title,
        finished=run.finished,
        summary=run.summary(),
        notes=run.notes,
        figures=run.figures(),
        evaluations=run.evaluations(),
        watched=run.watched(),
        command=run.last_known("command"),
        curves=[(p.title, _data_uri(picture(p), "image/png")) for p in found],
        wide=_data_uri(picture(found[0], wide=True), "image/png") if found else "",
        pictures=run.pictures(),
        recipe=run.recipe_text,
        facts=run.facts(),
        versions=_flat(run.last_known("versions") or {}),
        commands=run.commands(),
    )
    write_text(folder / "report.html", page)
    return folder / "report.html"


@dataclass(frozen=True)
class Run:
    """What the folder of a run says of it."""

    folder: Path
    """The run folder."""
    recipe_text: str
    """recipe.yaml as it is; empty when it cannot be read."""
    recipe: dict[str, Any]
    """The same, parsed."""
    lines: list[dict[str, Any]]
    """metrics.jsonl."""
    sessions: list[dict[str, Any]]
    """sessions.jsonl: one for each start."""
    record: dict[str, Any]
    """record.json; empty while the run has not finished."""
    notes: list[str]
    """What is missing or could not be read."""

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """Read what is there."""
        notes: list[str] = []
        text, recipe = _recipe(folder / "recipe.yaml", notes)
        lines = read_lines(folder / "metrics.jsonl")
        unread = _count_lines(folder / "metrics.jsonl") - len(lines)
        if unread:
            notes.append(f"metrics.jsonl: {unread:,} line(s) could not be read and are left out.")
        if not lines:
            notes.append("metrics.jsonl holds no metrics: nothing has been logged yet, or the file is gone.")
        return cls(folder, text, recipe, lines, read_lines(folder / "sessions.jsonl"), _record(folder / "record.json", notes), notes)

    @property
    def title(self) -> str:
        """Name of the recipe, or of the folder."""
        return str(self.recipe.get("recipe") or self.folder.resolve().name)

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return bool(self.record)

    def last_known(self, name: str) -> Any:
        """A fact from the record or else from the newest session that has it, or None."""
        return next((place[name] for place in [self.record, *reversed(self.sessions)] if place.get(name) is not None), None)

    def number(self, name: str) -> float | None:
        """`last_known` where it is a finite number."""
        value = self.last_known(name)
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e100 else None

    def summary(self) -> str:
        """The run in one sentence."""
        steps, size, samples = self.number("steps"), self.number("batch_size"), self.number("samples")
        reached = series(self.lines, "step")[1]
        done = steps if self.finished and steps else reached[-1] if len(reached) else 0
        words = [f"{self.title} trained for {_count(done)}" + (f" of {_count(steps)} steps" if steps and not self.finished else " steps")]
        if size:
            words.append(f"of {_count(size)} samples")
        if size and samples and done:
            seen = series(self.lines, "samples")[1]
            passes = (seen[-1] if len(seen) else done * size) / samples
            words.append(f"({passes:{'.1f' if passes >= 1 else '.2g'}} passes over {_count(samples)} samples{self._data_name()})")
        if self.seconds():
            words.append(f"in {duration(self.seconds())}")
        hardware = self.last_known("hardware")
        words.append(f"on {hardware}" if hardware else "")
        losses = series(self.lines, "loss")[1]
        change = f"; the loss went from {_short(losses[0])} to {_short(losses[-1])}" if len(losses) > 1 else ""
        return " ".join(filter(None, words)) + change + "."

    def seconds(self) -> float | None:
        """Training time, from the record or the last line of metrics."""
        logged = series(self.lines, "seconds")[1]
        return self.number("seconds") or (logged[-1] if len(logged) else None)

    def figures(self) -> list[tuple[str, str, str]]:
        """Key figures: (what, value, remark)."""
        found: list[tuple[str, str, str]] = []

        def add(what: str, value: str | None, remark: str = "") -> None:
            if value is not None:
                found.append((what, value, remark))

        best = self.record.get("best")
        if isinstance(best, dict):
            value = best.get("value")
            add(f"Best {best.get('metric')}", _short(value) if isinstance(value, float) else str(value), f"at step {best.get('step')}, {'' if best.get('exported') else 'not '}exported")
        steps, losses = series(self.lines, "loss")
        if len(losses):
            add("Loss", _short(losses[-1]), f"at step {_count(steps[-1])}; {_short(losses[0])} at step {_count(steps[0])}")
        setup = self.number("seconds_with_setup")
        if self.seconds():
            add("Training time", duration(self.seconds()), f"the last session with set-up and evaluation: {duration(setup)}" if setup else "")
        rates = series(self.lines, "samples_per_second")[1]
        if len(rates):
            add("Rate", f"{_short(np.median(rates))} samples/s", "median of the log lines")
        add("Hardware", self.last_known("hardware") and str(self.last_known("hardware")))
        parameters = self.number("parameters")
        add("Parameters", parameters and f"{parameters / 1e6:,.2f} M", "of the exported model")
        memory, utilisation, speed = (series(self.lines, name)[1] for name in ("memory_gb", "mfu", "tflops"))
        add("Peak memory", f"{memory.max():,.2f} GB" if len(memory) else None)
        add("Model FLOPs utilisation", f"{100 * np.median(utilisation):.1f} %" if len(utilisation) else None, "median of the log lines")
        add("Speed", f"{_short(np.median(speed))} TFLOP/s" if len(speed) else None, "median of the log lines")
        wait = self._data_wait()
        add("Waiting for data", None if wait is None else f"{100 * wait:.1f} %", "of the training time")
        for what, name in (("Skipped steps", "skipped"), ("Spikes", "spikes")):
            total = self.number(name) or series(self.lines, name)[1].sum()
            if total or what == "Skipped steps" and self.lines:
                add(what, _count(total))
        if self.sessions:
            again = [_count(s["step"]) for s in self.sessions[1:]]
            add("Resumed", f"{len(again)} times" if len(again) != 1 else "once", f"at step {', '.join(again[-5:])}" if again else "")
        return found

    def evaluations(self) -> list[dict[str, str]]:
        """Results measured on the exported model, each with the command that measured it."""
        results = self.record.get("evaluations")
        names = ("task", "data", "split", "metric", "detail", "value", "unit", "samples", "command")
        given = {"command": self.record.get("command", "")}
        return [{n: str({**given, **r}.get(n, "")) for n in names} for r in results if isinstance(r, dict)] if isinstance(results, list) else []

    def watched(self) -> list[tuple[str, str, str, str]]:
        """Evaluations during training: (name, last, lowest, highest), the latter with their steps."""
        names = dict.fromkeys(n for line in self.lines for n in line if n.startswith("eval/"))
        found = []
        for name in names:
            steps, values = series(self.lines, name)
            if len(values):
                at = [f"{_short(values[i])} at step {_count(steps[i])}" for i in (-1, values.argmin(), values.argmax())]
                found.append((name.removeprefix("eval/"), *at))
        return found

    def pictures(self) -> list[tuple[str, str]]:
        """The last pictures, newest first: (caption, data URI)."""
        folder = self.folder / "pictures"
        files = [p for p in folder.iterdir() if p.suffix.lower() in TYPES and p.is_file()] if folder.is_dir() else []
        files = [p for p in sorted(files, key=lambda p: (_step(p), p.name), reverse=True) if p.stat().st_size]
        return [
            (_caption(p), _data_uri(p.read_bytes(), TYPES[p.suffix.lower()]))
            for p in files[:PICTURES] if not p.name.startswith(".")
        ]  # fmt: skip

    def facts(self) -> list[tuple[str, str]]:
        """What the record holds besides versions and evaluations, dotted name and value."""
        left = {k: v for k, v in self.record.items() if k not in ("versions", "evaluations")}
        return _flat(left)

    def commands(self) -> list[tuple[str, str]]:
        """What to do with the run: (what for, command or Python)."""
        run = shlex.quote(str(self.folder))
        if self.finished:
            export = str(self.folder / "export")
            return [
                ("Load the model in Python", f"import zoo\n\nmodel = zoo.from_pretrained({export!r})"),
                ("Publish it with its card", f"zoo publish {run} --to FOLDER"),
                ("The command of this run", str(self.record.get("command", "not recorded"))),
                ("Train by the same recipe again: the same command with", f"--config {shlex.quote(str(self.folder / 'recipe.yaml'))} --to NEW_FOLDER"),
            ]
        command = self.last_known("command")
        given = f"{command}" + ("" if "--resume" in str(command).split() else " --resume") if command else "the command that started the run, with --resume"
        return [("Go on from the last checkpoint", given), ("Make this report again", f"zoo report {run}")]

    def _data_name(self) -> str:
        data = self.record.get("data")
        name = data.get("name") if isinstance(data, dict) else None
        return f" of {name}" if name else ""

    def _data_wait(self) -> float | None:
        """Share of the training time, each line counting as long as it took."""
        both = [line for line in self.lines if len(series([line], "data_wait")[0]) and len(series([line], "seconds")[0])]
        if not both:
            return None
        seconds, waits = np.array([[line["seconds"], line["data_wait"]] for line in both], dtype=np.float64).T
        lengths = np.diff(seconds, prepend=0.0).clip(min=0.0)
        return float(np.average(waits, weights=lengths) if lengths.sum() else waits.mean())


def duration(seconds: float) -> str:
    """A time in words: 12.3 s, 4 min 10 s, 2 h 05 min, 3 d 04 h."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 24 else f"{hours // 24} d {hours % 24:02d} h"


def _recipe(path: Path, notes: list[str]) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
    except FileNotFoundError:
        notes.append("recipe.yaml is missing.")
        return "", {}
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or a date that does not exist
        notes.append(f"recipe.yaml cannot be read: {error}")
        return "", {}
    if not isinstance(values, dict):
        notes.append("recipe.yaml does not hold a recipe.")
    return text, values if isinstance(values, dict) else {}


def _record(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        record = read_json(path)
    except CheckpointError as error:
        notes.append(str(error))
        return {}
    if not isinstance(record, dict):
        notes.append("record.json does not hold the record of a run.")
        return {}
    return record


def _count_lines(path: Path) -> int:
    return sum(bool(line.strip()) for line in path.read_bytes().splitlines()) if path.exists() else 0


def _step(path: Path) -> int:
    """The step in the name of a picture, -1 when it has none."""
    found = re.fullmatch(r"[a-z]+-(\d{1,15})", path.stem)
    return int(found[1]) if found else -1


def _caption(path: Path) -> str:
    """What a picture is called in the report: "step 1,000", or "attention, step 1,000" for another than the main one of a step."""
    name, step = path.stem.partition("-")[0], _step(path)
    return path.stem if step < 0 else f"step {step:,}" if name == "step" else f"{name}, step {step:,}"


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """A tree of plain values as (dotted name, text)."""
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in _flat(item, f"{name}.{key}" if name else str(key))]
    return [(name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))]


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _short(number: float) -> str:
    """A number with four digits that count, in full where that is readable."""
    if number == 0 or 1e-4 <= abs(number) < 1e7:
        digits = 3 - math.floor(math.log10(abs(number))) if number else 0
        return f"{number:,.{min(max(digits, 0), 7)}f}"
    return f"{number:.3e}"
