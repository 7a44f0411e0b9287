"""modality-zoo: modality-specific foundation models with one shared trainer.

Importing this loads neither torch nor any modality; each function imports what it needs when it is called.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import ZooError

if TYPE_CHECKING:
    import torch

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


def from_pretrained(
    name: str | Path,
    revision: str | None = None,
    *,
    task: str | None = None,
    num_outputs: int | None = None,
    size: str | None = None,
    input_size: "int | tuple[int, ...] | None" = None,
    in_chans: int | None = None,
    dtype: "torch.dtype | str | None" = None,
    device: "torch.device | str | None" = None,
    allow_nonfinite: bool = False,
    **changes: Any,
) -> "Model":
    """A model with its weights and its preprocessing, in evaluation mode.

    `name` is the registered name of bundled weights ("vision/mae-tiny-digits"); a folder of this project (a run folder stands for
    its export); the id of a model on the Hub ("org/name" or "org/name@revision"); a folder or safetensors file with a ViT-MAE in the layout of transformers, timm or the official code. `print(model.load_report)`
    says where every tensor came from, `model.load_report.table()` says it one by one.

    Nothing is loaded in part: file and model must agree in every tensor, but for what is asked for here.

    Args:
        name: What to load.
        revision: Branch, tag or commit of a model of the Hub.
        task: What the model shall do, as in "classification". Default: what it was stored for.
        num_outputs: Outputs of a new head for the task. Default: the head of the checkpoint.
        size: A part of an elastic model (POA) as a plain vision transformer: "small", "base", "large" or width_depth as in "384_12".
        input_size: Another size of the input; position tables are interpolated.
        in_chans: Another number of channels; the patch embedding is adapted (and a decoder's last layer new).
        dtype: torch.bfloat16, "float16", ...; "auto": as stored. Default: as stored, but half precision becomes single.
        device: Where the weights go. Default: the CPU.
        allow_nonfinite: Load weights that hold NaN or infinity, to look at them.
        **changes: Other fields of the model's config, as in drop_path=0.1.

    Raises ZooError that says what is wrong with the name, the files or the options.
    """
    from modalities.common import pretrained

    return pretrained.load(
        name, revision, task=task, num_outputs=num_outputs, size=size, input_size=input_size, in_chans=in_chans,
        dtype=dtype, device=device, allow_nonfinite=allow_nonfinite, **changes,
    )  # fmt: skip


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
