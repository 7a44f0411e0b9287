"""What follows a schedule beside the learning rate: weight decay, parameters that wait, an objective's own values."""

import math

import pytest
import torch

from tests.trainer.toy import CONFIG, Fit, fit, lines, same, weights
from trainer.callback import Callback
from trainer.config import replace
from trainer.errors import ConfigError
from trainer.optim import OptimConfig, divide, parameter_groups
from trainer.schedule import ScheduleConfig


class Seen(Callback):
    """Learning rate and weight decay of each group at every step."""

    def __init__(self):
        self.values = []

    def after_step(self, trainer):
        self.values.append([(group["lr"], group["weight_decay"]) for group in trainer.optimizer.param_groups])


class Told(Fit):
    """Knows where in the run it is; its last layer waits for the first third."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def before_step(self, step, steps):
        self.steps.append((step, steps))

    def parameter_groups(self, weight_decay, layer_decay):
        return divide(parameter_groups(self, weight_decay, layer_decay), lambda name: name.startswith("net.2"), scale=0.5, frozen=1 / 3)


def test_the_weight_decay_goes_along_half_a_cosine(tmp_path):
    seen = Seen()
    fit(tmp_path / "run", seen, config=replace(CONFIG, {"optim.weight_decay": 0.04, "optim.weight_decay_end": 0.4, "schedule.horizon": 1.25}))
    decays = [max(decay for _, decay in groups) for groups in seen.values]
    expected = [0.4 + (0.04 - 0.4) * 0.5 * (1 + math.cos(math.pi * step / 37.5)) for step in range(30)]
    assert decays == pytest.approx(expected)
    assert all(min(decay for _, decay in groups) == 0 for groups in seen.values)  # biases never


def test_a_horizon_beyond_the_run_cuts_the_curve():
    cut, whole = ScheduleConfig(warmup_steps=10, floor=0.1, horizon=1.25), ScheduleConfig(warmup_steps=10, floor=0.1)
    assert [cut.lr(step, 100, 1.0, 1) for step in range(100)] == pytest.approx([whole.lr(step, 125, 1.0, 1) for step in range(100)])
    with pytest.raises(ConfigError, match="horizon"):
        ScheduleConfig("constant", horizon=1.5)
    with pytest.raises(ConfigError, match="horizon"):
        ScheduleConfig(horizon=0.5)


def test_the_objective_is_told_every_step_and_its_groups_wait(tmp_path):
    objective, seen = Told(), Seen()
    before = objective.net[2].weight.detach().clone()
    trainer = fit(tmp_path / "run", seen, objective=objective)
    assert objective.steps == [(step, 30) for step in range(30)]
    waiting = [i for i, group in enumerate(trainer.optimizer.param_groups) if group.get("frozen")]
    assert len(waiting) == 2  # weight and bias
    for step, groups in enumerate(seen.values):
        rates = {lr for i, (lr, _) in enumerate(groups) if i in waiting}, {lr for i, (lr, _) in enumerate(groups) if i not in waiting}
        assert rates[0] == ({0.0} if step < 10 else {next(iter(rates[1])) / 2})
    assert not objective.net[2].weight.equal(before)


def test_all_of_it_goes_on_exactly(tmp_path):
    config = replace(CONFIG, {"optim.weight_decay_end": 0.4, "save_every": 8})
    whole = fit(tmp_path / "whole", config=config, objective=Told)
    short = replace(config, {"steps": 30})

    class Stop(Callback):
        def after_step(self, trainer):
            if trainer.step == 20:
                raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path / "cut", Stop(), config=short, objective=Told)
    again = fit(tmp_path / "cut", config=short, objective=Told, resume=True)
    assert same(weights(whole), weights(again)) and lines(tmp_path / "cut")[-1]["loss"] == lines(tmp_path / "whole")[-1]["loss"]


def test_the_square_root_of_the_batch():
    config = OptimConfig(base_lr=2e-3, scaling="sqrt")
    assert config.peak_lr(256) == 2e-3 and config.peak_lr(1024) == pytest.approx(4e-3) and config.peak_lr(1600) == pytest.approx(5e-3)


@pytest.mark.parametrize("decays", [(0.0, 0.4), (0.1, -1.0)])
def test_decays_that_lead_nowhere(decays):
    with pytest.raises(ConfigError, match="weight_decay_end"):
        OptimConfig(weight_decay=decays[0], weight_decay_end=decays[1])


def test_divided_groups_hold_every_parameter_once():
    module = Fit().net
    groups = divide(parameter_groups(module, 0.1), lambda name: name == "0.weight", scale=0.2)
    assert sorted(name for group in groups for name in group["names"]) == sorted(name for name, _ in module.named_parameters())
    chosen = next(group for group in groups if "0.weight" in group["names"])
    assert chosen["lr_scale"] == 0.2 and chosen["weight_decay"] == 0.1 and torch.equal(chosen["params"][0], module[0].weight)
    assert divide(groups, lambda name: False) == [{**group} for group in groups]
