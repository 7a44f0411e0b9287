"""The average of the weights: timm's rule, in training, in checkpoints and in what is exported."""

import copy

import pytest
import torch
from torch import nn

from modalities.common.run import run
from tests import small
from tests.trainer.toy import CONFIG, Fit, fit, lines, same, weights
from trainer.callback import Callback
from trainer.checkpoint import load_checkpoint, newest
from trainer.config import replace
from trainer.errors import Interrupted
from trainer.evaluation import Evaluate
from trainer.weights import read_safetensors


class Normed(Fit):
    """With running statistics, among them a whole number."""

    def __init__(self):
        super().__init__()
        self.net.insert(1, nn.BatchNorm1d(16))


class History(Callback):
    """The weights after each step."""

    def __init__(self):
        self.seen = []

    def after_step(self, trainer):
        self.seen.append(copy.deepcopy(weights(trainer)))


def by_hand(history, decay, warmup):
    average = None
    for step, now in enumerate(history, start=1):
        now = {k: v.double() if v.is_floating_point() else v for k, v in now.items()}
        d = min(1 - step ** (-2 / 3), decay) if warmup else decay
        d = 0.0 if step == 1 else d
        average = {k: d * average[k] + (1 - d) * v if average and v.is_floating_point() else v for k, v in now.items()}
    return average


@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_timms_rule(tmp_path, decay, warmup):
    history = History()
    trainer = fit(tmp_path / "a", history, config=replace(CONFIG, {"ema": decay, "ema_warmup": warmup}), objective=Normed())
    expected, found = by_hand(history.seen, decay, warmup), trainer.plain().state_dict()
    assert found.keys() == expected.keys() and not same(found, weights(trainer)) and not trainer.plain().training
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value.to(found[name].dtype), rtol=1e-5, atol=1e-6)
    assert found["net.1.num_batches_tracked"] == 30
    assert same(load_checkpoint(newest(tmp_path / "a" / "checkpoints"))["callbacks"]["EMA.0"]["module"], found)


def test_training_does_not_notice_it(tmp_path):
    with_it, without = fit(tmp_path / "a", config=replace(CONFIG, {"ema": 0.9})), fit(tmp_path / "b")
    assert same(weights(with_it), weights(without)) and lines(tmp_path / "a") == lines(tmp_path / "b")


def test_exact_resume(tmp_path):
    class Stop(Callback):
        def after_step(self, trainer):
            if trainer.step == 16:
                trainer.stop.number = 2

    config = replace(CONFIG, {"ema": 0.9})
    whole = fit(tmp_path / "whole", config=config, objective=Normed())
    with pytest.raises(Interrupted):
        fit(tmp_path / "cut", Stop(), config=config, objective=Normed())
    cut = fit(tmp_path / "cut", config=config, objective=Normed(), resume=True)
    assert same(whole.plain().state_dict(), cut.plain().state_dict()) and same(weights(whole), weights(cut))


def test_skipped_steps_count_like_steps_that_change_nothing(tmp_path):
    class Poison(Callback):
        def batch(self, trainer, batch):
            return {**batch, "x": batch["x"] * float("nan")} if trainer.step in (0, 1, 7, 8) else batch

    history = History()
    trainer = fit(tmp_path / "a", Poison(), history, config=replace(CONFIG, {"ema": 0.9}), objective=Normed())
    found = trainer.plain().state_dict()
    for name, value in by_hand(history.seen, 0.9, True).items():
        assert found[name].isfinite().all()
        torch.testing.assert_close(found[name], value.to(found[name].dtype), rtol=1e-5, atol=1e-6)


def test_the_average_is_what_is_evaluated_and_the_best_one_comes_back(tmp_path):
    class FirstIsBest:
        name, higher_is_better = "the first", {"value": False}
        seen = []

        def __call__(self, objective):
            self.seen.append(copy.deepcopy(objective.state_dict()))
            return {"value": len(self.seen)}

    config = replace(CONFIG, {"ema": 0.9, "evaluate.every": 10, "evaluate.best": "eval/value"})
    evaluator = FirstIsBest()
    trainer = fit(tmp_path / "a", Evaluate([evaluator], config.evaluate), config=config)
    assert same(trainer.plain().state_dict(), evaluator.seen[0]) and not same(evaluator.seen[0], evaluator.seen[-1])
    last = load_checkpoint(newest(tmp_path / "a" / "checkpoints"))
    assert same(last["callbacks"]["EMA.0"]["module"], evaluator.seen[-1]) and not same(last["objective"], evaluator.seen[-1])


def test_the_average_is_exported(tmp_path):
    recipe = small.recipe(small.pictures(tmp_path / "pictures"), **{"train.ema": 0.8, "train.optim.lr": 1e-2})
    exported = read_safetensors(run(recipe, tmp_path / "run") / "model.safetensors")
    state = load_checkpoint(newest(tmp_path / "run" / "checkpoints"))
    average = state["callbacks"]["EMA.0"]["module"]
    for name, value in exported.items():
        assert value.equal(average[f"model.{name}"]), name
    assert not exported["norm.weight"].equal(state["objective"]["model.norm.weight"])
