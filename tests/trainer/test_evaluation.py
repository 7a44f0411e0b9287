"""Evaluation inside training: when, what it leaves untouched, what is kept, when training stops, exact resume."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from trainer.callback import Callback
from trainer.checkpoint import list_checkpoints
from trainer.config import from_dict, replace
from trainer.errors import ConfigError, ModelError
from trainer.evaluation import EvalConfig, Evaluate, measure
from trainer.logs import MetricsFile, ProgressBar, TensorBoard, read_lines
from trainer.objective import Losses, Objective
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.trainer import Trainer

CONFIG = TrainConfig(batch_size=8, steps=20, log_every=2, save_every=3, keep_last=1, optim=OptimConfig(lr=1e-2), evaluate=EvalConfig(every=4))


SOURCE = [{"x": torch.randn(4, generator=torch.Generator().manual_seed(i)) + i / 50, "y": torch.tensor(i / 50)} for i in range(50)]


class Fit(Objective):
    """Draws from all generators in the forward pass; a part of it is frozen in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 1))
        self.frozen = nn.Dropout(0.5).eval()

    def forward(self, batch):
        x = batch["x"] * np.random.uniform(0.9, 1.1) * random.uniform(0.9, 1.1)
        return Losses((self.frozen(self.net(x))[:, 0] - batch["y"]).square().mean())

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        return self


class Loss:
    """The loss on fixed data, after every generator was used."""

    name, higher_is_better = "validation loss", {"loss": False, "noise": True}

    def __init__(self):
        self.seen = []

    def __call__(self, objective):
        assert torch.is_inference_mode_enabled() and not any(m.training for m in objective.modules())
        noise = float(torch.rand(3).sum() + np.random.rand() + random.random())
        x = torch.linspace(-1, 1, 40).reshape(10, 4)
        self.seen.append(float(objective({"x": x, "y": torch.zeros(10)}).loss))
        return {"loss": self.seen[-1], "noise": noise}


class Script:
    """Gives the next of the values that it was made with."""

    name, higher_is_better = "script", {"score": True}

    def __init__(self, *values):
        self.values = values

    def __call__(self, objective):
        step = int(objective.count)
        return {"score": self.values[step // 4 - 1]}


class Counting(Fit):
    """Knows how many steps it has made, so that a `Script` needs no state of its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def after_step(self, step):
        self.count.fill_(step)


class CrashAt(Callback):
    def __init__(self, step):
        self.at = step

    def after_step(self, trainer):
        if trainer.step == self.at:
            raise RuntimeError("power cut")


def fit(folder, *evaluators, config=CONFIG, resume=False, objective=None, also=()):
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    callbacks = [MetricsFile(), *also]
    if evaluators:
        callbacks.insert(0, Evaluate(evaluators, config.evaluate))
    trainer = Trainer(objective or Counting(), SOURCE, config, folder, callbacks)
    trainer.fit(resume=resume)
    return trainer


def losses(folder):
    return [(line["step"], line["loss"]) for line in read_lines(folder / "metrics.jsonl") if "loss" in line]


def evaluations(folder, name):
    return {line["step"]: line[f"eval/{name}"] for line in read_lines(folder / "metrics.jsonl") if f"eval/{name}" in line}


def steps_kept(folder):
    return [int(path.name.rpartition("-")[2]) for path in list_checkpoints(folder / "checkpoints")]


def same(a, b):
    a, b = a.objective.state_dict(), b.objective.state_dict()
    return all(a[k].equal(b[k]) for k in a)


def best(**fields):
    return replace(CONFIG, {"evaluate": EvalConfig(every=4, best="eval/score", **fields)})


@pytest.mark.parametrize("steps, every, expected", [(20, 4, [4, 8, 12, 16, 20]), (20, 6, [6, 12, 18, 20]), (20, 50, [20]), (3, 1, [1, 2, 3])])
def test_evaluates_every_n_steps_and_at_the_last(tmp_path, steps, every, expected):
    fit(tmp_path / "a", Loss(), config=replace(CONFIG, {"steps": steps, "log_every": 1, "evaluate.every": every}))
    assert list(evaluations(tmp_path / "a", "loss")) == expected


def test_a_run_with_evaluation_has_the_losses_of_a_run_without(tmp_path):
    without, loss = fit(tmp_path / "a"), Loss()
    trained = fit(tmp_path / "b", loss)
    assert losses(tmp_path / "a") == losses(tmp_path / "b") and same(without, trained)
    assert list(evaluations(tmp_path / "b", "loss").values()) == loss.seen
    assert len(set(evaluations(tmp_path / "b", "noise").values())) == 1  # the same random numbers at every moment


def test_values_between_two_log_lines_reach_every_logger(tmp_path, capsys):
    board = TensorBoard()
    fit(tmp_path / "a", Loss(), config=replace(CONFIG, {"log_every": 20}), also=[board, ProgressBar(seconds=0)])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "a" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("eval/loss")] == [4, 8, 12, 16, 20] == list(evaluations(tmp_path / "a", "loss"))
    assert "step 20/20" in capsys.readouterr().err


def test_alone_gives_what_training_gave_and_leaves_no_trace(tmp_path):
    loss = Loss()
    trainer = fit(tmp_path / "a", loss)
    trainer.objective.train()
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    again = measure([Script(*range(9)), Loss()], trainer.objective)
    assert again["loss"] == loss.seen[-1]
    assert torch.get_rng_state().equal(states[0]) and (np.random.get_state()[1] == states[1]).all() and random.getstate() == states[2]
    assert trainer.objective.net.training and not trainer.objective.frozen.training
    assert measure([Loss()], trainer.objective)["noise"] == again["noise"]  # whatever was measured before


def test_the_best_checkpoint_is_kept_and_loaded_at_the_end(tmp_path):
    trainer = fit(tmp_path / "a", Script(1, 3, 2, 3, 0), config=best())  # an equal value is not better
    assert steps_kept(tmp_path / "a") == [8, 20] and trainer.step == 20
    assert trainer.callbacks[0].best() == {"metric": "eval/score", "value": 3, "step": 8, "exported": True}
    until_8 = fit(tmp_path / "b", config=replace(CONFIG, {"steps": 20}), also=[Remember(8)])
    kept = trainer.objective.state_dict()
    assert all(kept[k].equal(v) for k, v in until_8.callbacks[1].weights.items())


class Remember(Callback):
    def __init__(self, step):
        self.at = step

    def after_step(self, trainer):
        if trainer.step == self.at:
            self.weights = {k: v.clone() for k, v in trainer.objective.state_dict().items()}


def test_the_average_is_what_is_evaluated_and_loaded_back(tmp_path):
    class Weight:
        name, higher_is_better, seen = "first weight", {"score": False}, []

        def __call__(self, objective):
            self.seen.append(objective.net[0].weight.detach().clone())
            return {"score": float(len(self.seen) != 2)}  # the second evaluation is the best

    config, kept = replace(best(), {"ema": 0.8}), []

    class Average(Callback):
        def after_step(self, trainer):
            kept.append(trainer.average.net[0].weight.detach().clone())

    trainer = fit(tmp_path / "a", Weight(), config=config, also=[Average()])
    assert all(seen.equal(kept[step - 1]) for seen, step in zip(Weight.seen, (4, 8, 12, 16, 20), strict=True))
    assert trainer.plain() is trainer.average and trainer.average.net[0].weight.equal(kept[7])


def test_lower_can_be_better_and_the_last_can_be_the_best(tmp_path):
    falling = Script(5, 4, 3, 2, 1)
    falling.higher_is_better = {"score": False}
    trainer = fit(tmp_path / "a", falling, config=best())
    assert trainer.callbacks[0].best()["step"] == 20 and steps_kept(tmp_path / "a") == [20]
    assert same(trainer, fit(tmp_path / "b"))


def test_stops_early(tmp_path):
    trainer = fit(tmp_path / "a", Script(1, 3, 2, 3, 4), config=best(patience=2))
    assert trainer.step == 16 and list(evaluations(tmp_path / "a", "score")) == [4, 8, 12, 16]
    assert steps_kept(tmp_path / "a") == [8, 16] and losses(tmp_path / "a")[-1][0] == 16
    again = fit(tmp_path / "a", Script(1, 3, 2, 3, 4), config=best(patience=2), resume=True)  # it is over
    assert again.step == 16 and same(again, trainer) and list(evaluations(tmp_path / "a", "score")) == [4, 8, 12, 16]


@pytest.mark.parametrize("stop", [2, 7, 8, 13, 16])
def test_a_resumed_run_evaluates_and_decides_as_the_whole_one(tmp_path, stop):
    scores = Script(1, 3, 2, 2, 3)
    config = best(patience=2)
    whole = fit(tmp_path / "whole", scores, Loss(), config=config)
    with pytest.raises(RuntimeError):
        fit(tmp_path / "cut", scores, Loss(), config=config, also=[CrashAt(stop)])
    cut = fit(tmp_path / "cut", scores, Loss(), config=config, resume=True)
    for name in ("score", "loss", "noise"):
        assert evaluations(tmp_path / "whole", name) == evaluations(tmp_path / "cut", name)
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut") and same(whole, cut)
    assert whole.callbacks[0].best() == cut.callbacks[0].best() and steps_kept(tmp_path / "cut") == [8, 16]


def test_a_best_checkpoint_that_cannot_be_read_costs_a_warning(tmp_path, caplog):
    class Damage(Callback):
        def after_step(self, trainer):
            if trainer.step == 12:
                (tmp_path / "a" / "checkpoints" / "step-00000008" / "state.json").write_text("{}")

    trainer = fit(tmp_path / "a", Script(1, 3, 2, 3, 0), config=best(), also=[Damage()])
    assert "The last weights are exported" in caplog.text and trainer.callbacks[0].best()["exported"] is False
    assert same(trainer, fit(tmp_path / "b"))


def test_values_that_are_not_finite_are_left_out(tmp_path, caplog):
    trainer = fit(tmp_path / "a", Script(float("nan"), 3, float("inf"), float("nan"), 5), config=best(patience=2))
    assert evaluations(tmp_path / "a", "score") == {8: 3.0} and trainer.step == 16 and trainer.callbacks[0].best()["step"] == 8
    assert "score is nan and is left out" in caplog.text
    nothing = fit(tmp_path / "b", Script(*[float("nan")] * 5), config=best(patience=2))
    assert nothing.step == 8 and nothing.callbacks[0].best() is None


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"best": "eval/loss"}, "needs train.evaluate.every"),
        ({"every": 5, "patience": 2}, "needs train.evaluate.best"),
        ({"every": 0}, "at least 1.*found 0"),
        ({"every": 5, "best": "eval/loss", "patience": 0}, "at least 1.*found 0"),
        ({"evry": 5}, "Did you mean 'every'"),
    ],
)
def test_wrong_configs(fields, words):
    with pytest.raises(ConfigError, match=words):
        from_dict(EvalConfig, fields)


def test_wrong_names():
    with pytest.raises(ConfigError, match="'loss', which is not measured here. Did you mean 'eval/loss'.*eval/loss, eval/noise"):
        Evaluate([Loss()], EvalConfig(1, "loss"))
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        Evaluate([], EvalConfig(1))
    with pytest.raises(ConfigError, match="Two evaluators give a value 'loss'"):
        Evaluate([Loss(), Loss()], EvalConfig(1))

    class Liar(Script):
        def __call__(self, objective):
            return {"skore": 1.0}

    with pytest.raises(ModelError, match="announces \\['score'\\] and gave \\['skore'\\]"):
        measure([Liar()], Fit())
