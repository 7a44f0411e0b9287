"""Model cards from what is recorded of a model: metadata that the Hub reads, and the facts a user needs.

How the weights were made lies beside them in `origin.json`: {"kind": "training", "record": ..., "recipe": ...}, or of another kind. From
that and the model itself a card can be written again at any time (`zoo.renewal`). A number appears in a card only together with the
command that measured it.
"""

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from modalities import registry
from modalities.common import hub
from modalities.common.model import Model
from modalities.common.stored import ORIGIN, beside
from trainer.errors import CheckpointError, shorten
from trainer.files import read_json
from zoo import escaping
from zoo.escaping import plain
from zoo.renewal import KEEP, own_words, parse, renew

log = logging.getLogger("zoo")

LICENCE = "apache-2.0"
TEMPLATE = Path(__file__).parents[1] / "model_cards" / "TEMPLATE.md"
CARD = "README.md"
PICTURE, ANIMATION, CURVES = "picture.png", "picture.gif", "curves.png"
VIEWS = {
    "attention": "What the class token (without one, the mean of all patches) looks at in the last block: the image, the mean of all heads laid over it, single heads",
    "neighbours": "Images (left) and those with the nearest features, with the cosine",
    "confusion": "Test samples of each class (rows) by what the model says (columns)",
}
"""Sheets that a run draws beside its main one -> what they show. The first part of the file names in the run, and all of it here."""
PICTURES = (PICTURE, ANIMATION, *(f"{name}.png" for name in VIEWS), CURVES)
"""Names of the pictures beside the card."""
FOLDER = "path/to/this/folder"
"""What a card calls the place of its own model."""
MEASUREMENT = ("task", "data", "split", "metric")
"""What a row of results must say of what was measured; a `detail` may be added."""
KINDS = ("training", "average", "conversion")
"""How weights can come about."""
LOADS = re.compile(r'(?<=zoo\.from_pretrained\(")[^"]*(?="\))')
"""What a card's snippet loads."""
LIBRARIES = ("modality-zoo", "timm", "transformers", "onnx", "pytorch")
"""What a card may name as the library of its model."""

Files = dict[str, Path | str]
"""Name beside the card -> the file to copy, or its text."""


def write_card(model: Model, record: dict[str, Any], run: Path, where: str = FOLDER, renews: Sequence[Path] = ()) -> tuple[str, Files]:
    """The text of the card of a model that a run made, and the files that lie beside it.

    `where` is what the card's snippet loads; `renews` are cards whose own words stay, beside that of the run's export. Raises
    CheckpointError when the result is no valid card, or when the marks of another are damaged.
    """
    origin = {"kind": "training", "record": record, "recipe": (run / "recipe.yaml").read_text(encoding="utf-8").strip()}
    views = {f"{name}.png": latest_picture(run, name) for name in VIEWS}
    drawn = {PICTURE: latest_picture(run), ANIMATION: latest_picture(run, ending=".gif"), **views, CURVES: run / CURVES if (run / CURVES).exists() else None}
    return card_of(model, origin, where, {name: path for name, path in drawn.items() if path}, [*renews, run / "export" / CARD])


def card_of(
    model: Model, origin: dict[str, Any] | None, where: str = FOLDER, pictures: Mapping[str, Path] | None = None, renews: Sequence[Path] = (), **own: Any
) -> tuple[str, Files]:
    """The text of a model's card, and the files beside it: pictures, `origin.json`, and pictures that a person's own words show.

    `origin` is what `origin.json` holds (None: nothing is recorded). `renews` are cards that may exist; the words of a person in one of
    them stay; `own` is what `render` takes. Raises CheckpointError when two of them have different words of their own.
    """
    files: Files = dict(pictures or {})
    existing, standing = _standing(render(model, origin, where, files, **own), [path for path in renews if path.exists()], model)
    licence = licence_of(model, existing, str(standing))
    text = render(model, origin, where, files, licence, **own)
    if existing is not None:
        text, said = renew(text, existing, str(standing), blocks(), complete=origin is not None, alike=lambda line: LOADS.sub("", line.strip()))
        for sentence in said:
            log.warning("%s: %s", standing, sentence)
        files = {name: standing.parent / name for name in pictures_in(text) if (standing.parent / name).is_file()} | files
    check_card(text, model.name or model.system)
    return text, files | ({ORIGIN: json.dumps(origin, indent=2) + "\n"} if origin else {})


def _standing(fresh: str, cards: Sequence[Path], model: Model) -> tuple[str | None, Path | None]:
    """The card (text, path) among several whose words stay: the one that has words of its own, else the first."""
    found = [(card.read_text(encoding="utf-8", errors="replace"), card) for card in cards]
    found = [(text, card) for text, card in found if text != str(model.generate_model_card())]  # that one nobody has touched
    written = {own_words(text, fresh, str(card)): (text, card) for text, card in reversed(found)}
    written.pop((), None)
    if len(written) > 1:
        places = " and ".join(str(card) for _, card in written.values())
        raise CheckpointError(f"{places} both hold words of somebody's own, which differ. Put them into one of the two and take them out of the other, or move it away.")
    return next(iter([*written.values(), *found]), (None, None))


def render(
    model: Model, origin: dict[str, Any] | None, where: str = FOLDER, pictures: Iterable[str] = (), licence: str = LICENCE, library: str = LIBRARIES[0], **own: Any
) -> str:
    """A card as it is without a person's words. `library` is whose model it is, `own` replaces values of the template.

    CheckpointError when `origin` lacks what its kind needs.
    """
    system, origin = entry_of(model), origin or {"kind": None}
    kind, record = origin["kind"], origin.get("record", {})
    name = model.name or Path(str(record.get("file", model.system))).stem if kind == "conversion" else model.name or model.system
    views = {f"{name}.png": caption for name, caption in VIEWS.items()}
    captions = {PICTURE: system.picture, ANIMATION: "The same, moving", **views, CURVES: "Loss and learning rate over the run"}
    values = {
        "name": name,
        "system": system,
        "model": model,
        "parameters": sum(p.numel() for p in model.parameters()),
        "input": describe_input(model),
        "classes": getattr(model.config, "class_names", ()),
        "snippet": snippet(model, where),
        "pictures": [(name, captions[name]) for name in pictures],
        "kind": kind,
        "record": record,
        "recipe": origin.get("recipe"),
        "preprocessing": json.dumps(model.preprocess.values(), indent=2) if model.preprocess else None,
        "terms": licence_text(licence),
        "official": (),
        "export": origin.get("export"),
    }
    try:
        results = evaluations(origin)
        values |= {
            "results": [{"detail": "", "unit": "", **r} for r in results],
            "commands": list(dict.fromkeys(str(r.get("command", record.get("command"))) for r in results)),
            "versions": ", ".join(f"{k} {v}" for k, v in record.get("versions", {}).items()),
            "head": metadata(model, name, [] if record.get("greedy") else results, licence, library, _base(origin)).to_yaml(),
        }
        values |= own
        if kind == "training":
            values["terms"] += f" Data: {record['data'].get('licence') or 'the licence of the data that you trained on applies'}."
        return environment().get_template(TEMPLATE.name).render(values)
    except (jinja2.TemplateError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{ORIGIN} of {values['name']} does not hold what a card of the kind {shorten(kind)} needs: {shorten(str(error), 200)}.") from error


@cache
def environment() -> jinja2.Environment:
    """Jinja with the template and with filters that make foreign words harmless."""
    made = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, loader=jinja2.FileSystemLoader(TEMPLATE.parent))
    made.filters |= {"inline": escaping.inline, "code": escaping.code, "fenced": escaping.fenced, "some": escaping.some}
    return made


@cache
def blocks() -> tuple[str, ...]:
    """Names of the generated blocks, in the order of the template."""
    return tuple(re.findall(r'call generated\("([a-z]+)"\)', TEMPLATE.read_text(encoding="utf-8")))


def read_origin(folder: Path) -> dict[str, Any] | None:
    """What `origin.json` of a model folder says; None when there is none. CheckpointError when it is not such a file."""
    origin = beside(folder, ORIGIN)
    if isinstance(origin, dict) and "export" in origin:
        raise CheckpointError(f"{folder} was written by `zoo export`, which writes its card, too. Export the model again, or give the folder of the model itself.")
    if origin is not None and not (isinstance(origin, dict) and origin.get("kind") in KINDS and isinstance(origin.get("record"), dict)):
        raise CheckpointError(f"{folder / ORIGIN} must be a mapping with a record and a kind, one of {', '.join(KINDS)}; found {shorten(origin)}.")
    return origin


def evaluations(origin: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was measured on a model, as rows."""
    record = origin.get("record", {})
    rows = [*([record["measured"]] if record.get("measured") else []), *record.get("evaluations", [])]
    if not all(isinstance(row, dict) for row in rows):
        raise TypeError(f"its evaluations are {shorten(rows)}, no rows")
    return rows


def with_results(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """A record with the rows of a file of `zoo evaluate --to` added; a row of the same measurement is replaced."""
    rows = read_json(path)
    for row in rows if isinstance(rows, list) else [rows]:
        if not isinstance(row, dict) or not {*MEASUREMENT, "samples", "value", "command"} <= row.keys():
            raise CheckpointError(f"{path} must hold the rows that `zoo evaluate --to` writes, found {shorten(row)}.")

    def key(row: dict[str, Any]) -> list[Any]:
        return [row.get(name) for name in (*MEASUREMENT, "detail")]

    before = [row for row in record.get("evaluations", []) if key(row) not in [key(row) for row in rows]]
    return {**record, "evaluations": before + rows}


def entry_of(model: Model) -> registry.SystemEntry:
    """What the registry says of a model's system, in the words for this very model (with or without head)."""
    entry = registry.about(model.system, model.name)
    return replace(entry, **entry.headless) if getattr(model.config, "num_classes", None) == 0 else entry


def latest_picture(run: Path, name: str = "step", ending: str = ".png") -> Path | None:
    """The last picture that a run drew under a name, by default its main one; or, with the ending ".gif", the last animation."""
    found = sorted((run / "pictures").glob(f"{name}-*{ending}"))
    return found[-1] if found else None


def pictures_in(text: str) -> list[str]:
    """Names of the pictures that a card shows and that lie beside it."""
    return [name for name in hub.wanted(re.findall(r"!\[[^\]]*\]\(([\w.-]+)\)", text)) if name.lower().endswith(hub.PICTURES)]


def metadata(model: Model, name: str, rows: list[dict[str, Any]], licence: str, library: str, base: str | None) -> ModelCardData:
    """The YAML head of the card, as huggingface_hub and the Hub read it; under `modality_zoo` what `zoo show` reads."""
    system = entry_of(model)
    results = [
        EvalResult(
            task_type=plain(r["task"]),
            dataset_type=plain(r["data"]),
            dataset_name=plain(r["data"]),
            dataset_split=plain(r["split"]),
            metric_type=plain(r["metric"]),
            metric_name=plain(" ".join(filter(None, [r["metric"], r.get("detail", "")]))),
            metric_value=r["value"],
        )
        for r in rows
    ]
    facts = {"parameters": sum(p.numel() for p in model.parameters()), "input": {key: list(shape) for key, shape in model.input_shapes().items()}}
    several = " and " in licence  # of weights that were averaged
    return ModelCardData(
        license="other" if several else licence,
        **({"license_name": licence} if several else {}),
        library_name=library,
        pipeline_tag=system.pipeline_tag,
        tags=["modality-zoo", model.system.partition("/")[0], *system.tags, *model.card_tags()],
        **({"base_model": base} if base else {}),
        **({"model_name": plain(name), "eval_results": results} if results else {}),
        modality_zoo=facts | ({"preprocessing": model.preprocess.values()} if model.preprocess else {}),
    )


def licence_of(model: Model, existing: str | None = None, where: str = "") -> str:
    """Licence of a model's weights: that which they came with; else the one that a person put into an `existing` card and told to keep; else ours."""
    head = parse(existing, where).values() if existing else {}
    kept = isinstance(head.get(KEEP), list) and "license" in head[KEEP] and head.get("license")
    if model.licence and kept and kept != model.licence:
        raise CheckpointError(f"{where} wants to keep the license {shorten(kept)}; the weights came with {model.licence}, which stays. Take license out of {KEEP}.")
    return model.licence or (str(kept) if kept else LICENCE)


def licence_text(licence: str) -> str:
    """What may be done with code and weights, in a sentence."""
    if licence == LICENCE:
        return f"{LICENCE} for the code and these weights."
    if licence == "unknown":
        return f"{LICENCE} for the code. The licence of the weights is not known: ask their authors before you use them."
    forbids = ", which forbids commercial use" if "nc" in re.split(r"\W", licence.lower()) else ""
    return f"{LICENCE} for the code. {licence} for the weights{forbids}."


def snippet(model: Model, where: str = FOLDER) -> str:
    """Python lines that load this very model and use it."""
    return f'import zoo\n\nmodel = zoo.from_pretrained("{where}")\n{usage(model)}'


def usage(model: Model) -> str:
    """Python lines that use a `model`."""
    config = model.config
    sizes = {"width": getattr(config, "embed_dim", None), "classes": getattr(config, "num_classes", 0), "tokens": model.token_count()}
    said = entry_of(model).snippet.format(**sizes, **model.snippet_words())
    return said if getattr(config, "in_chans", 3) in (1, 3) else said.replace("image.png", "image.npy")  # a png holds no other channels


def describe_input(model: Model) -> str:
    """What the network reads, in words."""
    return model.input_in_words()


def check_card(text: str, name: str) -> ModelCard:
    """Parse a card with the Hub's own parser; CheckpointError when its metadata is not valid."""
    try:
        card = ModelCard(text)
        ModelCardData(**card.data.to_dict())
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(f"The card of {name} is not valid for the Hub: {error}") from error
    if not card.text.strip() or card.data.library_name not in LIBRARIES:
        raise CheckpointError(f"The card of {name} is empty or does not name modality-zoo as its library.")
    return card


def _base(origin: Mapping[str, Any]) -> str | None:
    """The Hub id of the model that a training began with."""
    recipe = yaml.safe_load(origin["recipe"]) if origin["kind"] == "training" else {}
    begun = [recipe.get(key) for key in ("init_from", "model")]
    found = [hub.hub_id(name) for name in begun if isinstance(name, str)]
    return next((known[0] for known in found if known), None)
