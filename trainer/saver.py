"""When checkpoints are written, in the foreground or beside training, and which are kept."""

import logging
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainer.checkpoint import Like, Snapshot, save_checkpoint
from trainer.plan import step_at
from trainer.state import encode

if TYPE_CHECKING:
    from trainer.trainer import Trainer


log = logging.getLogger("zoo")


class Saver:
    """Writes the trainer's state. With train.save_async, training goes on while a copy of it is being written."""

    def __init__(self, trainer: "Trainer") -> None:
        self.trainer = trainer
        config = trainer.config
        self.every = config.save_every or max(1, trainer.steps // 10)
        self.milestones = {step_at(trainer.plan, done) for done in config.schedule.milestones(trainer.plan.progress(trainer.steps)[1])}
        self._writer: threading.Thread | None = None
        self._error: Exception | None = None

    def due(self) -> bool:
        """Whether this step's state is to be written."""
        step = self.trainer.step
        return step % self.every == 0 or step in self.milestones or step == self.trainer.best_step

    def save(self, wait: bool = False) -> None:
        """Write a complete checkpoint; all ranks must call this. `wait` for it even with train.save_async.

        Raises what went wrong with the one before, unless this is the last (`wait`): that one is tried in any case.
        """
        trainer, config = self.trainer, self.trainer.config
        self.close()
        error, self._error = self._error, None
        if error is not None and not wait:
            raise error
        if error is not None:
            log.warning("The checkpoint before this one was not written: %s", error)
        own = trainer.processes.collect(trainer.own_state())
        shards = trainer.processes if trainer.spread.sharded else None
        if shards is None and not trainer.processes.main:
            trainer.processes.wait()
            return
        snapshot = Snapshot(trainer.step, trainer.state_dict(), own, sharded=shards is not None, copy=config.save_async and not wait)
        folder, also = trainer.folder / "checkpoints", {*self.milestones, trainer.best_step}
        if config.save_async and not wait:
            self._writer = threading.Thread(target=self._write, args=(folder, snapshot, config.keep_last, also), name="checkpoint")
            self._writer.start()
        else:
            save_checkpoint(folder, snapshot, config.keep_last, also, shards)
        if shards is None:
            trainer.processes.wait()

    def close(self) -> None:
        """Wait for a checkpoint that is being written. Whether it succeeded is told by the next save."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def _write(self, folder: Path, snapshot: Snapshot, keep: int, also: set[int | None]) -> None:
        try:
            save_checkpoint(folder, snapshot, keep, also)
        except Exception as error:  # whatever it is, the main thread must hear of it
            self._error = error

    def like(self) -> Like:
        """For sharded training: what a stored tensor is to be read into, by its name in the state and its shape."""
        trainer = self.trainer
        template: dict[str, Tensor] = {}
        state = trainer.state_dict()
        encode({name: state[name] for name in ("objective", "callbacks")}, "", template)

        def like(name: str, shape: torch.Size) -> Tensor | None:
            if name in template:
                return torch.empty_like(template[name])
            moment = re.fullmatch(r"optimizer\.state\.(\d+)\..*", name)
            parameter = trainer.parameters[int(moment[1])] if moment else None
            return torch.empty_like(parameter, requires_grad=False) if parameter is not None and parameter.shape == shape else None

        return like
