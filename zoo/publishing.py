"""Publishing: a run's export, checked and with a fresh card, in a folder of its own."""

import logging
from pathlib import Path

import tyro

from modalities.common import pretrained
from trainer.errors import CheckpointError
from trainer.files import read_json
from zoo.cards import FOLDER, write_card

log = logging.getLogger("zoo")


def publish(run: tyro.conf.Positional[Path], /, to: Path) -> Path:
    """Write what a run exported to a folder that others can load: weights, config, preprocessing, card, picture.

    The weights are loaded strictly first and must be finite, the card must parse as the Hub parses it; the
    folder appears complete or not at all.

    Args:
        run: Folder of a finished run.
        to: Folder to write: new, empty, or an earlier publication, which is replaced.
    """
    return publish_as(run, to, FOLDER)


def publish_as(run: Path, to: Path, where: str) -> Path:
    """`publish`, with what the card's snippet loads: the folder, or the name under which the model is registered."""
    if not (run / "record.json").exists():
        unfinished = (run / "recipe.yaml").exists()
        hint = "The run is not finished: start it again with --resume." if unfinished else "Expected the folder of a run (zoo pretrain, zoo finetune)."
        raise CheckpointError(f"{run} has no record.json. {hint}")
    record = read_json(run / "record.json")
    model = pretrained.load(run / "export")
    card, files = write_card(model, record, run, where)
    model.save_pretrained(to, card=card, files=files)
    again = pretrained.load(to)
    theirs = again.state_dict()
    if any(not tensor.equal(theirs[name]) for name, tensor in model.state_dict().items()):
        raise CheckpointError(f"What was written to {to} does not read back as it was. Check the disk and publish again.")
    size = sum(p.stat().st_size for p in to.iterdir())
    log.info("Published %s to %s (%.1f MB). Load it with zoo.from_pretrained(%r).", model.name, to, size / 1e6, str(to))
    return to
