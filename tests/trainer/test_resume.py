"""A run that died anywhere and went on equals one that never did, bit for bit."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from tests.trainer.toy import CONFIG, CountedFit, Crash, Fit, Line, fit, lines, same, weights
from trainer.callback import Callback
from trainer.checkpoint import load_checkpoint, newest
from trainer.config import replace
from trainer.errors import CheckpointError
from trainer.evaluation import EvalConfig, Evaluate
from trainer.logs import MetricsFile
from trainer.objective import Losses, Objective
from trainer.trainer import Trainer


class Noise:
    """Draws from every generator and changes modes, as an evaluation may."""

    name, higher_is_better = "noise", {"value": True}

    def __call__(self, objective):
        torch.rand(3), np.random.rand(3), random.random()
        return {"value": float(sum(p.abs().sum() for p in objective.parameters()))}


class Random(Fit):
    """Draws from every generator; keeps a slow copy of itself; has running statistics."""

    def __init__(self):
        super().__init__()
        self.net.insert(1, nn.BatchNorm1d(16))
        self.teacher = nn.Linear(4, 16).requires_grad_(False)

    def forward(self, batch):
        x = batch["x"] * (1 + 0.1 * random.random()) + float(np.random.rand()) * 0.1 + 0.1 * torch.rand(4)
        near = (self.net[0](x) - self.teacher(x)).square().mean()
        loss = (self.net(x)[:, 0] - batch["y"]).square().mean() + 0.1 * near
        return Losses(loss, {"near": near.detach()})

    def after_step(self, step):
        with torch.no_grad():
            self.teacher.weight.lerp_(self.net[0].weight, 0.1)


class Pictures(Line):
    """Small images of a few channels."""

    def __getitem__(self, index):
        return {"image": torch.randn(3, 8, 8) + index / 50, "y": torch.tensor(index / 50)}


class Convolution(Objective):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))

    def forward(self, batch):
        return Losses((self.net(batch["image"])[:, 0] - batch["y"]).square().mean())


CASES = {
    "plain": ({}, Fit, Line()),
    "workers": ({"workers": 2}, Random, Line()),
    "micro-batches": ({"accumulate": 3, "batch_size": 7, "ema": 0.9}, Random, Line()),
    "counted": ({"accumulate": 3}, CountedFit, Line()),
    "async": ({"save_async": True, "ema": 0.9, "workers": 2}, Fit, Line()),
    "evaluation": ({"evaluate": EvalConfig(every=3, best="eval/value"), "ema": 0.9}, Random, Line()),
    "log and save apart": ({"log_every": 4, "save_every": 7, "accumulate": 2}, Random, Line()),
    "one long interval": ({"log_every": 50, "save_every": 3}, Random, Line()),
    "channels last": ({"channels_last": True, "ema": 0.9}, Convolution, Pictures()),
    "recompute": ({"recompute": True}, CountedFit, Line()),
    "bf16": ({"precision": "bf16"}, Fit, Line()),
    "epochs": ({"steps": None, "epochs": 6.5}, Fit, Line()),
}


def train(folder, case, *callbacks, resume=False):
    changes, objective, source = CASES[case]
    config = replace(CONFIG, {"steps": 26, **changes})
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    evaluate = [Evaluate([Noise()], config.evaluate)] if config.evaluate.every else []
    trainer = Trainer(objective(), source, config, folder, [MetricsFile(), *evaluate, *callbacks])
    trainer.fit(resume=resume)
    return trainer


@pytest.mark.parametrize("case", CASES)
def test_crashes_leave_no_trace(tmp_path, case):
    whole = train(tmp_path / "whole", case)
    for step in (2, 8, 13, 14, 20):  # before the first checkpoint, between two log lines, soon after another one
        with pytest.raises(RuntimeError, match="power cut"):
            train(tmp_path / "cut", case, Crash(step), resume=step != 2)
    cut = train(tmp_path / "cut", case, resume=True)
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole") and len(lines(tmp_path / "cut")) > 0
    assert same(weights(cut), weights(whole))
    states = [load_checkpoint(newest(tmp_path / name / "checkpoints")) for name in ("whole", "cut")]
    for part in ("optimizer", "callbacks", "guard", "metrics"):
        assert equal(*(state[part] for state in states)), part
    assert cut.restarts > whole.restarts == 0


def equal(a, b):
    """Whether two state trees are the same; NaN equals NaN."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) and torch.equal(a.isnan(), b.isnan())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def test_a_finished_run_is_finished(tmp_path):
    whole = fit(tmp_path / "a")
    before = (tmp_path / "a" / "metrics.jsonl").read_bytes()
    again = fit(tmp_path / "a", Crash(30), resume=True)
    assert same(weights(whole), weights(again)) and again.step == 30 and again.last == whole.last
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == before


def test_a_run_that_ended_early_is_finished(tmp_path):
    class Enough(Callback):
        def after_step(self, trainer):
            if trainer.step == 14:
                trainer.finish_early("enough")

    ended = fit(tmp_path / "a", Enough())
    again = fit(tmp_path / "a", Enough(), Crash(14), resume=True)
    assert (ended.step, again.step, again.steps) == (14, 14, 14) and same(weights(ended), weights(again))


def test_a_longer_run_is_not_the_same_run(tmp_path):
    """The trainer takes what it is told; `run` refuses a changed recipe."""
    fit(tmp_path / "a")
    longer = fit(tmp_path / "a", resume=True, config=replace(CONFIG, {"steps": 33}))
    assert longer.step == 33 and lines(tmp_path / "a")[-1]["step"] == 33


def test_fp16_without_its_units_and_then_with_them(tmp_path, monkeypatch):
    """Begun on a CPU (in fp32) and resumed where fp16 exists: the loss scale begins anew."""
    config = replace(CONFIG, {"precision": "fp16"})
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path / "a", Crash(14), config=config)
    monkeypatch.setattr("trainer.trainer.usable_precision", lambda wanted, device: wanted)
    trainer = fit(tmp_path / "a", config=config, resume=True)
    assert trainer.step == 30 and trainer.scaler.get_scale() > 1


def test_a_callback_whose_state_is_not_there(tmp_path):
    class New(Callback):
        count = 0

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path / "a", Crash(14))
    with pytest.raises(CheckpointError, match="no fitting state of the callback New.0: 'count'"):
        fit(tmp_path / "a", New(), resume=True)
