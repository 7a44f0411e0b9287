"""The cards in model_cards/, one for every name of the zoo: `python -m tools.make_cards`.

Each is written anew from the registry and, for a model with weights, from what is recorded beside them; a person's words outside of the
generated blocks stay. `--check` writes nothing and fails when a card is out of date.
"""

import sys
from pathlib import Path

import torch
import tyro

from modalities import registry
from modalities.common import pretrained
from modalities.common.commandline import guarded
from trainer.errors import CheckpointError
from trainer.files import write_text
from zoo.carding import architecture_card
from zoo.cards import CARD, PICTURES, TEMPLATE, blocks, card_of, pictures_in, read_origin
from zoo.renewal import renew
from zoo.showing import CARDS, card_path


def make_cards(check: bool = False) -> None:
    """Write the cards of all registered models, and take away those of names that are gone.

    Args:
        check: Only say which are out of date, and fail if any is.
    """
    wanted = {path: text for name in registry.entries() for path, text in card_texts(name).items()}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    gone = sorted(path for path in CARDS.glob("*.md") if path != TEMPLATE and path not in wanted)
    if check and (stale or gone):
        raise CheckpointError(f"Out of date: {', '.join(path.name for path in [*stale, *gone])}. Run `python -m tools.make_cards`.")
    for path in stale:
        write_text(path, wanted[path])
    for path in gone:
        path.unlink()
    print(f"{len(wanted)} cards, {len(stale)} written, {len(gone)} removed")


def card_texts(name: str) -> dict[Path, str]:
    """Where the cards of a registered model lie, and what they must say: one in model_cards/, which is a copy of the card beside the weights if there are any.

    CheckpointError when somebody edited the copy.
    """
    path, folder = card_path(name), registry.find(name).folder
    if folder is None:
        with torch.device("meta"):
            text = architecture_card(pretrained.create(name))
        return {path: renew(text, path.read_text(encoding="utf-8"), str(path), blocks())[0] if path.exists() else text}
    require_copy(name, folder)
    pictures = {picture: folder / picture for picture in PICTURES if (folder / picture).exists()}
    text, _ = card_of(pretrained.load(name), read_origin(folder), name, pictures, [folder / CARD])
    return {folder / CARD: text, path: copied(text, folder)}


def copied(text: str, folder: Path) -> str:
    """A card that lies beside weights, as it reads in model_cards/: with links to the pictures over there."""
    for picture in pictures_in(text):
        text = text.replace(f"]({picture})", f"](../{(folder / picture).relative_to(CARDS.parent).as_posix()})")
    return text


def require_copy(name: str, folder: Path) -> None:
    """Raise CheckpointError when the card in model_cards/ is no copy of the one beside the weights."""
    path, original = card_path(name), folder / CARD
    if path.exists() and original.exists() and path.read_text(encoding="utf-8") != copied(original.read_text(encoding="utf-8"), folder):
        raise CheckpointError(f"{path} is not the copy of {original} that it should be. Put your words into the latter, remove the copy and run this again.")


if __name__ == "__main__":
    sys.exit(guarded(lambda: tyro.cli(make_cards, prog="python -m tools.make_cards")))
