"""What the trainer costs over a bare loop: `python -m tools.bench_overhead`.

The same model, data, optimizer and learning rates, once by `Trainer` and once by a loop written by hand with nothing in it but
forward, backward, clipping and the optimizer's step. Both run interleaved, a block of steps each in turn, so that a slow
moment of the machine hits both. Prints the median of the paired ratios (ours / bare) and the host syncs per step of our loop.
"""

import copy
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import tyro
from torch.utils._python_dispatch import TorchDispatchMode

import zoo
from modalities.common.reconstruction import MaskedReconstruction
from modalities.vision.objectives.mae import MAEObjectiveConfig
from trainer.callback import Callback
from trainer.data import Share, batches, to_device
from trainer.objective import Objective
from trainer.optim import OptimConfig, build_optimizer, parameter_groups
from trainer.recipe import TrainConfig
from trainer.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    model: str = "vision/mae-tiny-digits"
    """Registered masked auto-encoder."""
    batch_size: int = 128
    """Samples per step."""
    block: int = 20
    """Steps of one loop before it is the other's turn."""
    repeats: int = 21
    """Pairs of blocks, after one that does not count."""
    ema: float | None = None
    """Measure with an average of the weights (the bare loop has none)."""


class Pictures:
    """Random pictures in memory."""

    in_memory = True

    def __init__(self, model: torch.nn.Module) -> None:
        config = model.config
        self.images = torch.randn(2048, config.in_chans, *config.input_size, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"image": self.images[index]}

    def fetch(self, indices: list[int], keys: object = None) -> dict[str, torch.Tensor]:
        """A whole batch."""
        return {"image": self.images[indices]}


class Turns(Callback):
    """Gives the word to the bare loop after each block of the trainer's steps, and times both."""

    def __init__(self, bare: Iterator[None], block: int) -> None:
        self.bare, self.block = bare, block
        self.pairs: list[tuple[float, float]] = []

    def start(self, trainer: Trainer) -> None:
        self.began = time.perf_counter()

    def after_step(self, trainer: Trainer) -> None:
        if trainer.step % self.block:
            return
        ours, began = time.perf_counter() - self.began, time.perf_counter()
        for _ in range(self.block):
            next(self.bare)
        self.pairs.append((ours, time.perf_counter() - began))
        self.began = time.perf_counter()


class Syncs(TorchDispatchMode):
    """Counts operations that read a tensor's value on the host, which waits for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default or function is torch.ops.aten.equal.default
        return function(*arguments, **(options or {}))


def bare_loop(objective: Objective, source: Pictures, config: TrainConfig) -> Iterator[None]:
    """One step per `next`."""
    groups = parameter_groups(objective, config.optim.weight_decay)
    optimizer = build_optimizer(groups, config.optim, config.optim.lr)
    parameters = [p for p in objective.parameters() if p.requires_grad]
    objective.train()
    for step, batch in enumerate(batches(source, config.batch_size, config.seed, 0, config.steps, 0, Share())):
        batch = to_device(batch, next(objective.parameters()).device)
        lr = config.schedule.lr(step, config.steps, config.optim.lr, config.batch_size)
        for group in optimizer.param_groups:
            group["lr"] = lr
        objective(batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield


def main(options: Options) -> float:
    """Measure and print; returns the median ratio."""
    torch.manual_seed(0)
    objective = MaskedReconstruction(zoo.create(options.model), MAEObjectiveConfig())
    source = Pictures(objective.model)
    steps = options.block * (options.repeats + 1)
    config = TrainConfig(
        batch_size=options.batch_size, steps=steps, log_every=steps, save_every=steps, workers=0, ema=options.ema,
        optim=OptimConfig(lr=1e-4, clip_norm=1.0),
    )  # fmt: skip
    turns = Turns(bare_loop(copy.deepcopy(objective), source, config), options.block)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(objective, source, config, Path(folder) / "run", [turns])
        trainer.fit()
        syncs = count_syncs(objective, source, dataclasses.replace(config, steps=12, log_every=12, save_every=12), Path(folder) / "syncs")
    pairs = turns.pairs[1:]
    ratio = statistics.median(a / b for a, b in pairs)
    ours, bare = (1000 * statistics.median(column) / options.block for column in zip(*pairs))
    where = f"{trainer.device.type}, {torch.get_num_threads()} threads" if trainer.device.type == "cpu" else torch.cuda.get_device_name()
    print(f"{options.model}, batch {options.batch_size}, {where}, {len(pairs)} pairs of {options.block} steps")
    print(f"trainer {ours:.2f} ms per step, bare loop {bare:.2f} ms, median of the paired ratios {ratio:.4f}")
    print(f"host syncs per step between two log lines: {syncs}")
    return ratio


def count_syncs(objective: Objective, source: Pictures, config: TrainConfig, folder: Path) -> float:
    """Syncs per step of the loop, from the second step to the last but one (the last one logs and saves)."""

    class Watch(Callback):
        def __init__(self) -> None:
            self.counter, self.inside = Syncs(), False

        def after_step(self, trainer: Trainer) -> None:
            if trainer.step == 1:
                self.counter.__enter__()
            elif trainer.step == trainer.steps - 1:
                self.counter.__exit__(None, None, None)

    watch = Watch()
    Trainer(objective, source, config, folder, [watch]).fit()
    return watch.counter.count / (config.steps - 2)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m tools.bench_overhead"))
