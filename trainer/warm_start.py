"""Beginning a new run from the state of another one: its weights and, if wanted, the optimizer's moments.

Not resuming: steps, schedule, data order and random numbers begin anew, and the recipe may differ.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from trainer.checkpoint import MANIFEST, Stored, newest, verify
from trainer.errors import ConfigError
from trainer.optim import load_optimizer

if TYPE_CHECKING:
    from trainer.trainer import Trainer


def find_checkpoint(path: Path) -> Path | None:
    """The checkpoint that a path stands for: itself, or the newest one of a run folder; None when it is neither."""
    if (path / MANIFEST).exists():
        verify(path)
        return path
    return newest(path / "checkpoints") if (path / "checkpoints").is_dir() else None


def objective_state(checkpoint: Path) -> dict[str, Tensor]:
    """The tensors of the objective in a checkpoint."""
    return Stored(checkpoint).part("objective")


def take_moments(trainer: "Trainer", checkpoint: Path) -> None:
    """Give the trainer's optimizer the moments of a checkpoint; learning rates and decay stay the new recipe's.

    Raises ConfigError when the checkpoint's optimizer had other parameters.
    """
    stored: dict[str, Any] = Stored(checkpoint).part("optimizer", trainer.saver.like() if trainer.spread.sharded else None)
    now = trainer.optimizer.state_dict()
    names = [[group["names"] for group in state["param_groups"]] for state in (stored, now)]
    if names[0] != names[1]:
        raise ConfigError(
            f"The optimizer in {checkpoint} had other parameters or groups than this recipe's, so its moments do not fit. "
            "Set init_optimizer to false, or use the same optimizer, decay and layer_decay."
        )
    load_optimizer(trainer.optimizer, {"state": stored["state"], "param_groups": now["param_groups"]})
