import os
import signal

import pytest
import torch
from torch import nn

from tests.trainer.toy import CONFIG, Fit, fit, lines, same, weights
from trainer.callback import Callback
from trainer.checkpoint import Snapshot, list_checkpoints, load_checkpoint, newest
from trainer.config import replace
from trainer.errors import CheckpointError, ConfigError, Interrupted, TrainingError
from trainer.logs import Pictures, TensorBoard
from trainer.objective import Losses
from trainer.optim import OptimConfig
from trainer.recipe import Recipe, TrainConfig, difference, read_recipe, settle
from trainer.schedule import ScheduleConfig
from trainer.state import decode, encode

class SignalAt(Callback):
    def __init__(self, step, number=signal.SIGINT):
        self.at, self.number = step, number

    def after_step(self, trainer):
        if trainer.step == self.at:
            os.kill(os.getpid(), self.number)


def test_same_seed_same_losses_to_the_last_bit(tmp_path):
    first, second = fit(tmp_path / "a"), fit(tmp_path / "b")
    assert lines(tmp_path / "a") == lines(tmp_path / "b") and same(weights(first), weights(second))
    logged = lines(tmp_path / "a")
    assert [line["step"] for line in logged] == list(range(3, 31, 3)) and logged[-1]["loss"] < logged[0]["loss"]
    assert set(logged[0]) == {"step", "samples", "loss", "rmse", "grad_norm", "lr"}


@pytest.mark.parametrize("stop", [1, 14, 29])  # in the warm-up, between two log lines, before the last step
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_resumes_exactly(tmp_path, stop, number):
    whole = fit(tmp_path / "whole")
    with pytest.raises(Interrupted, match=f"step {stop} of 30"):
        fit(tmp_path / "cut", SignalAt(stop, number))
    cut = fit(tmp_path / "cut", resume=True)
    assert same(weights(whole), weights(cut)) and lines(tmp_path / "whole") == lines(tmp_path / "cut")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_resume_after_a_crash_between_checkpoints(tmp_path):
    class Crash(Callback):
        def after_step(self, trainer):
            if trainer.step == 17:
                raise RuntimeError("power cut")

    whole = fit(tmp_path / "whole")
    with pytest.raises(RuntimeError):
        fit(tmp_path / "cut", Crash())
    (tmp_path / "cut" / "checkpoints" / ".tmp-step-00000020-ab").mkdir()  # as kill -9 inside a save leaves it
    cut = fit(tmp_path / "cut", resume=True)
    assert same(weights(whole), weights(cut)) and lines(tmp_path / "whole") == lines(tmp_path / "cut")
    assert sorted(p.name for p in (tmp_path / "cut" / "checkpoints").iterdir()) == ["step-00000020", "step-00000030"]


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, caplog):
    whole = fit(tmp_path / "a")
    file = tmp_path / "a" / "checkpoints" / "step-00000030" / "state" / "tensors.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    again = fit(tmp_path / "a", resume=True)
    assert "cannot be used" in caplog.text and same(weights(whole), weights(again))
    for path in list_checkpoints(tmp_path / "a" / "checkpoints"):
        (path / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="No checkpoint"):
        fit(tmp_path / "a", resume=True)


def test_checkpoint_of_another_model(tmp_path):
    fit(tmp_path / "a")
    other = Fit()
    other.net[0] = nn.Linear(4, 8)
    with pytest.raises(CheckpointError, match="another model"):
        fit(tmp_path / "a", resume=True, objective=other)


def test_nan_stops_with_a_diagnosis_and_keeps_the_good_checkpoint(tmp_path):
    class Poison(Callback):
        def losses(self, trainer, batch, losses):
            return Losses(losses.loss * float("nan"), {}) if trainer.step >= 20 else losses

    with pytest.raises(TrainingError, match=r"NaN.* in 4 steps in a row, the last at step 23: loss nan.*learning rate .*samples \d+, .*and 8 more"):
        fit(tmp_path / "a", Poison(), config=replace(CONFIG, {"guard.max_skipped": 4}))
    path = newest(tmp_path / "a" / "checkpoints")
    assert path.name == "step-00000020" and load_checkpoint(path)["objective"]["net.0.weight"].isfinite().all()
    with pytest.raises(CheckpointError, match="NaN"):
        Snapshot(21, {"objective": {"w": torch.tensor(float("nan"))}}, [{}], sharded=False)


def test_full_disk_during_a_save_keeps_the_last_checkpoint(tmp_path, full_disk):
    class Fill(Callback):
        def after_step(self, trainer):
            if trainer.step == 15:
                full_disk(3000)

    with pytest.raises(CheckpointError, match="Cannot write"):
        fit(tmp_path / "a", Fill())
    full_disk(10**9)
    assert [p.name for p in (tmp_path / "a" / "checkpoints").iterdir()] == ["step-00000010"]
    whole, cut = fit(tmp_path / "whole"), fit(tmp_path / "a", resume=True)
    assert same(weights(whole), weights(cut))


def test_every_hook_is_called_at_its_place(tmp_path):
    seen = []

    class All(Callback):
        def prepare_model(self, trainer):
            seen.append("prepare_model")

        def parameter_groups(self, trainer, groups):
            seen.append("parameter_groups")
            return groups

        def make_optimizer(self, trainer, optimizer):
            seen.append("make_optimizer")
            return optimizer

        def start(self, trainer):
            seen.append("start")

        def lr(self, trainer, lr):
            seen.append("lr")
            return 0.0

        def batch(self, trainer, batch):
            seen.append("batch")
            return batch

        def losses(self, trainer, batch, losses):
            seen.append("losses")
            return losses

        def after_backward(self, trainer):
            seen.append("after_backward")

        def after_step(self, trainer):
            seen.append("after_step")

        def log(self, trainer, metrics):
            seen.append("log")

        def end_of_phase(self, trainer):
            seen.append("end_of_phase")

        def close(self, trainer):
            seen.append("close")

        def state_dict(self):
            return {"tensor": torch.ones(2), "list": [1, "a"]}

        def load_state_dict(self, state):
            assert state["tensor"].equal(torch.ones(2)) and state["list"] == [1, "a"]
            seen.append("load_state_dict")

    config = TrainConfig(batch_size=4, steps=1, log_every=1, pictures=0, optim=OptimConfig(lr=1.0, weight_decay=0.0))
    before = Fit()
    initial = {k: v.clone() for k, v in before.state_dict().items()}
    trainer = fit(tmp_path / "a", All(), config=config, objective=before)
    assert seen == ["prepare_model", "parameter_groups", "make_optimizer", "start", "lr", "batch", "losses", "after_backward", "after_step", "log", "end_of_phase", "close"]
    assert same(initial, weights(trainer))  # the hook set the learning rate to 0
    seen.clear()
    fit(tmp_path / "a", All(), config=config, resume=True)
    assert "load_state_dict" in seen and "batch" not in seen


def test_pictures_and_tensorboard(tmp_path):
    def draw(objective, path, title):
        assert isinstance(objective, Fit)
        import matplotlib.image
        import numpy as np

        matplotlib.image.imsave(path, np.zeros((4, 4, 3)))

    board = TensorBoard()
    fit(tmp_path / "a", board, Pictures(draw, board))
    assert [p.name for p in sorted((tmp_path / "a" / "pictures").iterdir())] == ["step-00000015.png", "step-00000030.png"]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "a" / "tensorboard")).Reload()
    assert len(events.Scalars("loss")) == 10 and len(events.Images("pictures")) == 2


def test_state_codec():
    import random

    import numpy as np

    tree = {"a": torch.ones(2), 1: (None, [2.5, "x"]), "n": np.random.get_state(), "p": random.getstate(), "t": True, "d": torch.bfloat16}
    tensors = {}
    encoded = encode(tree, "", tensors)
    back = decode(__import__("json").loads(__import__("json").dumps(encoded)), tensors)
    assert back[1] == (None, [2.5, "x"]) and back["p"] == random.getstate() and back["t"] is True and back["d"] is torch.bfloat16
    np.random.set_state(back["n"])
    assert (back["n"][1] == tree["n"][1]).all() and back["n"][1].dtype == np.uint32
    with pytest.raises(CheckpointError, match="plain values"):
        encode({"f": object()}, "", {})


def test_train_config(tmp_path):
    assert TrainConfig(steps=7).total_steps(100) == 7 and TrainConfig(batch_size=32, epochs=3).total_steps(100) == 10
    assert TrainConfig(batch_size=32, samples=65).total_steps(100) == 3
    for wrong in ({"steps": 1, "epochs": 1.0}, {}):
        with pytest.raises(ConfigError, match="Give one of train.steps, train.samples and train.epochs"):
            TrainConfig(**wrong).total_steps(10)
    for wrong in ({"batch_size": 0}, {"steps": -1}, {"workers": -1}, {"ema": 1.0}, {"samples": 0}, {"accumulate": 0}, {"save_async": True, "parallel": "fsdp"}):
        with pytest.raises(ConfigError):
            TrainConfig(**wrong)
    recipe = Recipe("x", CONFIG)
    recipe.save(tmp_path / "r.yaml")
    assert read_recipe(tmp_path / "r.yaml", Recipe()) == recipe
    assert difference(recipe, Recipe("x", replace(CONFIG, {"steps": 31}))) == ["train.steps: 30 -> 31"]


def test_a_changed_field_replaces_its_other_form():
    base = Recipe("x", CONFIG)  # 30 steps, lr 1e-2
    assert settle(replace(base, {"train.epochs": 2.0}), base).train.total_steps(160) == 20
    assert settle(replace(base, {"train.optim.base_lr": 0.5}), base).train.optim.peak_lr(512) == 1.0
    assert settle(replace(base, {"train.steps": 7}), base).train.total_steps(160) == 7
    both = replace(base, {"train.steps": 7, "train.epochs": 2.0})
    assert settle(both, base) == both and settle(base, base) == base


def test_runs_of_different_precision_in_one_process(tmp_path):
    losses = {}
    for name, precision in (("a", "fp32"), ("b", "bf16"), ("c", "fp32")):
        trainer = fit(tmp_path / name, config=replace(CONFIG, {"precision": precision}))
        assert trainer.objective.net[0].weight.dtype == torch.float32
        losses[name] = [line["loss"] for line in lines(tmp_path / name)]
    assert losses["a"] == losses["c"] != losses["b"] and losses["a"] == pytest.approx(losses["b"], rel=0.1)


def test_two_callbacks_of_one_class_keep_their_own_state(tmp_path):
    class Count(Callback):
        def __init__(self, by):
            self.by, self.total = by, 0

        def after_step(self, trainer):
            self.total += self.by

        def state_dict(self):
            return {"total": self.total}

        def load_state_dict(self, state):
            self.total = state["total"]

    fit(tmp_path / "a", Count(1), Count(10))
    one, ten = Count(1), Count(10)
    fit(tmp_path / "a", one, ten, resume=True)
    assert (one.total, ten.total) == (30, 300)


def test_out_of_memory_names_the_batch_size(tmp_path):
    class Hungry(Callback):
        def after_backward(self, trainer):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(TrainingError, match="train.batch_size=16"):
        fit(tmp_path / "a", Hungry())


def test_the_state_before_annealing_is_kept_for_the_next_task(tmp_path):
    """A stream: task 1 begins where task 0 was before it annealed, with the learning rate of the constant phase."""
    schedule = ScheduleConfig("infinite", warmup_steps=2, cooldown_steps=4, decay_steps=5)
    config = replace(CONFIG, {"schedule": schedule, "log_every": 1, "keep_last": 1})
    fit(tmp_path / "0", config=config)
    logged = lines(tmp_path / "0")
    assert [line["lr"] for line in logged] == [schedule.lr(step, 30, 1e-2, 16) for step in range(30)]
    assert logged[24]["lr"] == logged[10]["lr"] == 2.5e-3 > logged[29]["lr"]
    before = {path.name: path for path in list_checkpoints(tmp_path / "0" / "checkpoints")}
    assert list(before) == ["step-00000025", "step-00000030"]
    objective = Fit()
    objective.load_state_dict(load_checkpoint(before["step-00000025"])["objective"])
    following = replace(config, {"schedule": ScheduleConfig("infinite", task=1)})
    fit(tmp_path / "1", config=following, objective=objective)
    rates = [line["lr"] for line in lines(tmp_path / "1")]
    assert set(rates[:25]) == {2.5e-3} and rates[-1] < 2e-4


def test_resuming_in_mid_annealing(tmp_path):
    config = replace(CONFIG, {"schedule": ScheduleConfig("wsd", decay=0.5)})
    whole = fit(tmp_path / "whole", config=config)
    with pytest.raises(Interrupted):
        fit(tmp_path / "cut", SignalAt(22), config=config)
    assert same(weights(fit(tmp_path / "cut", resume=True, config=config)), weights(whole))
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


def test_a_schedule_that_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="do not fit a run of 30 steps"):
        fit(tmp_path, config=replace(CONFIG, {"schedule": ScheduleConfig(warmup_steps=31)}))
    assert not list(tmp_path.iterdir())


def test_a_folder_with_checkpoints_is_not_begun_anew(tmp_path):
    fit(tmp_path / "a")
    with pytest.raises(ConfigError, match="earlier run"):
        fit(tmp_path / "a")
