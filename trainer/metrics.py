"""Numbers of training that stay on the device: the losses of one step, and their sums between two log lines.

Reading a number from a GPU waits until it has caught up. So everything here is tensors, read once per log line.
"""

from typing import Any

import torch
from torch import Tensor

from trainer.errors import TrainingError
from trainer.objective import Losses
from trainer.parallel import Processes


class StepLosses:
    """The micro-batches of one step, on all ranks, as if they were one batch.

    The gradient of a mean over all samples is the mean of the micro-batches' gradients weighted by their samples; when
    the objective says what it counts (`Losses.count`), weighted by that. A count is known on the device only, so the
    micro-batches are weighted by their count and the gradient is divided by the total when all are done.
    """

    def __init__(self, processes: Processes, batch_size: int, accumulate: int) -> None:
        self.processes, self.batch_size = processes, batch_size
        self.alone = processes.world == 1 and accumulate == 1
        self.pieces = processes.world * accumulate
        self._clear()

    def begin(self, batch_size: int) -> None:
        """A step of so many samples, over all ranks, comes next."""
        self.batch_size = batch_size

    def _clear(self) -> None:
        self.names: tuple[str, ...] = ()
        self.values: Tensor | None = None
        self.total: Tensor | None = None

    def add(self, losses: Losses, samples: int) -> Tensor:
        """Take in the losses of a micro-batch of `samples` samples; returns the scalar to call backward on."""
        names = ("loss", *losses.parts)
        values = torch.stack([v.detach().float() for v in (losses.loss, *losses.parts.values())])
        if self.alone:
            self.names, self.values = names, values
            return losses.loss
        if self.values is not None and (names != self.names or (losses.count is None) != (self.total is None)):
            raise TrainingError(
                "The micro-batches of one step must return the same parts, and all a count or none; "
                f"found {', '.join(self.names)} and then {', '.join(names)}."
            )
        if losses.count is None:
            # gradients are averaged over the ranks, so a rank's share of the samples is scaled up by their number
            share = samples / self.batch_size
            scaled, values = losses.loss * (share * self.processes.world), values * share
        else:
            count = torch.as_tensor(losses.count, device=values.device).detach().float()
            scaled, values = losses.loss * (count * (self.pieces / self.batch_size)), values * count
            self.total = count if self.total is None else self.total + count
        self.names, self.values = names, values if self.values is None else self.values + values
        return scaled

    def finish(self) -> tuple[tuple[str, ...], Tensor, Tensor | None]:
        """Names and values of the whole step over all ranks, and what the gradients must be multiplied by (None: nothing)."""
        names, values, total = self.names, self.values, self.total
        self._clear()
        if self.alone:
            return names, values, None
        if total is None:
            return names, self.processes.add(values), None
        values = self.processes.add(torch.cat([values, total[None]]))
        values, total = values[:-1], values[-1]
        total = torch.where(total > 0, total, torch.ones_like(total))  # a batch that counts nothing has loss and gradient 0
        return names, values / total, self.processes.world * self.batch_size / (self.pieces * total)


class Metrics:
    """Sums of step values on the device. Steps that were not taken (`ok` false) do not count."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, ...], Tensor] = {}
        """By the names of the values: (values..., 1) summed over the steps that had these names."""
        self.steps = 0

    def add(self, names: tuple[str, ...], values: Tensor, ok: Tensor) -> None:
        """Add one step: values (K,) under their names, and whether the step was taken."""
        row = torch.cat([values, torch.ones_like(values[:1])])
        row = torch.where(ok, row, torch.zeros_like(row))
        self.sums[names] = self.sums[names] + row if names in self.sums else row
        self.steps += 1

    def read(self) -> dict[str, float]:
        """Means since the last read, on the host (NaN when no step was taken); the sums start again."""
        totals: dict[str, tuple[float, float]] = {}
        for names, sums in self.sums.items():
            *values, count = sums.tolist()
            for name, value in zip(names, values):
                before = totals.get(name, (0.0, 0.0))
                totals[name] = before[0] + value, before[1] + count
        self.sums, self.steps = {}, 0
        return {name: value / count if count else float("nan") for name, (value, count) in totals.items()}

    def state_dict(self) -> dict[str, Any]:
        """For an exact resume between two log lines."""
        return {"sums": [[list(names), sums] for names, sums in self.sums.items()], "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Restore what `state_dict` gave."""
        self.sums = {tuple(names): sums.to(device) for names, sums in state["sums"]}
        self.steps = state["steps"]
