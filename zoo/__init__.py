"""modality-zoo: modality-specific foundation models with one shared trainer.

Importing this loads neither torch nor any modality; each function imports what it needs when it is called.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import ZooError

if TYPE_CHECKING:
    from modalities.common.model import Model

__version__ = "0.1.0"
__all__ = ["ZooError", "create", "from_pretrained", "list_models", "pretrain"]


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """Names of the models: all, those of a modality ("vision"), or those that match a wildcard ("*mae*").

    `pretrained` keeps the names whose weights come with the project.
    """
    from modalities import registry

    return registry.list_models(pattern, pretrained)


def create(name: str, **changes: Any) -> "Model":
    """A registered model with random weights: `zoo.create("vision/mae-base", in_chans=1)`.

    `changes` replace fields of the model's config. Raises ZooError for an unknown name or field, with the nearest one.
    """
    from modalities.common import pretrained

    return pretrained.create(name, **changes)


def from_pretrained(name: str | Path, revision: str | None = None) -> "Model":
    """A model with its weights and its preprocessing, in evaluation mode.

    `name` is a folder (of this project, or a ViT-MAE in the layout of transformers, timm or the official code, as
    safetensors; a run folder stands for its export), the registered name of bundled weights
    ("vision/mae-tiny-digits") or the id of a model on the Hub ("org/name"), with its branch, tag or commit as `revision` or as
    "org/name@revision". Raises ZooError that says what is wrong with the name, the files or the connection.
    """
    from modalities.common import pretrained

    return pretrained.load(name, revision)


def pretrain(recipe: str, to: str | Path, changes: dict[str, Any] | None = None, resume: bool = False) -> Path:
    """Pre-train by a named recipe into the run folder `to`; returns the folder of the exported model.

    `changes` replace fields by their dotted names: `{"data.path": "photos", "train.steps": 1000}`. `resume` goes
    on with the run in `to`. The command line does the same: `zoo pretrain RECIPE --to FOLDER --data.path photos`.
    """
    from modalities import registry
    from modalities.common.run import run
    from trainer.config import replace
    from trainer.recipe import settle
    from zoo.cards import write_card

    base = registry.find_recipe(recipe)
    return run(settle(replace(base, changes or {}), base), to, resume, write_card)
