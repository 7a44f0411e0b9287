"""Make a run's result part of the project: `python -m tools.bundle RUN`.

Publishes the run into the folder of bundled weights of the model it was made by, and its card into model_cards/.
"""

import logging
import sys
from pathlib import Path

import tyro

from modalities import registry
from modalities.common.commandline import guarded
from tools.make_cards import copied, require_copy
from trainer.errors import CheckpointError
from trainer.files import read_json, write_text
from zoo.cards import CARD
from zoo.publishing import publish_as
from zoo.showing import card_path


def bundle(run: tyro.conf.Positional[Path], /) -> None:
    """Publish a run as the bundled weights of its model.

    Args:
        run: Folder of a finished run, made by the recipe of a model that is registered with weights.
    """
    name = read_json(run / "record.json")["recipe"]
    folder = registry.find(name).folder
    if folder is None:
        raise CheckpointError(f"{name} is registered without weights. Give its ModelEntry a `weights` folder first.")
    require_copy(name, folder)
    publish_as(run, folder, name)
    write_text(card_path(name), copied((folder / CARD).read_text(encoding="utf-8"), folder))
    logging.getLogger("zoo").info("Card: %s", card_path(name))


if __name__ == "__main__":
    sys.exit(guarded(lambda: tyro.cli(bundle, prog="python -m tools.bundle")))
