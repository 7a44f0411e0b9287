"""Small objectives for tests of the trainer, and a program that trains them: `python -m tests.trainer.toy FOLDER JSON`.

JSON holds runs by their names, each in its folder below FOLDER: fields of TrainConfig by their dotted names, and
`counted` for CountedFit, `dropout`, `resume`, `kill: [rank, step]` to die there (once), `fail: [rank, step]` to raise an error
there (once), `seconds` that each step takes at least.
"""

import atexit
import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from trainer.callback import Callback
from trainer.config import replace
from trainer.errors import Interrupted
from trainer.evaluation import Evaluate
from trainer.logs import MetricsFile, read_lines
from trainer.objective import Losses, Objective
from trainer.optim import OptimConfig
from trainer.parallel import Processes, restarted
from trainer.recipe import TrainConfig
from trainer.trainer import Trainer
from trainer.weights import write_safetensors

CONFIG = TrainConfig(batch_size=16, steps=30, log_every=3, save_every=10, workers=0, pictures=2, optim=OptimConfig(lr=1e-2, clip_norm=1.0))
MACHINE = ("seconds", "samples_per_second", "data_wait", "memory_gb", "tflops", "mfu")
"""What of a line of metrics depends on the machine."""


class Line:
    """y = index / 50 from a noisy x."""

    def __len__(self):
        return 50

    def __getitem__(self, index):
        return {"x": torch.randn(4) + index / 50, "y": torch.tensor(index / 50), "index": torch.tensor(index)}


class Fit(Objective):
    """Regression; with `dropout` its random numbers are those of the process."""

    def __init__(self, dropout=0.2):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Dropout(dropout), nn.Linear(16, 1))

    def forward(self, batch):
        loss = (self.net(batch["x"])[:, 0] - batch["y"]).square().mean()
        return Losses(loss, {"rmse": loss.detach().sqrt()})

    def export(self):
        return self.net


class CountedFit(Objective):
    """A mean over as many values as the data say, in blocks, with a table that is not trained."""

    def __init__(self):
        super().__init__()
        self.inlet = nn.Linear(4, 16)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16), nn.GELU()) for _ in range(3)))
        self.outlet = nn.Linear(16, 8)
        self.table = nn.Parameter(torch.linspace(0, 1, 16), requires_grad=False)
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    def forward(self, batch):
        wanted = batch["y"][:, None] * torch.arange(8, device=batch["y"].device)
        seen = torch.arange(8, device=wanted.device) < 1 + batch["index"][:, None] % 8  # 1 to 8 values of each sample
        error = (self.outlet(self.blocks(self.inlet(batch["x"]) + self.table)) * self.scale - wanted).square()
        count = seen.sum()
        loss = (error * seen).sum() / count
        return Losses(loss, {"largest": loss.detach() * 0 + 1}, count=count)

    def export(self):
        return self.outlet


class Size:
    """An evaluator: the sum of all weights' magnitudes."""

    name, higher_is_better = "size", {"size": False}

    def __call__(self, objective):
        return {"size": sum(float(p.abs().sum()) for p in objective.parameters())}


class Crash(Callback):
    """A power cut in the step after `step` steps."""

    def __init__(self, step):
        self.step = step

    def after_backward(self, trainer):
        if trainer.step == self.step:
            raise RuntimeError("power cut")


class Trouble(Callback):
    """What happens to one rank after a step; a death or an error only the first time."""

    def __init__(self, folder, kill=(), fail=(), seconds=0.0):
        self.marker, self.kill, self.fail, self.seconds = folder / "trouble", tuple(kill), tuple(fail), seconds

    def after_step(self, trainer):
        time.sleep(self.seconds)
        here = trainer.processes.rank, trainer.step
        if here in (self.kill, self.fail) and not self.marker.exists():
            self.marker.touch()
            if here == self.fail:
                raise ValueError("only here")
            os.kill(os.getpid(), signal.SIGKILL)


def fit(folder, *callbacks, resume=False, config=CONFIG, objective=None):
    """Train `objective`, or what it makes when it is called, below `folder`."""
    torch.manual_seed(0)
    if objective is not None and not isinstance(objective, Objective):
        objective = objective()
    folder.mkdir(exist_ok=True)
    processes = Processes()
    own = any(isinstance(c, Evaluate) for c in callbacks)
    evaluate = [Evaluate([Size()], config.evaluate)] if config.evaluate.every and not own else []
    trainer = Trainer(objective or Fit(), Line(), config, folder, [MetricsFile(), *evaluate, *callbacks], processes)
    trainer.fit(resume=resume)
    return trainer


def lines(folder):
    return [{k: v for k, v in line.items() if k not in MACHINE} for line in read_lines(folder / "metrics.jsonl")]


def weights(trainer):
    return trainer.objective.state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(a[k].equal(b[k]) for k in a)


def main(folder, runs):
    atexit.register(lambda: print("in a group at the end" if dist.is_initialized() else "left all groups"))  # registered first, so called last
    torch.set_num_threads(1)
    for name, options in runs.items():
        place = folder / name
        place.mkdir(exist_ok=True)
        trouble = Trouble(place, **{key: options.pop(key) for key in ("kill", "fail", "seconds") if key in options})
        resume = options.pop("resume", False) or restarted()
        objective = CountedFit if options.pop("counted", False) else partial(Fit, options.pop("dropout", 0.0))
        try:
            trainer = fit(place, trouble, resume=resume, config=replace(CONFIG, options), objective=objective)
        except Interrupted as error:
            (place / f"stopped-{os.environ['RANK']}").write_text(str(error))
            sys.exit(error.code)
        whole = trainer.plain()
        if trainer.processes.main:
            write_safetensors(whole.state_dict(), place / "weights.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
