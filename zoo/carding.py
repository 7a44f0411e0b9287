"""`zoo card`: write the card of a model anew, from what is recorded of it."""

from pathlib import Path
from typing import Any

import tyro

from modalities import registry
from modalities.common import hub, pretrained
from modalities.common.model import Model
from modalities.common.stored import CONFIG, ORIGIN
from trainer.config import dump_yaml, leaves, to_dict
from trainer.errors import CheckpointError, ConfigError, did_you_mean
from trainer.files import read_json, write_bytes, write_json, write_text
from zoo.cards import CARD, LICENCE, PICTURES, card_of, read_origin, render, usage, with_results, write_card
from zoo.showing import card_path


def card(source: tyro.conf.Positional[str], /, results: Path | None = None) -> None:
    """Write the card of a run's export or of a model folder anew; what a person wrote outside of its marks stays.

    Of a name of the zoo, the card that comes with the project is printed.

    Args:
        source: Folder of a run or of a model, or a name.
        results: File of `zoo evaluate --to`, to add to what is recorded of the model.
    """
    if source in registry.entries():
        if results is not None:
            raise ConfigError(f"{source} is a name of the zoo; results can be added to the card of a run or of a model folder.")
        print(card_path(source).read_text(encoding="utf-8"), end="")
        return
    folder = Path(source).expanduser()
    if not folder.is_dir():
        hint = did_you_mean(source, registry.entries())
        if not hint and hub.hub_id(source) is not None:
            hint = " The card of a model on the Hub is renewed when it is published again."
        raise CheckpointError(f"{source!r} is no folder and no name of the zoo, so it has no card to write.{hint}")
    if (folder / CONFIG).exists():
        place, origin = folder, read_origin(folder)
        if results is not None:
            if origin is None:
                raise CheckpointError(f"{folder} has no {ORIGIN}, so results cannot be added to what it says.")
            origin = {**origin, "record": with_results(origin["record"], results)}
        model = pretrained.load(folder)
        pictures = {name: folder / name for name in PICTURES if (folder / name).is_file()}
        text, files = card_of(model, origin, pictures=pictures, renews=[folder / CARD])
    elif (folder / "record.json").exists() and (folder / "export").is_dir():
        place, record = folder / "export", read_json(folder / "record.json")
        record = with_results(record, results) if results is not None else record
        text, files = write_card(pretrained.load(place), record, folder)
        if results is not None:
            write_json(folder / "record.json", record)
    else:
        raise CheckpointError(f"{folder} holds neither a model (config.json) nor a finished run (record.json), so there is nothing to write a card from.")
    for name, content in files.items():
        if not isinstance(content, Path):
            write_text(place / name, content)
        elif content.resolve() != (place / name).resolve():
            write_bytes(place / name, content.read_bytes())
    write_text(place / CARD, text)
    print(place / CARD)


def architecture_card(model: Model) -> str:
    """The card of a registered model without weights: what it is, how to train it, where weights can be had."""
    entry = registry.find(str(model.name))
    official = registry.systems()[entry.system].weights_licence if entry.official else None
    origin: dict[str, Any] = {"kind": "architecture", "record": {}}
    if entry.name in registry.recipes():
        recipe = registry.find_recipe(entry.name)
        usual = leaves(type(recipe)())
        data = " --data.path FOLDER" if "data.path" in usual else ""  # a recipe on generated data has no path
        settings = {name: to_dict(value) for name, value in leaves(recipe).items() if value != usual[name]}
        origin |= {"record": {"command": f"zoo pretrain {entry.name}{data}"}, "recipe": dump_yaml(settings).strip()}
    return render(
        model,
        origin,
        snippet=f'import zoo\n\nmodel = zoo.create("{entry.name}")  # random weights\n{usage(model)}',
        official=entry.official,
        terms=f"{LICENCE} for the code and for weights that you train." + (f" {official} for the authors' weights." if official else ""),
    )
