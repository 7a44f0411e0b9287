"""`zoo extract`: a part of an elastic model as a model folder of its own."""

from pathlib import Path

import tyro

from modalities.common import pretrained
from modalities.common.run import command
from trainer.errors import ConfigError
from zoo.cards import CARD, card_of, read_origin


def extract(name: tyro.conf.Positional[str], /, size: str, output: Path) -> Path:
    """Cut the part of one size out of an elastic model (POA), as a plain vision transformer that is loaded, fine-tuned and exported like any other.

    Nothing is trained; the part computes what it computed inside. `zoo.from_pretrained(name, size=...)` does the same without a folder.

    Args:
        name: Folder or name of the model, or its id on the Hub.
        size: small, base, large, or width_depth as in 384_12.
        output: Folder to write: new, empty, or a model, which is replaced.
    """
    source = pretrained.locate(name)
    if output.exists() and output.resolve() == source.resolve():
        raise ConfigError(f"{output} is the model itself. Choose another folder with --output.")
    model = pretrained.load(source, size=size)
    origin = read_origin(source) if source.is_dir() else None
    if origin is not None:  # what was measured was the whole network
        record = {key: value for key, value in origin["record"].items() if key not in ("evaluations", "measured", "best")}
        origin = {**origin, "record": {**record, "extracted": {"source": name, "size": size, "command": command()}}}
    card, files = card_of(model, origin, renews=[output / CARD])
    model.save_pretrained(output, card=card, files=files)
    print(f"{name}, size {size}: {output} ({sum(p.numel() for p in model.parameters()):,} parameters). Load it with zoo.from_pretrained({str(output)!r}).")
    return output
