"""`zoo show`: what a model is, before it is loaded. Of a registered name this is known without torch; weights are never read."""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from modalities import registry
from trainer.errors import CheckpointError
from zoo.escaping import plain
from zoo.renewal import parse

CARDS = Path(__file__).parents[1] / "model_cards"
"""The cards of the models that the zoo names."""
CARD = "README.md"
MARKS = re.compile(r"^<!--.*?-->[ \t]*\n?", re.M | re.S)
"""Comments of a card, on lines of their own; nobody needs to see them."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What a card must not send to a terminal."""


@dataclass
class Shown:
    """What is known of a model."""

    name: str
    """What was asked for."""
    title: str
    """What it is, in words."""
    parameters: int | None = None
    """Their number; None when neither card nor weights say it."""
    input: dict[str, list[int]] = field(default_factory=dict)
    """Entry of the batch -> shape of one sample."""
    preprocessing: dict[str, Any] | None = None
    """What `model.preprocess` does; of an architecture without weights, the usual for it."""
    licence: str | None = None
    """Licence of the weights; of an architecture without weights, that of the code."""
    paper: str | None = None
    """Authors, title, year."""
    hub: dict[str, str | None] | None = None
    """Repository, commit and date, for a model of the Hub."""
    place: str | None = None
    """Folder or file of the weights; None: none are here."""
    files: dict[str, int] = field(default_factory=dict)
    """Name -> size in bytes."""
    bytes_on_disk: int = 0
    """Sum of the sizes."""
    results: list[dict[str, Any]] = field(default_factory=list)
    """What the card says was measured: task, data, split, metric, value."""
    card: str | None = None
    """The card in Markdown, without its head."""


def show(name: tyro.conf.Positional[str], /, as_json: Annotated[bool, tyro.conf.arg(name="json")] = False) -> None:
    """Show parameters, input, preprocessing, licence, size, results and the card of a model, without loading it.

    Args:
        name: A name of the zoo, a folder or weight file, or a model of the Hub (of which only the small files are downloaded).
        as_json: Print the same as JSON, for programs.
    """
    shown = registered(name) if name in registry.entries() else stored(name)
    print(json.dumps(asdict(shown), indent=2)) if as_json else _print(shown)


def card_path(name: str) -> Path:
    """Where the card of a registered model lies: vision/mae-tiny-digits -> model_cards/vision--mae-tiny-digits.md."""
    return CARDS / f"{name.replace('/', '--')}.md"


def registered(name: str) -> Shown:
    """What the registry and the card that comes with the project say of a name."""
    entry = registry.find(name)
    shown = Shown(name, entry.summary, entry.parameters, paper=registry.about(entry.system, name).paper)
    if entry.folder is not None:
        _add_files(shown, entry.folder)
    _add_card(shown, card_path(name))
    return shown


def stored(name: str) -> Shown:
    """What lies in a folder, a weight file or a repository of the Hub. Raises ZooError when it is nothing that can be loaded."""
    from modalities.common import hub, pretrained
    from modalities.common.preprocess import FILE
    from modalities.common.stored import CONFIG, INDEX, WEIGHTS, Stored, beside

    path = pretrained.locate(name, weights=False)
    snapshot = hub.origin(path)
    shown = Shown(name, "in the layout of another library")
    _add_files(shown, path)
    folder = path if path.is_dir() else path.parent
    _add_card(shown, folder / CARD)
    if snapshot is not None:
        shown.hub = {"repository": snapshot.repo_id, "commit": snapshot.commit, "date": snapshot.date}
    here = path.is_file() or any((path / file).exists() for file in (WEIGHTS, INDEX))
    found = Stored.open(path) if here or snapshot is None else None
    config = found.config if found else beside(folder, CONFIG)
    shown.preprocessing = (found.preprocessing if found else beside(folder, FILE)) or shown.preprocessing
    model = _without_weights(config, found, str(path))
    if model is None:
        return shown
    system = registry.about(model.system, model.name)
    shown.title, shown.paper = f"{model.system}, {system.title}", system.paper
    shown.parameters = sum(p.numel() for p in model.parameters())
    shown.input = {key: list(shape) for key, shape in model.input_shapes().items()}
    if isinstance(config, dict) and "format_version" in config:
        shown.licence = config.get("licence") or shown.licence or "apache-2.0"
    return shown


def _without_weights(config: Any, found: Any, where: str) -> Any:
    """The model of a config, or of the names and shapes of `found` tensors, without memory; None when neither tells."""
    import torch

    from modalities.common import pretrained
    from modalities.common.stored import check_config
    from trainer.config import from_dict

    if isinstance(config, dict) and "format_version" in config:
        checked = check_config(config, where)
        system, fields = checked["model"], checked["config"]
    elif found is not None:
        described = pretrained.recognise(found.weights.meta, config, where, found.preprocessing)
        system, fields = described.system, described.fields
    else:
        return None
    cls = registry.system_class(system)
    with torch.device("meta"):
        return cls(from_dict(cls.config_class, fields, where))


def _add_files(shown: Shown, place: Path) -> None:
    shown.place = str(place)
    shown.files = {p.name: p.stat().st_size for p in (sorted(place.iterdir()) if place.is_dir() else [place]) if p.is_file()}
    shown.bytes_on_disk = sum(shown.files.values())


def _add_card(shown: Shown, path: Path) -> None:
    """Take over what a card says. A card that cannot be read is only not shown: it may be of anybody."""
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        head = parse(text, str(path)).values()
    except CheckpointError:
        head = {}
    facts = head.get("modality_zoo")
    facts = facts if isinstance(facts, dict) else {}
    shown.parameters = shown.parameters or facts.get("parameters")
    shown.input, shown.preprocessing = facts.get("input") or {}, facts.get("preprocessing")
    shown.licence = head.get("license") if isinstance(head.get("license"), str) else None
    shown.results = _results(head.get("model-index"))
    shown.card = CONTROL.sub("", MARKS.sub("", re.sub(r"\A\s*---\n.*?\n---\n", "", text.replace("\r\n", "\n"), flags=re.S))).strip() + "\n"


def _results(index: Any) -> list[dict[str, Any]]:
    """The rows of a card's model-index; nothing where it has another form."""
    rows = []
    try:
        for result in (result for model in index or [] for result in model["results"]):
            task, data = result["task"]["type"], result["dataset"]
            for metric in result["metrics"]:
                rows.append({"task": task, "data": data["name"], "split": data.get("split"), "metric": metric.get("name", metric["type"]), "value": metric["value"]})
    except (AttributeError, KeyError, TypeError):
        return []
    return rows


def _print(shown: Shown) -> None:
    """The facts as lines and the card below: formatted on a terminal, as it is elsewhere."""
    from rich.console import Console
    from rich.markdown import Markdown

    files = ", ".join(f"{name} {_size(size)}" for name, size in shown.files.items())
    lines = {
        "Paper": shown.paper,
        "Parameters": f"{shown.parameters:,} (fixed position tables included)" if isinstance(shown.parameters, int) else None,
        "Input": ", ".join(f"{key} {' x '.join(map(str, shape))}" for key, shape in shown.input.items()),
        "Preprocessing": json.dumps(shown.preprocessing) if shown.preprocessing else None,
        "Licence": shown.licence,
        "Hub": f"{shown.hub['repository']}, commit {shown.hub['commit']}{' of ' + shown.hub['date'][:10] if shown.hub['date'] else ''}" if shown.hub else None,
        "Weights": shown.place or "none come with the project; zoo.create gives random ones",
        "On disk": f"{_size(shown.bytes_on_disk)} ({files})" if shown.files else None,
        "Results": "\n".join(f"{row['value']}  {row['metric']}, {row['data']} {row['split'] or ''}" for row in shown.results),
    }
    print(f"{plain(shown.name)}: {plain(shown.title)}\n")
    for key, value in lines.items():
        for number, line in enumerate((value or "").splitlines()):
            print(f"{'' if number else key:<15}{plain(line)}")
    if shown.card:
        console = Console(highlight=False)
        print()
        if console.is_terminal:
            console.print(Markdown(shown.card, hyperlinks=False))
        else:
            print(shown.card, end="")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
