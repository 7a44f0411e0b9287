"""What licence weights have that were made from others: it stays with them, whatever was trained on top."""

import logging
from collections.abc import Iterable
from pathlib import Path

from modalities.common import pretrained
from modalities.common.stored import CONFIG, UNKNOWN
from trainer.config import read_yaml
from trainer.errors import ZooError
from trainer.files import read_json

log = logging.getLogger("zoo")


def licence_of_start(source: str) -> str | None:
    """Licence of the weights that a run began with: those of a model, or of another run or one of its checkpoints.

    None: the project's own. "unknown", with a warning, when the start is not there any more and nothing tells.
    """
    path = Path(source).expanduser()
    for run in (path, path.parent.parent):
        if (run / "export" / CONFIG).exists():
            return read_json(run / "export" / CONFIG).get("licence")
        if (run / "recipe.yaml").exists():
            recipe = read_yaml(run / "recipe.yaml")
            begun = [name for name in (recipe.get("init_from"), recipe.get("model")) if isinstance(name, str) and name]
            return combined(licence_of_start(name) for name in begun)
    try:
        return pretrained.load(source).licence
    except ZooError as error:
        log.warning("The licence of the weights that this run began with cannot be found (%s), so it will be called unknown.", error)
        return UNKNOWN


def combined(licences: Iterable[str | None]) -> str | None:
    """Licence of weights that were made from several; None is the project's own and adds nothing."""
    return " and ".join(sorted({licence for licence in licences if licence})) or None
