"""The training loop."""

import logging
import random
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from trainer.callback import Callback, overriding
from trainer.checkpoint import Like, Stored, checkpoint_path, clean, list_checkpoints, newest, verify
from trainer.data import Share, Source, Stream, to_device, worker_count
from trainer.devices import AUTOCAST, allow_tf32, hardware, peak_flops, peak_memory, usable_precision
from trainer.ema import EMA
from trainer.errors import CheckpointError, ConfigError, DataError, TrainingError
from trainer.files import explain
from trainer.flops import flops_per_sample
from trainer.guard import Guard
from trainer.lock import locked
from trainer.metrics import Metrics, StepLosses
from trainer.objective import Batch, Objective
from trainer.optim import build_optimizer, load_optimizer, parameter_groups
from trainer.parallel import Processes, Spread, compile_module, full, local, recompute
from trainer.plan import Even, Plan
from trainer.randomness import key
from trainer.recipe import TrainConfig
from trainer.saver import Saver
from trainer.signals import StopSignal
from trainer.versions import versions
from trainer.waiting import Waiting

log = logging.getLogger("zoo")


class Trainer:
    """Trains an objective on a source and keeps its state in a run folder.

    `fit(resume=True)` goes on from the newest complete checkpoint and then gives, on the CPU, the same
    losses and weights to the last bit as a run that was never stopped.
    """

    def __init__(
        self, objective: Objective, source: Source, config: TrainConfig, folder: Path, callbacks: list[Callback] | None = None,
        processes: Processes | None = None, plan: Plan | None = None,
    ) -> None:  # fmt: skip
        """`plan`: what the steps take, where that is not the same for all; train.multigrid needs one."""
        if plan is None and config.multigrid.cycles != "none":
            raise ConfigError(f"train.multigrid.cycles={config.multigrid.cycles!r} needs a plan of the sizes, and the trainer was given none.")
        self.objective, self.source, self.config, self.folder = objective, source, config, Path(folder)
        self.callbacks = [EMA(config.ema, config.ema_warmup)] if config.ema is not None else []
        self.callbacks += callbacks or []
        self.plan = plan or Even(config.batch_size, config.total_steps(len(source)))
        self.steps = self.plan.steps
        self.stream = Stream(source, config.batch_size, config.seed, self.steps, self.plan)
        self.step = 0
        """Optimizer steps done."""
        self.seconds = 0.0
        """Training time so far, resumed parts included."""
        self.last: dict[str, float] = {}
        """The metrics last read."""
        self.best_step: int | None = None
        """A checkpoint of this step is kept besides the newest ones (set by evaluation)."""
        self.average: nn.Module | None = None
        """A module like the objective whose weights are evaluated and exported instead (set by EMA)."""
        self.restarts = 0
        """How often the run was resumed."""
        self.processes = processes or Processes()
        self.accelerator, self.device = self.processes.accelerator, self.processes.device
        self.share = Share(self.processes.rank, self.processes.world, config.accumulate)
        pieces = self.share.world * self.share.accumulate
        if config.batch_size < pieces:
            raise ConfigError(
                f"train.batch_size={config.batch_size} cannot be shared by {self.share.world} processes x train.accumulate={self.share.accumulate}: "
                f"give at least {pieces} samples per step."
            )
        self.precision = usable_precision(config.precision, self.device)
        allow_tf32(config.tf32)
        self.spread = Spread(self.processes, config.parallel, self.precision)
        self.autocast = torch.autocast(self.device.type, AUTOCAST[self.precision]) if self.precision in AUTOCAST else nullcontext()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.step_losses = StepLosses(self.processes, config.batch_size, config.accumulate)
        self.metrics = Metrics()
        self.guard = Guard(config.guard, self.device, fp16=self.precision == "fp16")
        self.saver = Saver(self)
        self.stop = StopSignal(self.processes)
        self._pending: dict[str, float] = {}
        self._finished = ""
        self._data: Generator[Batch, None, None] | None = None
        self._build()

    def fit(self, resume: bool = False) -> None:
        """Train to the end, or raise Interrupted after a checkpoint when the user or the system asks to stop.

        Raises ConfigError when another process trains in the same folder.
        """
        with locked(self.folder) if self.processes.main else nullcontext():
            set_seed(self._own_seed(0))
            checkpoint = self.processes.on_main(lambda: self._find_checkpoint(resume))
            if checkpoint is not None:
                self.load(checkpoint)
            log.info("%s", self._sizes())
            try:
                with self.stop.watching():
                    self._call("start")
                    self._loop()
                    self._call("end_of_phase")
            except OSError as error:
                raise explain(error, self.folder) from error
            except torch.OutOfMemoryError as error:
                raise TrainingError(
                    f"{hardware(self.device)} ran out of memory at step {self.step} with train.batch_size={self.config.batch_size}. Raise "
                    "train.accumulate (the same batch in more parts), set train.recompute, lower train.batch_size or choose a smaller model."
                ) from error
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise again for each worker that ends now
                raise DataError(
                    f"A process that reads the training data died: {error} Most often the memory is full: lower train.workers (0: no such processes)."
                ) from error
            finally:
                self._close()

    def _find_checkpoint(self, resume: bool) -> Path | None:
        """The checkpoint to go on from. Without `resume` there must be none: a later resume could not tell them from this run's."""
        folder = self.folder / "checkpoints"
        clean(folder)
        if resume:
            return newest(folder)
        if list_checkpoints(folder):
            raise ConfigError(f"{folder} holds checkpoints of an earlier run. Resume it, or choose another folder.")
        return None

    def _loop(self) -> None:
        """Each pass is one optimizer step of `accumulate` micro-batches. Nothing here waits for the device but `_log`, `save` and stopping."""
        config, step_losses = self.config, self.step_losses
        on_batch, on_losses = overriding(self.callbacks, "batch"), overriding(self.callbacks, "losses")
        on_backward, on_step = overriding(self.callbacks, "after_backward"), overriding(self.callbacks, "after_step")
        stream = self._data = self.stream.batches(self.step, config.workers, self.share, self.device)
        self.waiting = Waiting(worker_count(self.source, config.workers))
        self._interval_began = time.perf_counter()
        self.model.train()
        while self.step < self.steps:
            self.objective.before_step(self.step, self.steps)
            lr = self._set_lr()
            step_losses.begin(self.plan.batch_size(self.step) * getattr(self.source, "rows", 1))
            self.guard.begin()
            for part in range(config.accumulate):
                batch = self._next(stream)
                samples = len(batch["sample_key"])
                for hook in on_batch:
                    batch = hook(self, batch)
                with self.spread.micro_batch(self.model, last=part == config.accumulate - 1):
                    with self.autocast:
                        losses = self.model(batch)
                    for hook in on_losses:
                        losses = hook(self, batch, losses)
                    self.scaler.scale(step_losses.add(losses, samples)).backward()
            names, values, factor = step_losses.finish()
            self._true_gradients(factor)
            for hook in on_backward:
                hook(self)
            norm = self._clip()
            ok = self.guard.judge(values[0], norm)
            self._update(ok)
            self.metrics.add((*names, "grad_norm"), torch.cat([values, norm[None]]), ok)
            self.step += 1
            self.objective.after_step(self.step)
            for hook in on_step:
                hook(self)

            last = self.step == self.steps or bool(self._finished)
            stopping = self.stop.asked(self.step)
            if last or self.step % config.log_every == 0 or self._pending:
                self._log(lr)
            if last or stopping or self.saver.due():
                self.saver.save(wait=last or stopping)
            if last:
                self.steps = self.step
            elif stopping:
                raise self.stop.interrupted(f"Stopped at step {self.step:,} of {self.steps:,}; the state is saved in {self.folder}.")

    def record(self, values: dict[str, float]) -> None:
        """Add numbers on the host (an evaluation's) to this step's line of metrics."""
        self._pending.update(values)

    def finish_early(self, reason: str) -> None:
        """End the run normally after this step."""
        self._finished = reason
        log.info("Ending at step %s of %s: %s", f"{self.step:,}", f"{self.steps:,}", reason)

    def load_best(self) -> None:
        """Put the objective, and what callbacks keep (an average, say), back to the checkpoint of `best_step`; all ranks must call this.

        CheckpointError when it cannot be read.
        """
        path = checkpoint_path(self.folder / "checkpoints", self.best_step)
        self.processes.on_main(lambda: verify(path))
        self._load_weights(Stored(path), self.saver.like() if self.spread.sharded else None)

    def plain(self, module: nn.Module | None = None) -> nn.Module | None:
        """The objective to evaluate and export (with averaged weights where there are), whole and unwrapped.

        All ranks must call this; where the objective is sharded, only the main rank gets it (a copy on the CPU), others None.
        """
        return self.spread.plain(module or self.average or self.objective)

    def _next(self, stream: Iterator[Batch]) -> Batch:
        """The next micro-batch, on the device; the time spent waiting for it is counted."""
        return to_device(self.waiting.next(stream), self.device, self.config.channels_last)

    def _set_lr(self) -> float:
        """The learning rate of this step, given to all groups; their weight decay, too, where it has a schedule."""
        config = self.config
        done, length = self.plan.progress(self.step)
        lr = config.schedule.lr(done, length, config.optim.peak_lr(config.batch_size), config.batch_size) * self.plan.lr(self.step)
        for hook in overriding(self.callbacks, "lr"):
            lr = hook(self, lr)
        decay = config.optim.decay_factor(self.step, self.steps * (config.schedule.horizon or 1.0))
        for group in self.optimizer.param_groups:
            frozen = self.step < group.get("frozen", 0.0) * self.steps
            group["lr"] = 0.0 if frozen else lr * group["lr_scale"]
            if decay is not None:
                group["weight_decay"] = decay * group["first_decay"]
        return lr

    def _true_gradients(self, factor: Tensor | None) -> None:
        """Take the loss scale (fp16) out of the gradients, and multiply them by `factor`."""
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        if factor is not None:
            torch._foreach_mul_([local(p.grad) for p in self.parameters if p.grad is not None], factor)

    def _clip(self) -> Tensor:
        """The norm of all gradients, before they are clipped to train.optim.clip_norm."""
        moved = [p for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in moved])
        if self.config.optim.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(moved, self.config.optim.clip_norm, norm)
        return full(norm)

    def _update(self, ok: Tensor) -> None:
        """Move the weights, unless the step is not `ok`."""
        self.guard.skip(ok, self.optimizer, self.spread)
        self.optimizer.step()
        if self.scaler.is_enabled():
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _log(self, lr: float) -> None:
        """Read the metrics from the device and hand them to the callbacks."""
        steps, values = self.metrics.steps, self.metrics.read()
        values.update(self.guard.read(self.step - 1, lr, self._samples_of))
        if hasattr(self.source, "skipped"):
            values["unreadable"] = self.source.skipped
        now = time.perf_counter()
        took = max(now - self._interval_began, 1e-9)
        self.seconds += took
        rate = (self.plan.start(self.step) - self.plan.start(self.step - steps)) / took
        values.update(lr=lr, samples_per_second=rate, data_wait=self.waiting.share(took), memory_gb=peak_memory(self.device))
        if self.flops is not None:
            values["tflops"] = self.flops * rate / 1e12
            if self.peak is not None:
                values["mfu"] = self.flops * rate / (self.peak * self.processes.world)
        self._interval_began = now
        values.update(self.stream.counts(self.step))
        values.update(self._pending)
        self._pending = {}
        self.last = values
        self._call("log", values)

    def _samples_of(self, step: int) -> str:
        """The samples of a step, for a diagnosis."""
        some = self.stream.samples(step)
        more = self.plan.batch_size(step) - len(some)
        return f"samples {', '.join(name for _, name in some)}{f' and {more} more' if more else ''} of the source, epoch {some[0][0]}"

    def state_dict(self) -> dict[str, Any]:
        """What all processes share of the state. The place in the data is the step itself (see trainer.data)."""
        return {
            "progress": {
                "step": self.step, "seconds": self.seconds, "last": self.last, "best_step": self.best_step, "restarts": self.restarts,
                "finished": self._finished,
            },
            "metrics": self.metrics.state_dict(),
            "data": self.stream.bookmark(self.step),
            "guard": self.guard.state_dict(),
            "scaler": self.scaler.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "callbacks": {name: c.state_dict() for name, c in self._named_callbacks().items()},
        }  # fmt: skip

    def own_state(self) -> dict[str, Any]:
        """What this process has for itself: its random number generators."""
        device = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        return {"torch": torch.get_rng_state(), "device": device, "numpy": np.random.get_state(), "python": random.getstate()}

    def load(self, path: Path) -> None:
        """Restore the state of a checkpoint, whatever the number of processes that wrote it."""
        stored = Stored(path)
        like = self.saver.like() if self.spread.sharded else None
        step = stored.part("progress")["step"]
        self.stream.check(stored.part("data"), step, str(path))
        self._load_weights(stored, like)
        try:
            load_optimizer(self.optimizer, stored.part("optimizer", like))
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"The checkpoint {path} belongs to another optimizer: {error}") from error
        self.metrics.load_state_dict(stored.part("metrics"), self.device)
        self.guard.load_state_dict(stored.part("guard"))
        scale = stored.part("scaler")
        if self.scaler.is_enabled() and scale:  # none was written where fp16 could not be had
            self.scaler.load_state_dict(scale)
        progress = stored.part("progress")
        self.step, self.seconds, self.last = progress["step"], progress["seconds"], progress["last"]
        self.best_step, self.restarts = progress["best_step"], progress["restarts"] + 1
        if progress["finished"]:
            self.steps = self.step
        now = versions()
        changed = [f"{name} {old} -> {now.get(name)}" for name, old in stored.manifest["versions"].items() if old != now.get(name)]
        if changed:
            log.warning("Other versions than those that wrote the checkpoint (%s): results may differ in rounding from here on.", ", ".join(changed))
        if stored.world == self.processes.world:
            self._load_own(stored.own(self.processes.rank))
        else:
            set_seed(self._own_seed(self.step))
            log.info(
                "The checkpoint was written by %d process(es), %d go on. Exact as before: the order of the data, augmentation, masks. Not exact: "
                "dropout and other random numbers drawn inside the model, and rounding.", stored.world, self.processes.world,
            )  # fmt: skip

    def _load_weights(self, stored: Stored, like: Like | None) -> None:
        """The objective and what callbacks keep."""
        try:
            self.objective.load_state_dict(stored.part("objective", like))
        except (RuntimeError, KeyError) as error:
            raise CheckpointError(f"The checkpoint {stored.path} belongs to another model: {error}") from error
        written = stored.part("callbacks", like)
        for name, callback in self._named_callbacks().items():
            try:
                callback.load_state_dict(written.get(name, {}))
            except (RuntimeError, KeyError) as error:
                raise CheckpointError(f"The checkpoint {stored.path} holds no fitting state of the callback {name}: {error}") from error

    def _load_own(self, generators: dict[str, Any]) -> None:
        torch.set_rng_state(generators["torch"])
        if self.device.type == "cuda" and generators["device"] is not None:
            torch.cuda.set_rng_state(generators["device"], self.device)
        np.random.set_state(generators["numpy"])
        random.setstate(generators["python"])

    def _own_seed(self, step: int) -> int:
        """Seed of this process's generators: the recipe's on the main rank, others elsewhere, so that dropout differs."""
        rank = self.processes.rank
        return self.config.seed if rank == step == 0 else key(self.config.seed, rank, step) & 0x7FFFFFFF

    def _named_callbacks(self) -> dict[str, Callback]:
        """Callbacks by class name and, where there are several of one class, their order."""
        names = [type(c).__name__ for c in self.callbacks]
        return {f"{name}.{names[:i].count(name)}": c for i, (name, c) in enumerate(zip(names, self.callbacks))}

    def _build(self) -> None:
        """Model and optimizer as the callbacks want them. A wrong config is refused here, before anything is written."""
        config = self.config
        self._call("prepare_model")
        self.flops = None if self.plan.entry else flops_per_sample(self.objective, self.source, config.seed)  # else they differ from step to step
        self.peak = peak_flops(self.device, self.precision)
        if config.channels_last:
            self.objective.to(memory_format=torch.channels_last)
        if config.recompute:
            recompute(self.objective)
        if config.compile == "blocks":
            compile_module(self.objective, "blocks")
        self.spread.place(self.objective)
        self.guard.watch(self.objective)
        if config.compile == "whole":
            compile_module(self.objective, "whole")
        decay, layer_decay = config.optim.weight_decay, config.optim.layer_decay
        groups = self.objective.parameter_groups(decay, layer_decay)
        if groups is None:
            groups = parameter_groups(self.objective, decay, layer_decay)
        for hook in overriding(self.callbacks, "parameter_groups"):
            groups = hook(self, groups)
        if config.optim.weight_decay_end is not None:
            groups = [{**group, "first_decay": group["weight_decay"]} for group in groups]
        optimizer = build_optimizer(groups, config.optim, config.optim.peak_lr(config.batch_size))
        for hook in overriding(self.callbacks, "make_optimizer"):
            optimizer = hook(self, optimizer)
        self.optimizer = optimizer
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.model = self.spread.wrap(self.objective)

    def _sizes(self) -> str:
        """One sentence of derived sizes."""
        config, samples, size = self.config, len(self.source), self.config.batch_size
        trainable = sum(p.numel() for p in self.objective.parameters() if p.requires_grad)
        rule = {"linear": f"{size}/256", "sqrt": f"sqrt({size}/256)"}[config.optim.scaling]
        scaled = f" ({config.optim.base_lr:g} x {rule})" if config.optim.lr is None else ""
        start = f"going on from step {self.step:,} of" if self.step else "training"
        pieces = self.share.world * self.share.accumulate
        cut = f" ({self.share.world} processes x {self.share.accumulate} micro-batches)" if pieces > 1 else ""
        more = " and more, by train.multigrid," if self.plan.entry else ""
        peak = config.optim.peak_lr(size)
        return (
            f"{start} {self.steps:,} steps of {size:,} samples{more}{cut} = {self.plan.start(self.plan.steps) / samples:.1f} passes over {samples:,} samples; "
            f"{trainable / 1e6:.2f} M trainable parameters; peak lr {peak:.3g}{scaled}, schedule {config.schedule.name}; "
            f"{self.precision} on {hardware(self.device, self.processes.world)}; in {self.folder}"
        )

    def _call(self, hook: str, *values: Any) -> None:
        for method in overriding(self.callbacks, hook):
            method(self, *values)

    def _close(self) -> None:
        if self._data is not None:
            self._data.close()
        self.saver.close()
        for method in overriding(self.callbacks, "close"):
            try:
                method(self)
            except OSError as error:  # on a full disk the first error has been raised already
                log.warning("While closing: %s", error)
