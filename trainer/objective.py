"""What the trainer knows of that which it trains: an objective maps a batch to losses."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import register_dataclass

Batch = dict[str, Tensor]
"""Named tensors, first axis = samples. The keys of a modality are documented in its `data.py`."""


@dataclass
class Losses:
    """What an objective returns for a batch."""

    loss: Tensor
    """Scalar to minimise, with gradient."""
    parts: dict[str, Tensor] = field(default_factory=dict)
    """Scalars to log, detached, left on the device (reading them here would stall the GPU). Means over the same things as the loss."""
    count: Tensor | int | float | None = None
    """What `loss` is a mean over, when that is not the samples: the number of masked tokens in the batch, of observed
    values, ... With it, micro-batches and processes are weighted so that the gradient is that of the whole batch.
    Always give it or never; with a count of 0 the loss must be finite (0, say)."""


register_dataclass(Losses)  # so that FSDP2 finds the tensors in it and knows when the backward pass begins


class Objective(nn.Module):
    """An `nn.Module` that owns the model(s) being trained and whose `forward(batch)` returns `Losses`."""

    def forward(self, batch: Batch) -> Losses:
        raise NotImplementedError(f"{type(self).__name__} must define forward(batch) -> Losses")

    def parameter_groups(self, weight_decay: float, layer_decay: float | None) -> list[dict[str, Any]] | None:
        """Own optimizer groups (see `trainer.optim.parameter_groups`), or None for the trainer's rule."""
        return None

    def before_step(self, step: int, steps: int) -> None:
        """Called before each optimizer step with the number of steps done and that of the whole run, for the objective's own
        schedules. What follows from them must be a function of the two alone: then a resumed run needs nothing more."""

    def after_step(self, step: int) -> None:
        """Called after each optimizer step, for teachers and other slow copies."""

    def after_warm_start(self) -> None:
        """Called when `export()` was given the weights of another run: its copies (a student, a teacher) begin with them, too."""

    def export(self) -> nn.Module:
        """The model to publish."""
        raise NotImplementedError(f"{type(self).__name__} must define export() -> the model to publish")
