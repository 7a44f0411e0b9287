import pytest
import torch
from torch import nn

from tests.trainer.toy import CONFIG, fit, same, weights
from trainer.callback import Callback
from trainer.config import replace
from trainer.errors import CheckpointError, ConfigError
from trainer.optim import OptimConfig, build_optimizer, parameter_groups


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.block, self.head = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        self.frozen = nn.Parameter(self.head.weight.detach().clone(), requires_grad=False)

    def no_weight_decay(self):
        return {"embed.weight"}

    def layer_ids(self):
        return {n: {"embed": 0, "block": 1, "head": 2, "frozen": 0}[n.split(".")[0]] for n, _ in self.named_parameters()}


def table(module, *rest):
    return {n: (g["lr_scale"], g["weight_decay"]) for g in parameter_groups(module, *rest) for n in g["names"]}


def test_decay_by_rule_also_inside_a_wrapper():
    expected = {"embed.weight": 0.0, "embed.bias": 0.0, "block.weight": 0.1, "block.bias": 0.0, "head.weight": 0.1, "head.bias": 0.0}
    assert {n: d for n, (_, d) in table(Deep(), 0.1).items()} == expected
    wrapper = nn.ModuleDict({"model": Deep()})
    assert {n.removeprefix("model."): d for n, (_, d) in table(wrapper, 0.1).items()} == expected


def test_layer_decay():
    scales = {n: s for n, (s, _) in table(Deep(), 0.1, 0.5).items()}
    assert scales["embed.weight"] == 0.25 and scales["block.bias"] == 0.5 and scales["head.weight"] == 1.0
    with pytest.raises(ConfigError, match="layer_decay"):
        parameter_groups(nn.Linear(2, 2), 0.1, 0.5)


def test_linear_scaling_rule():
    assert OptimConfig(base_lr=1.5e-4).peak_lr(4096) == pytest.approx(2.4e-3)
    assert OptimConfig(lr=1e-3).peak_lr(4096) == 1e-3


def test_optimizers_of_timm():
    groups = parameter_groups(Deep(), 0.1)
    optimizer = build_optimizer(groups, OptimConfig(), 1e-3)
    assert type(optimizer).__name__ == "AdamW" and optimizer.param_groups[0]["betas"] == (0.9, 0.95)
    assert {g["weight_decay"] for g in optimizer.param_groups} == {0.0, 0.1}
    assert type(build_optimizer(parameter_groups(Deep(), 0.0), OptimConfig(name="lars", betas=None), 0.1)).__name__ == "Lars"
    with pytest.raises(ConfigError, match="Did you mean 'adam"):
        build_optimizer(groups, OptimConfig(name="adamv"), 1e-3)
    made = build_optimizer(parameter_groups(Deep(), 0.0), OptimConfig(eps=1e-6), 0.1)
    assert made.param_groups[0]["eps"] == 1e-6
    with pytest.raises(ConfigError, match="optim.eps"):
        build_optimizer(parameter_groups(Deep(), 0.0), OptimConfig(name="sgd", betas=None, eps=1e-6), 0.1)
    with pytest.raises(ConfigError, match="optim.betas"):
        build_optimizer(parameter_groups(Deep(), 0.0), OptimConfig(name="lars"), 0.1)


def test_second_order_optimizers_are_refused():
    with pytest.raises(ConfigError, match="second derivatives"):
        build_optimizer(parameter_groups(Deep(), 0.1), OptimConfig(name="adahessian"), 0.1)


@pytest.mark.parametrize("name", ["lamb", "lars", "lion", "adan", "muon", "adafactorbv", "sgd", "nadamw"])
def test_optimizers_of_timm_resume_exactly(tmp_path, name):
    class Crash(Callback):
        def after_step(self, trainer):
            if trainer.step == 5:
                raise InterruptedError

    config = replace(CONFIG, {"steps": 7, "save_every": 2, "optim.name": name, "optim.lr": 1e-3, "optim.betas": None})
    whole = fit(tmp_path / "whole", config=config)
    with pytest.raises(CheckpointError):  # an OSError in the loop
        fit(tmp_path / "cut", Crash(), config=config)
    cut = fit(tmp_path / "cut", config=config, resume=True)
    assert same(weights(whole), weights(cut)) and all(w.isfinite().all() for w in weights(cut).values())


@pytest.mark.parametrize("name", ["sgd", "momentum"])
def test_momentum_survives_a_skipped_first_step(name):
    layer = nn.Linear(3, 2)
    optimizer = build_optimizer(parameter_groups(layer, 0.0), OptimConfig(name=name, betas=None), 0.1)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.grad_scale, optimizer.found_inf = None, torch.ones(())
    optimizer.step()
    assert all(not optimizer.state[p]["momentum_buffer"].any() for p in layer.parameters())
