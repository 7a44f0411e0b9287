"""Experiment trackers, with one that writes nowhere and with accelerate's own for TensorBoard."""

import random

import matplotlib.image
import numpy as np
import pytest
from accelerate import tracking
from accelerate.utils import LoggerType

from tests.trainer.toy import CONFIG, fit, lines, same, weights
from trainer.callback import Callback
from trainer.config import replace
from trainer.errors import ConfigError, MissingDependencyError, TrainingError
from trainer.logs import Pictures
from trainer.trackers import Trackers, require


class Memory(tracking.GeneralTracker):
    """Keeps what it is given."""

    name, requires_logging_directory = "memory", False
    made: list["Memory"] = []

    def __init__(self, project, **options):
        self.project, self.options, self.config, self.logged, self.shown, self.finished = project, options, None, [], [], []
        self.made.append(self)

    @property
    def tracker(self):
        return self

    def start(self):
        random.random()  # as trackers do that invent a name

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step=None, **options):
        random.random()
        self.logged.append((step, values))

    def log_images(self, values, step=None, **options):
        self.shown.append((step, {k: (v.shape, v.dtype.name) for k, v in values.items()}, options))

    def finish(self, exit_code=0):
        self.finished.append(exit_code)


class Broken(Memory):
    name = "broken"

    def log(self, values, step=None, **options):
        self.logged.append(step)
        raise ConnectionError("no route to host")

    def finish(self, exit_code=0):
        raise ConnectionError("no route to host")


class Locked(Memory):
    name = "locked"

    def start(self):
        raise PermissionError("No account. ")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Our trackers beside accelerate's, as `accelerate.tracking.register_tracker_class` puts them; `wandb` stands for W&B."""
    own = {kind.name: kind for kind in (Memory, Broken, Locked)}
    monkeypatch.setattr(tracking, "LOGGER_TYPE_TO_CLASS", {**tracking.LOGGER_TYPE_TO_CLASS, **own})
    monkeypatch.setattr(Memory, "made", [])
    monkeypatch.delenv("WANDB_PROJECT", raising=False)


@pytest.fixture
def fake_wandb(monkeypatch):
    kind = type("FakeWandB", (Memory,), {"name": "wandb"})
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", kind)
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.WANDB])


class Crash(Callback):
    def after_step(self, trainer):
        if trainer.step == 17:
            raise RuntimeError("power cut")


def test_scalars_recipe_and_pictures(tmp_path):
    def draw(objective, path, title):
        matplotlib.image.imsave(path, np.ones((4, 6, 3)))

    trackers = Trackers(("memory", "memory"), {"train.steps": 30, "data.path": None, "betas": (0.9, 0.95), "flip": True})
    fit(tmp_path / "a", trackers, Pictures(draw, trackers))
    (tracker,) = Memory.made
    assert tracker.project == "modality-zoo" and tracker.finished == [0]
    assert tracker.config == {"train.steps": 30, "data.path": "None", "betas": "(0.9, 0.95)", "flip": True}
    assert [step for step, _ in tracker.logged] == list(range(3, 31, 3)) and {"loss", "rmse", "lr"} <= set(tracker.logged[0][1])
    assert tracker.shown == [(step, {"pictures": ((1, 4, 6, 3), "uint8")}, {}) for step in (15, 30)]


def test_training_computes_the_same_with_trackers(tmp_path):
    class Draws(Callback):
        def after_step(self, trainer):
            seen.append(random.random())

    seen: list[float] = []
    plain = fit(tmp_path / "a", Draws())
    without, seen = seen, []
    tracked = fit(tmp_path / "b", Trackers(("memory",), {}), Draws())
    assert seen == without and same(weights(plain), weights(tracked)) and lines(tmp_path / "a") == lines(tmp_path / "b")


def test_accelerates_tensorboard_tracker(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def draw(objective, path, title):
        matplotlib.image.imsave(path, np.ones((4, 6, 3)))

    class NaN(Callback):
        def log(self, trainer, metrics):
            metrics["bad"] = float("nan")

    trackers = Trackers(("tensorboard",), {"train.steps": 30})
    fit(tmp_path / "a", NaN(), trackers, Pictures(draw, trackers))
    events = EventAccumulator(str(tmp_path / "a" / "trackers" / "modality-zoo")).Reload()
    assert len(events.Scalars("loss")) == 10 and "bad" not in events.Tags()["scalars"] and events.Tags()["images"] == ["pictures"]


def test_wandb_goes_on_with_the_same_run(tmp_path, fake_wandb, monkeypatch):
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path / "a", Trackers(("wandb",), {"x": 1}), Crash())
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    fit(tmp_path / "a", Trackers(("wandb",), {"x": 1}), resume=True)
    first, second = Memory.made
    assert first.options == second.options == {"id": first.options["id"], "resume": "allow", "dir": str(tmp_path / "a"), "name": "a"}
    assert first.finished == [1] and second.finished == [0]  # failed, then done
    assert (first.project, second.project) == ("modality-zoo", "mine") and first.config == {"x": 1} and second.config is None
    assert second.logged[0][0] == 12
    fit(tmp_path / "b", Trackers(("wandb",), {}))
    assert Memory.made[-1].options["id"] != first.options["id"]


def test_a_tracker_added_on_resume_begins_a_run(tmp_path, fake_wandb):
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path / "a", Crash())
    fit(tmp_path / "a", Trackers(("wandb",), {"x": 1}), resume=True)
    assert Memory.made[0].config == {"x": 1}


def test_a_failing_tracker_is_left_alone_and_the_run_goes_on(tmp_path, caplog):
    trainer = fit(tmp_path / "a", Trackers(("broken", "memory"), {}))
    broken, healthy = Memory.made
    assert trainer.step == 30 and broken.logged == [3, 6, 9] and len(healthy.logged) == 10
    assert caplog.text.count("no route to host") == 4 and "nothing more is sent to it" in caplog.text and "did not close" in caplog.text


def test_a_tracker_that_cannot_start_stops_the_run_at_once(tmp_path):
    with pytest.raises(TrainingError, match=r"locked did not start: No account\. Check its settings"):
        fit(tmp_path / "a", Trackers(("memory", "locked"), {}))
    assert not list((tmp_path / "a").glob("checkpoints/step*")) and Memory.made[0].finished == [0]


def test_unknown_and_missing_names(monkeypatch):
    with pytest.raises(ConfigError, match="'wanbd' is no tracker. Did you mean 'wandb'"):
        Trackers(("wanbd",), {})
    monkeypatch.setattr(tracking, "_available_trackers", [])
    with pytest.raises(MissingDependencyError, match=r"pip install 'modality-zoo\[wandb\]'"):
        require("wandb")
    with pytest.raises(MissingDependencyError, match="pip install 'comet-ml'"):
        require("comet_ml")
    require("memory")
    with pytest.raises(ConfigError, match="'all' is no tracker"):
        require("all")


def test_only_the_main_process_sends(tmp_path):
    from types import SimpleNamespace

    trackers = Trackers(("memory",), {})
    trainer = SimpleNamespace(processes=SimpleNamespace(main=False), step=3, steps=30, folder=tmp_path)
    trackers.start(trainer)
    trackers.log(trainer, {"loss": 1.0})
    trackers.close(trainer)
    assert not Memory.made


def test_the_recipe_takes_a_list():
    assert replace(CONFIG, {"trackers": ["wandb", "mlflow"]}).trackers == ("wandb", "mlflow")
