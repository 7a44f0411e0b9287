"""`zoo show` for a model that lies in a folder or on the Hub: where it is from, what it holds, its card."""

import json
import re

from rich.console import Console
from rich.markdown import Markdown

from modalities import registry
from modalities.common import hub, pretrained
from trainer.files import read_json

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a card must not send to a terminal."""


def show_folder(name: str) -> None:
    """Print what is known of a model without loading its weights; of one on the Hub only the small files are downloaded."""
    folder = pretrained.locate(name, weights=False)
    snapshot = hub.origin(folder)
    config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    system = registry.systems().get(str(config.get("model"))) if isinstance(config, dict) else None
    print(f"{name}: {system.title if system else 'in the layout of another library'}\n")
    if snapshot is not None:
        print(f"Hub         {snapshot.repo_id}, commit {snapshot.commit}{f' of {snapshot.date[:10]}' if snapshot.date else ''}")
    print(f"Folder      {folder}")
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:>13,}  {path.name}")
    preprocessing = folder / "preprocessor_config.json"
    if preprocessing.exists():
        print(f"Preprocess  {json.dumps(read_json(preprocessing))}")
    card = folder / "README.md"
    if card.exists():
        text = re.sub(r"\A---\n.*?\n---\n", "", card.read_text(encoding="utf-8", errors="replace"), flags=re.S)
        Console(highlight=False).print(Markdown(CONTROL.sub("", text), hyperlinks=False))
