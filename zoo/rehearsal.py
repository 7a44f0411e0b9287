"""What a stranger does with a published model, done once before it is published: in a new process, from its folder."""

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from modalities import registry
from modalities.common import pretrained
from modalities.common.model import Model
from trainer.errors import CheckpointError
from zoo.cards import snippet

log = logging.getLogger("zoo")

SECONDS = 300
"""How long the new process may take."""
ENDING = """
import sys
from zoo.rehearsal import report
report(sys.argv[1])
"""
"""What the new process does after the snippet."""


def rehearse(model: Model, folder: Path, card: str) -> str:
    """Load `folder` in a new process, run the snippet of its card there, and return the fingerprint of one output.

    The snippet's own words are run only if they are the ones that the zoo writes for this model: a card that came with a
    model may hold anything. Raises CheckpointError when the process fails or gives another output than `model`.
    """
    expected = fingerprint(model)
    code, where = _snippet(card, model)
    if where is None:
        log.warning("The card's snippet is not the one that the zoo writes for this model, so it was not run; the model is loaded all the same.")
    with tempfile.TemporaryDirectory(prefix="zoo-rehearsal-") as scratch:
        desk = Path(scratch)
        write_example(model, desk)
        place = desk / (where or "model")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(folder.resolve(), target_is_directory=True)
        (desk / "rehearsal.py").write_text(code + ENDING, encoding="utf-8")
        found = _run([sys.executable, "rehearsal.py", str(place)], desk)
    if found != expected:
        raise CheckpointError(f"{folder} gives another output in a new process than here. Nothing was published.")
    return expected


def report(folder: str) -> None:
    """In the new process: print what the model in `folder` gives."""
    print(json.dumps({"fingerprint": fingerprint(pretrained.load(folder))}))


def fingerprint(model: Model) -> str:
    """A hash of the model's features of an example input, to the last bit. CheckpointError when they are not finite."""
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        features = model.embed(model.preprocess(write_example(model, Path(scratch))))
    if not torch.isfinite(features).all():
        raise CheckpointError(f"{model.name or model.system} gives NaN or infinity for an example input. Such a model is not published.")
    return hashlib.sha256(features.float().cpu().numpy().tobytes()).hexdigest()


def write_example(model: Model, folder: Path) -> list[str]:
    """Write the files that the snippets of the model's modality read, and return their paths."""
    modality = model.system.partition("/")[0]
    return registry.load(f"modalities.{modality}.tasks:write_example")(model, folder)


def _snippet(card: str, model: Model) -> tuple[str, str | None]:
    """(code, what it loads) of a card's first Python block; ("", None) when it is not the zoo's own for this model."""
    block = re.search(r"```python\n(.*?)\n?```", card, re.S)
    loads = re.search(r'zoo\.from_pretrained\("([\w./-]+)"\)', block[1]) if block else None
    if loads is None or block[1].strip() != snippet(model, loads[1]).strip() or ".." in loads[1] or loads[1].startswith("/"):
        return "", None
    return block[1] + "\n", loads[1]


def _run(command: list[str], folder: Path) -> str:
    """The fingerprint that a new process prints. It finds this code, uses as many threads, and no network."""
    code = str(Path(__file__).parents[1])
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [code, os.environ.get("PYTHONPATH", "")])),
        "OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise CheckpointError(f"The card's snippet did not end within {SECONDS} s in a new process. Nothing was published.") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise CheckpointError(f"In a new process the model does not load or the card's snippet fails: {lines[-1]} Nothing was published.")
    return json.loads(done.stdout.strip().splitlines()[-1])["fingerprint"]
