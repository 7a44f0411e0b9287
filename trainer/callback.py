"""Hooks at named points of the training loop.

Progress, logs and pictures are callbacks, and so will be the training methods (growth, sparsity,
reweighting, adapters, ...). The loop calls only hooks that a callback really overrides, so an unused
point costs nothing.
"""

from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from trainer.objective import Batch, Losses

if TYPE_CHECKING:
    from trainer.trainer import Trainer


class Callback:
    """Base of all callbacks. Override what is needed; `trainer.step` counts finished optimizer steps."""

    def prepare_model(self, trainer: "Trainer") -> None:
        """Before the optimizer exists: wrap or replace modules of `trainer.objective`."""

    def parameter_groups(self, trainer: "Trainer", groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Change the optimizer's groups."""
        return groups

    def make_optimizer(self, trainer: "Trainer", optimizer: Optimizer) -> Optimizer:
        """Wrap or replace the optimizer."""
        return optimizer

    def start(self, trainer: "Trainer") -> None:
        """Everything is built and, on resume, restored; the first step comes next."""

    def lr(self, trainer: "Trainer", lr: float) -> float:
        """Change the scheduled learning rate of this step."""
        return lr

    def batch(self, trainer: "Trainer", batch: Batch) -> Batch:
        """Change the batch (on the device) before the forward pass."""
        return batch

    def losses(self, trainer: "Trainer", batch: Batch, losses: Losses) -> Losses:
        """Add terms to the losses before the backward pass."""
        return losses

    def after_backward(self, trainer: "Trainer") -> None:
        """Gradients are there, not yet clipped."""

    def after_step(self, trainer: "Trainer") -> None:
        """The optimizer has moved; `trainer.step` is already the new count."""

    def log(self, trainer: "Trainer", metrics: dict[str, float]) -> None:
        """Every `log_every` steps: numbers on the host, averaged since the last time."""

    def end_of_phase(self, trainer: "Trainer") -> None:
        """All steps are done (merge, prune or grow here)."""

    def export(self, trainer: "Trainer", model: nn.Module) -> nn.Module:
        """Bring the model to publish back to its plain architecture."""
        return model

    def close(self, trainer: "Trainer") -> None:
        """The run ends, well or badly: release files."""

    def state_dict(self) -> dict[str, Any]:
        """What an exact resume needs: tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""


def overriding(callbacks: list[Callback], hook: str) -> list[Any]:
    """The bound methods of those callbacks that override `hook`, in order."""
    return [getattr(c, hook) for c in callbacks if getattr(type(c), hook) is not getattr(Callback, hook)]
