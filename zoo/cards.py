"""Model cards from what a run recorded: metadata that the Hub reads, and the facts a user needs.

A number appears in a card only together with the command that measured it.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined

from modalities import registry
from modalities.common.model import Model
from trainer.config import to_dict
from trainer.errors import CheckpointError

LICENCE = "apache-2.0"
TEMPLATE = Path(__file__).parents[1] / "model_cards" / "TEMPLATE.md"
PICTURE = "picture.png"
"""Name of the picture beside the card."""


FOLDER = "path/to/this/folder"
"""What a card calls the place of its own model."""


def write_card(model: Model, record: dict[str, Any], run: Path, where: str = FOLDER) -> tuple[str, dict[str, Path]]:
    """The text of a card for a model that a run made, and the files it shows (name -> path).

    `where` is what the card's snippet loads. Raises CheckpointError when the result is no valid card."""
    system = entry_of(model)
    name = model.name or model.system
    results = record.get("evaluations", [])
    recipe = (run / "recipe.yaml").read_text(encoding="utf-8").strip()
    picture = latest_picture(run)
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    text = template.render(
        card_data=metadata(model, record).to_yaml(),
        name=name,
        what=system.what,
        system=model.system,
        title=system.title,
        parameters=record["parameters"],
        input=describe_input(model),
        paper=system.paper,
        snippet=snippet(model, where),
        picture=picture and PICTURE,
        picture_caption=system.picture,
        data=record["data"],
        preprocessing=json.dumps(to_dict(model.preprocess), indent=2) if model.preprocess else "none",
        command=record["command"],
        steps=record["steps"],
        best=record.get("best"),
        batch_size=record["batch_size"],
        seconds=f"{record['seconds']:.0f}",
        hardware=record["hardware"],
        loss=f"{record['final']['loss']:.4f}" if "loss" in record["final"] else "not recorded",
        recipe=recipe,
        versions=", ".join(f"{k} {v}" for k, v in record["versions"].items()),
        results=[{"detail": "", "unit": "", **r} for r in results],
        commands=list(dict.fromkeys(r.get("command", record["command"]) for r in results)),
        limits=system.limits,
        licence=f"{licence_text(model)} Data: {record['data'].get('licence', 'the licence of the data that you trained on applies')}.",
        citation=system.citation,
    )
    check_card(text, name)
    return text, {PICTURE: picture} if picture else {}


def entry_of(model: Model) -> registry.SystemEntry:
    """What the registry says of a model's system, in the words for this very model (with or without head)."""
    entry = registry.systems()[model.system]
    return replace(entry, **entry.headless) if getattr(model.config, "num_classes", None) == 0 else entry


def latest_picture(run: Path) -> Path | None:
    """The last picture that a run drew."""
    found = sorted((run / "pictures").glob("step-*.png"))
    return found[-1] if found else None


def metadata(model: Model, record: dict[str, Any]) -> ModelCardData:
    """The YAML head of the card, as huggingface_hub and the Hub read it."""
    system = entry_of(model)
    name = model.name or model.system
    evaluations = [
        EvalResult(
            task_type=r["task"],
            dataset_type=r["data"],
            dataset_name=r["data"],
            dataset_split=r["split"],
            metric_type=r["metric"],
            metric_name=" ".join(filter(None, [r["metric"], r.get("detail", "")])),
            metric_value=r["value"],
        )
        for r in record.get("evaluations", [])
    ]
    return ModelCardData(
        license=model.licence or LICENCE,
        library_name="modality-zoo",
        pipeline_tag=system.pipeline_tag,
        tags=["modality-zoo", name.partition("/")[0], *system.tags],
        **({"model_name": name, "eval_results": evaluations} if evaluations else {}),
    )


def licence_text(model: Model) -> str:
    """What may be done with code and weights, in a sentence."""
    if not model.licence:
        return f"{LICENCE} for the code and these weights."
    if model.licence == "unknown":
        return f"{LICENCE} for the code. The licence of the weights is not known: ask their authors before you use them."
    forbids = ", which forbids commercial use" if "nc" in model.licence.split("-") else ""
    return f"{LICENCE} for the code. {model.licence} for the weights, as for those that they were made from{forbids}."


def snippet(model: Model, where: str = FOLDER) -> str:
    """Python lines that load this very model and use it."""
    config = model.config
    lines = entry_of(model).snippet.format(
        width=config.embed_dim, tokens=model.pos_embed.shape[1], classes=getattr(config, "num_classes", 0)
    )
    return f'import zoo\n\nmodel = zoo.from_pretrained("{where}")\n{lines}'


def describe_input(model: Model) -> str:
    """What the network reads, in words."""
    config = model.config
    size = " x ".join(map(str, config.input_size))
    return f"`{model.input_key}`: {config.in_chans} channel(s), {size}"


def check_card(text: str, name: str) -> ModelCard:
    """Parse a card with the Hub's own parser; CheckpointError when its metadata is not valid."""
    try:
        card = ModelCard(text)
        ModelCardData(**card.data.to_dict())
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(f"The card of {name} is not valid for the Hub: {error}") from error
    if not card.text.strip() or card.data.library_name != "modality-zoo":
        raise CheckpointError(f"The card of {name} is empty or does not name modality-zoo as its library.")
    return card
