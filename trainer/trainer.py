"""The training loop."""

import logging
import platform
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor

from trainer.callback import Callback, overriding
from trainer.checkpoint import load_newest, save_checkpoint
from trainer.data import Source, batches, to_device
from trainer.errors import CheckpointError, Interrupted, TrainingError
from trainer.files import explain
from trainer.objective import Objective
from trainer.optim import build_optimizer, parameter_groups
from trainer.recipe import TrainConfig

log = logging.getLogger("zoo")


class Trainer:
    """Trains an objective on a source and keeps its state in a run folder.

    `fit(resume=True)` goes on from the newest complete checkpoint and then gives, on the CPU, the same
    losses and weights to the last bit as a run that was never stopped.
    """

    def __init__(
        self, objective: Objective, source: Source, config: TrainConfig, folder: Path, callbacks: list[Callback] | None = None
    ) -> None:
        self.objective, self.source, self.config, self.folder = objective, source, config, Path(folder)
        self.callbacks = list(callbacks or [])
        self.steps = config.total_steps(len(source))
        self.step = 0
        self.seconds = 0.0
        """Training time so far, resumed parts included."""
        self.last: dict[str, float] = {}
        """The metrics last read."""
        AcceleratorState._reset_state()  # it is global: an earlier run in this process may have had another precision
        self.accelerator = Accelerator(mixed_precision={"fp32": "no", "bf16": "bf16"}[config.precision])
        self.metrics = Metrics()
        self._stop = False
        self._build()

    def fit(self, resume: bool = False) -> None:
        """Train to the end, or raise Interrupted after a checkpoint when the user or the system asks to stop."""
        set_seed(self.config.seed)
        checkpoint = load_newest(self.folder / "checkpoints") if resume else None
        if checkpoint is not None:
            self.load_state_dict(checkpoint[1])
        log.info("%s", self._sizes())
        try:
            with self._signals():
                self._call("start")
                self._loop()
                self._call("end_of_phase")
        except OSError as error:
            raise explain(error, self.folder) from error
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                f"{hardware(self.accelerator.device)} ran out of memory at step {self.step} with train.batch_size={self.config.batch_size}. "
                "Lower train.batch_size or choose a smaller model."
            ) from error
        finally:
            self._close()

    def _loop(self) -> None:
        config, accelerator, device = self.config, self.accelerator, self.accelerator.device
        on_lr, on_batch = overriding(self.callbacks, "lr"), overriding(self.callbacks, "batch")
        on_losses, on_backward = overriding(self.callbacks, "losses"), overriding(self.callbacks, "after_backward")
        on_step = overriding(self.callbacks, "after_step")
        stream = batches(
            self.source, config.batch_size, config.seed, self.step, self.steps, config.workers,
            accelerator.process_index, accelerator.num_processes,
        )  # fmt: skip
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        peak = config.optim.peak_lr(config.batch_size)
        save_every = config.save_every or max(1, self.steps // 10)
        metrics, started = self.metrics, time.perf_counter()
        self.model.train()
        for batch in stream:
            batch = to_device(batch, device)
            for hook in on_batch:
                batch = hook(self, batch)
            lr = peak * config.schedule.factor(self.step, self.steps)
            for hook in on_lr:
                lr = hook(self, lr)
            for group in self.optimizer.param_groups:
                group["lr"] = lr * group["lr_scale"]

            with accelerator.autocast():
                losses = self.model(batch)
            for hook in on_losses:
                losses = hook(self, batch, losses)
            accelerator.backward(losses.loss)
            for hook in on_backward:
                hook(self)
            metrics.add(losses.loss, losses.parts)
            if config.optim.clip_norm is not None:
                metrics.add_part("grad_norm", accelerator.clip_grad_norm_(parameters, config.optim.clip_norm))
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
            self.objective.after_step(self.step)
            for hook in on_step:
                hook(self)

            last = self.step == self.steps
            if last or self.step % config.log_every == 0:
                count, values, now = metrics.count, metrics.read(), time.perf_counter()
                self.seconds, rate, started = self.seconds + now - started, count * config.batch_size / (now - started), now
                self._log({**values, "lr": lr, "samples_per_second": rate})
            if last or self._stop or self.step % save_every == 0:
                self.save()
            if self._stop and not last:
                raise Interrupted(f"Stopped at step {self.step:,} of {self.steps:,}; the state is saved in {self.folder}.")

    def _log(self, values: dict[str, float]) -> None:
        self.last = values
        bad = [k for k, v in values.items() if not np.isfinite(v)]
        if bad:
            raise TrainingError(
                f"{', '.join(bad)} became NaN or infinite between steps {self.step - self.config.log_every} and {self.step} "
                f"(learning rate {values['lr']:.3g}). The last good checkpoint is kept. Lower train.optim.base_lr, set "
                "train.optim.clip_norm, or check the data for NaN and extreme values."
            )
        self._call("log", values)

    def save(self) -> None:
        """Write a complete checkpoint (main process only)."""
        if self.accelerator.is_main_process:
            save_checkpoint(self.folder / "checkpoints", self.step, self.state_dict(), self.config.keep_last)
        self.accelerator.wait_for_everyone()

    def state_dict(self) -> dict[str, Any]:
        """Everything an exact resume needs. The place in the data is the step itself (see trainer.data)."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {
            "step": self.step,
            "steps": self.steps,
            "seconds": self.seconds,
            "last": self.last,
            "metrics": {"sums": self.metrics.sums, "count": self.metrics.count},
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "callbacks": {name: c.state_dict() for name, c in self._named_callbacks().items()},
            "random": {"torch": torch.get_rng_state(), "cuda": cuda, "numpy": np.random.get_state(), "python": random.getstate()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        try:
            self.objective.load_state_dict(state["objective"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"The checkpoint in {self.folder} belongs to another model or optimizer: {error}") from error
        for name, callback in self._named_callbacks().items():
            callback.load_state_dict(state["callbacks"].get(name, {}))
        self.step, self.seconds, self.last = state["step"], state["seconds"], state["last"]
        self.metrics.sums = {k: v.to(self.accelerator.device) for k, v in state["metrics"]["sums"].items()}
        self.metrics.count = state["metrics"]["count"]
        generators = state["random"]
        torch.set_rng_state(generators["torch"])
        if torch.cuda.is_available() and len(generators["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(generators["cuda"])
        np.random.set_state(generators["numpy"])
        random.setstate(generators["python"])

    def _named_callbacks(self) -> dict[str, Callback]:
        """Callbacks by class name and, where there are several of one class, their order."""
        names = [type(c).__name__ for c in self.callbacks]
        return {f"{name}.{names[:i].count(name)}": c for i, (name, c) in enumerate(zip(names, self.callbacks))}

    def _build(self) -> None:
        """Model and optimizer as the callbacks want them. A wrong config is refused here, before anything is written."""
        config = self.config
        self._call("prepare_model")
        decay, layer_decay = config.optim.weight_decay, config.optim.layer_decay
        groups = self.objective.parameter_groups(decay, layer_decay)
        if groups is None:
            groups = parameter_groups(self.objective, decay, layer_decay)
        for hook in overriding(self.callbacks, "parameter_groups"):
            groups = hook(self, groups)
        optimizer = build_optimizer(groups, config.optim, config.optim.peak_lr(config.batch_size))
        for hook in overriding(self.callbacks, "make_optimizer"):
            optimizer = hook(self, optimizer)
        self.model, self.optimizer = self.accelerator.prepare(self.objective, optimizer)

    def _sizes(self) -> str:
        """One sentence of derived sizes."""
        config, samples = self.config, len(self.source)
        trainable = sum(p.numel() for p in self.objective.parameters() if p.requires_grad)
        scaled = f" ({config.optim.base_lr:g} x {config.batch_size}/256)" if config.optim.lr is None else ""
        start = f"going on from step {self.step:,} of" if self.step else "training"
        return (
            f"{start} {self.steps:,} steps of {config.batch_size:,} samples = {self.steps * config.batch_size / samples:.1f} passes over "
            f"{samples:,} samples; {trainable / 1e6:.2f} M trainable parameters; peak lr {config.optim.peak_lr(config.batch_size):.3g}{scaled}, "
            f"{round(config.schedule.warmup * self.steps)} warm-up steps; {config.precision} on {hardware(self.accelerator.device)}; in {self.folder}"
        )

    def _call(self, hook: str, *values: Any) -> None:
        for method in overriding(self.callbacks, hook):
            method(self, *values)

    def _close(self) -> None:
        for method in overriding(self.callbacks, "close"):
            try:
                method(self)
            except OSError as error:  # on a full disk the first error has been raised already
                log.warning("While closing: %s", error)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM asks for a checkpoint at the end of the step, the second stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: Any) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True
            log.info("Stopping after this step and saving (once more to stop at once without saving) ...")

        previous = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


class Metrics:
    """Sums kept on the device; reading them is the only wait for the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, loss: Tensor, parts: dict[str, Tensor]) -> None:
        """Add one step."""
        self.count += 1
        for name, value in {"loss": loss, **parts}.items():
            self.add_part(name, value)

    def add_part(self, name: str, value: Tensor) -> None:
        """Add to one named sum."""
        value = value.detach()
        self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()

    def read(self) -> dict[str, float]:
        """Means since the last read, on the host; the sums start again."""
        values = torch.stack([total.float() for total in self.sums.values()]).tolist() if self.sums else []
        means = {name: value / self.count for name, value in zip(self.sums, values)}
        self.sums, self.count = {}, 0
        return means


def hardware(device: torch.device) -> str:
    """The device in words, for logs and cards."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads ({platform.machine()})"
