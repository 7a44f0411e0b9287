"""Bad steps: skipped exactly, counted, told, and all that without waiting for the device."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.trainer.toy import CONFIG, Fit, fit, lines, same, weights
from trainer.callback import Callback
from trainer.config import replace
from trainer.errors import ConfigError, Interrupted, TrainingError
from trainer.guard import Guard, GuardConfig
from trainer.objective import Losses

NAN, INF = float("nan"), float("inf")
PLAIN = {"optim.betas": None}


class Poison(Callback):
    """A bad `kind` of step at `steps`; `changed` holds those of them that left a trace in weights, buffers or optimizer."""

    def __init__(self, kind, steps, factor=1e4):
        self.kind, self.steps, self.factor = kind, steps, factor
        self.changed, self.before = [], None

    def batch(self, trainer, batch):
        if trainer.step in self.steps:
            self.before = self.state(trainer)
            if self.kind == "data":
                return {**batch, "x": batch["x"] * NAN}
        return batch

    def losses(self, trainer, batch, losses):
        if trainer.step in self.steps:
            if self.kind == "infinite loss":  # its gradient is finite
                return Losses(losses.loss + INF, losses.parts, losses.count)
            if self.kind == "spike":
                return Losses(losses.loss * self.factor, losses.parts, losses.count)
        return losses

    def after_backward(self, trainer):
        if trainer.step in self.steps and self.kind == "gradient":
            trainer.parameters[0].grad[0, 0] = INF

    def after_step(self, trainer):
        if trainer.step - 1 in self.steps and not same(self.before, self.state(trainer)):
            self.changed.append(trainer.step - 1)

    def state(self, trainer):
        """Everything that a step may move; a moment that is not there yet is zero."""
        found = dict(weights(trainer))
        for i, parameter in enumerate(trainer.parameters):
            moments = trainer.optimizer.state.get(parameter, {})
            for name in ("exp_avg", "exp_avg_sq", "momentum_buffer"):
                found[f"{name}.{i}"] = moments.get(name, torch.zeros_like(parameter))
            found[f"step.{i}"] = torch.as_tensor(moments.get("step", 0.0))
        return copy.deepcopy(found)


class Normed(Fit):
    """With running statistics, which a forward pass changes."""

    def __init__(self):
        super().__init__()
        self.net.insert(1, nn.BatchNorm1d(16))


@pytest.mark.parametrize("optim", [{}, {"optim.clip_norm": None}, {"optim.name": "sgd", **PLAIN}, {"optim.name": "momentum", **PLAIN}])
@pytest.mark.parametrize("kind", ["data", "gradient", "infinite loss"])
def test_a_bad_step_is_as_if_it_had_not_been(tmp_path, kind, optim):
    poison = Poison(kind, (0, 4, 5))
    trainer = fit(tmp_path / "a", poison, config=replace(CONFIG, {**optim, "steps": 12}), objective=Normed())
    assert poison.changed == [] and all(v.isfinite().all() for v in weights(trainer).values())
    logged = lines(tmp_path / "a")
    assert [line.get("skipped") for line in logged] == [1, 2, None, None] and trainer.guard.totals() == {"skipped": 3, "spikes": 0}
    assert all(torch.tensor(line["loss"]).isfinite() for line in logged)  # means over the steps that were taken


def test_bad_steps_do_not_stop_learning(tmp_path):
    for name in ("adamw", "sgd", "lion", "lamb", "lars", "adan", "muon"):
        options = {"optim.name": name, "optim.betas": None, "optim.lr": 3e-3 if name != "lars" else 1.0, "steps": 40, "save_every": 40}
        trainer = fit(tmp_path / name, Poison("gradient", (0, 7, 8)), config=replace(CONFIG, options))
        logged = lines(tmp_path / name)
        assert trainer.guard.totals()["skipped"] == 3 and all(v.isfinite().all() for v in weights(trainer).values()), name
        assert logged[-1]["loss"] < logged[1]["loss"], name


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_interval_of_bad_steps_only(tmp_path, accumulate):
    fit(tmp_path / "a", Poison("data", (3, 4, 5)), config=replace(CONFIG, {"steps": 9, "accumulate": accumulate}))
    logged = lines(tmp_path / "a")
    assert logged[1]["skipped"] == 3 and logged[1]["loss"] is None and logged[2]["loss"] > 0


def test_stops_only_after_bad_steps_in_a_row(tmp_path):
    config = replace(CONFIG, {"guard.max_skipped": 3, "log_every": 1})
    fit(tmp_path / "a", Poison("data", (3, 4, 6, 7, 9, 10)), config=config)
    message = r"in 3 steps in a row, the last at step 8: loss inf, gradient norm \d\S*, learning rate 0\.00\d+, samples .* of the source, epoch 2"
    with pytest.raises(TrainingError, match=message):
        fit(tmp_path / "b", Poison("infinite loss", (6, 7, 8, 9)), config=config)
    assert len(lines(tmp_path / "b")) == 8


def test_fp16_allows_more_while_its_scale_is_found():
    guard = Guard(GuardConfig(max_skipped=2), torch.device("cpu"), fp16=True)
    for _ in range(17):
        guard.judge(torch.tensor(1.0), torch.tensor(INF))
    assert guard.read(16, 0.1, str) == {"skipped": 17}
    guard.judge(torch.tensor(1.0), torch.tensor(INF))
    with pytest.raises(TrainingError, match="in 18 steps in a row, the last at step 17"):
        guard.read(17, 0.1, str)


def test_the_diagnosis_names_step_lr_and_samples():
    guard = Guard(GuardConfig(max_skipped=1), torch.device("cpu"), fp16=False)
    guard.judge(torch.tensor(NAN), torch.tensor(1.0))
    with pytest.raises(TrainingError, match="the last at step 16777217: loss nan, gradient norm 1, learning rate 0.1, samples of 16777217"):
        guard.read(2**24 + 1, 0.1, lambda step: f"samples of {step}")


def judged(values, **config):
    """What the guard says of a series of losses: (taken, spikes)."""
    guard = Guard(GuardConfig(spike_window=16, **config), torch.device("cpu"), fp16=False)
    taken = [bool(guard.judge(torch.tensor(float(v)), torch.tensor(1.0))) for v in values]
    return taken, guard.totals()["spikes"]


def noisy(steps, level=1.0):
    return level + 0.05 * torch.randn(steps, generator=torch.Generator().manual_seed(0))


def test_spikes():
    quiet, high = noisy(40), torch.tensor([2.0])
    assert judged(torch.cat([quiet, high, quiet])) == ([True] * 81, 1)
    assert judged(torch.cat([quiet, high, high, quiet]), skip_spikes=True) == ([True] * 40 + [False] * 2 + [True] * 40, 2)
    assert judged(torch.cat([quiet, high, quiet]), spike_sigma=50.0)[1] == 0
    assert judged(torch.cat([quiet[:15], high, quiet[15:]]), skip_spikes=True) == ([True] * 41, 0)  # no spike before the window is full
    assert judged(torch.cat([quiet, torch.tensor([NAN]), quiet]))[1] == 0  # bad, but no spike
    guard = Guard(GuardConfig(spike_window=0, skip_spikes=True), torch.device("cpu"), fp16=False)
    assert all(guard.judge(torch.tensor(v), torch.tensor(1.0)) for v in [1.0] * 30 + [100.0])


@pytest.mark.parametrize("level", [1.0, -3.0, 1e-8, 1e8, 0.0])
def test_a_constant_loss_has_no_spikes(level):
    rounding = 1 + 1e-6 * torch.randn(60, generator=torch.Generator().manual_seed(0))
    assert judged(level * rounding, skip_spikes=True) == ([True] * 60, 0)


@pytest.mark.parametrize("skip", [False, True])
def test_a_lasting_change_of_level_is_taken_for_the_new_level(skip):
    taken, spikes = judged(torch.cat([noisy(40), noisy(200, level=5.0)]), skip_spikes=skip)
    assert 1 <= spikes < 60 and all(taken[-100:]) and taken[40] is not skip


def test_spikes_in_training(tmp_path):
    options = {"guard.spike_window": 8, "log_every": 5}
    for skip in (False, True):
        poison = Poison("spike", (3, 20))
        trainer = fit(tmp_path / str(skip), poison, config=replace(CONFIG, {**options, "guard.skip_spikes": skip}))
        assert [line.get("spikes") for line in lines(tmp_path / str(skip))] == [None, None, None, None, 1, None]
        assert trainer.guard.totals() == {"spikes": 1, "skipped": int(skip)} and poison.changed == ([3] if skip else [3, 20])
        assert [line.get("skipped") for line in lines(tmp_path / str(skip))][4] == (1 if skip else None)


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_its_state_is_restored_exactly(tmp_path, name):
    class Stop(Callback):
        def after_step(self, trainer):
            if trainer.step == 16:
                trainer.stop.number = 15

    options = {"guard.spike_window": 8, "guard.skip_spikes": True, "optim.name": name, "optim.lr": 1e-3, "log_every": 5}
    bad = Poison("data", (2, 13, 15, 16)), Poison("spike", (14, 15, 20))
    whole = fit(tmp_path / "whole", *bad, config=replace(CONFIG, options))
    with pytest.raises(Interrupted):
        fit(tmp_path / "cut", Stop(), *bad, config=replace(CONFIG, options))
    cut = fit(tmp_path / "cut", *bad, resume=True, config=replace(CONFIG, options))
    assert whole.guard.totals() == cut.guard.totals() and whole.guard.totals()["skipped"] == 6
    assert lines(tmp_path / "whole") == lines(tmp_path / "cut") and same(weights(whole), weights(cut))
    assert all(v.equal(cut.guard.state[k]) for k, v in whole.guard.state.items() if k != "bad")  # that one holds NaN


def test_wrong_config():
    for wrong in ({"max_skipped": 0}, {"spike_window": -1}, {"spike_sigma": 0.0}):
        with pytest.raises(ConfigError, match="train.guard"):
            GuardConfig(**wrong)


class Syncs(TorchDispatchMode):
    """Counts what would make the host wait for a GPU: values read from tensors, and shapes that depend on values."""

    WAITS = ("_local_scalar_dense", "equal", "nonzero", "masked_select", "is_nonzero", "unique")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if any(part in str(function) for part in (f"aten.{name}." for name in self.WAITS)):
            self.found.append(str(function))
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize(
    "options",
    [{}, {"optim.clip_norm": None}, {"ema": 0.9}, {"accumulate": 2}, {"guard.skip_spikes": True, "guard.spike_window": 4}, {"optim.name": "lion"}],
    ids=["adamw", "no clipping", "ema", "accumulate", "spikes", "lion"],
)
def test_no_value_is_read_between_two_log_lines(tmp_path, monkeypatch, options):
    syncs = Syncs()

    class Watch(Callback):
        """From the end of the first step to the end of the last but one."""

        def after_step(self, trainer):
            if trainer.step == 1:
                syncs.__enter__()
                for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__"):
                    monkeypatch.setattr(Tensor, name, self.counted(name, getattr(Tensor, name)))
            elif trainer.step == 11:
                syncs.__exit__(None, None, None)
                monkeypatch.undo()

        def counted(self, name, method):
            def call(tensor, *arguments, **options):
                syncs.found.append(name)
                return method(tensor, *arguments, **options)

            return call

    trainer = fit(tmp_path / "a", Watch(), config=replace(CONFIG, {**options, "batch_size": 4, "steps": 12, "log_every": 12, "save_every": 12}))
    assert syncs.found == [] and trainer.step == 12
    with syncs:  # it does count
        bool(torch.ones(()))
    assert syncs.found == ["aten._local_scalar_dense.default"]
