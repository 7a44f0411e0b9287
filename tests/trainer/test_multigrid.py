"""Clips whose size changes in the course of a run: the arithmetic, the stream, and runs that go on after a crash."""

import math

import pytest
import torch
from torch import nn

from tests.trainer.toy import CONFIG, Crash, lines, same, weights
from trainer.config import replace
from trainer.data import Share, Stream
from trainer.errors import ConfigError, DataError
from trainer.logs import MetricsFile
from trainer.multigrid import MultigridConfig, MultigridPlan, learning_rates, long_cycle, resample, scaled
from trainer.objective import Losses, Objective
from trainer.plan import Even, step_at
from trainer.trainer import Trainer

FULL = (8, 32, 32)


def plan(cycles="both", batch_size=4, steps=200, full=FULL, multiple=(1, 4, 4), **options):
    return MultigridPlan(MultigridConfig(cycles, **options), batch_size, steps, full, multiple)


class Clips:
    """A brightness that runs over time and a little noise: clip i has the value i / 40."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        ramp = torch.arange(8.0).view(1, 8, 1, 1).expand(3, 8, 16, 16) / 8
        return {"video": ramp + index / 40 + 0.01 * torch.randn(3, 8, 16, 16), "y": torch.tensor(index / 40)}


class Own(Clips):
    """A source that gives other sizes itself."""

    def __init__(self, size=(8, 16, 16)):
        self.size = size

    def sized(self, size):
        return Own(size)

    def __getitem__(self, index):
        return {"video": torch.full((1, *self.size), float(index))}


class Mean(Objective):
    """Regression from the mean over a clip of any size; dropout draws from the process's generator."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 1))
        self.seen = []

    def forward(self, batch):
        self.seen.append(tuple(batch["video"].shape))
        return Losses((self.net(batch["video"].mean((2, 3, 4)))[:, 0] - batch["y"]).square().mean())

    def export(self):
        return self.net


def test_the_published_schedule():
    """SlowFast's baseline of 239 epochs: the relative batches 8, 4, 2, 1 in each stage, the full shape in the last."""
    config = MultigridConfig("both", gamma=0.1)
    phases = long_cycle(config, (32, 224, 224), [0, 94, 154, 196], 239)
    assert [(p.batch, *p.size[:2]) for p in phases[:4]] == [(8, 8, 158), (4, 16, 158), (2, 16, 224), (1, 32, 224)]
    assert [p.end for p in phases] == [73, 110, 142, 158, 205, 228, 248, 259, 291, 308, 322, 329, 358]
    rates = learning_rates(phases, config.gamma)
    assert rates[-2:] == [(329, pytest.approx(0.01)), (343, pytest.approx(0.001))] and rates[0] == (0, 8.0) and len(rates) == 14


@pytest.mark.parametrize("cycles", ["short", "long", "both"])
@pytest.mark.parametrize(("batch_size", "steps"), [(1, 3), (4, 200), (7, 333)])
def test_a_plan_adds_up(cycles, batch_size, steps):
    made = plan(cycles, batch_size, steps)
    assert sum(made.batch_size(s) for s in range(made.steps)) == made.start(made.steps)
    assert all(made.start(s + 1) - made.start(s) == made.batch_size(s) for s in range(made.steps))
    wanted = round(steps * batch_size * 1.5)
    assert wanted <= made.start(made.steps) < wanted + 64 * batch_size
    assert all(side % m == 0 and side <= full for size in made.sizes() for side, m, full in zip(size, (1, 4, 4), FULL))
    done, length = made.progress(made.steps - 1)
    assert made.progress(0)[0] == 0 and done < length == made.progress(made.steps)[1]
    assert step_at(made, 0) == 0 and made.progress(step_at(made, length // 2))[0] >= length // 2


def test_the_work_of_a_step_stays_alike():
    made = plan(batch_size=8, steps=2000, full=(32, 224, 224), multiple=None)
    work = {made.batch_size(s) * math.prod(made.size(s)) / (8 * 32 * 224 * 224) for s in range(made.steps)}
    assert min(work) > 0.9 and max(work) < 1.1


def test_the_learning_rate_follows_the_long_cycle_only():
    made = plan(batch_size=8, steps=2000, gamma=1.0)
    # by the frames, which the short cycle leaves alone; at half of them the side may be the full one or not
    assert {(made.size(s)[0], made.lr(s)) for s in range(made.steps)} == {(2, 7.0), (4, 4.0), (4, 2.0), (8, 1.0)}
    short = plan("short", steps=2000)
    assert {short.lr(s) for s in range(short.steps)} == {1.0} and {short.size(s)[0] for s in range(short.steps)} == {8}
    assert [short.batch_size(s) for s in range(3)] == [16, 8, 4]


def test_sizes_are_whole_patches():
    assert scaled((16, 224, 224), 0.25, 0.5**0.5, (2, 14, 14)) == (4, 154, 154)
    assert scaled((2, 16, 16), 0.25, 0.1, (2, 16, 16)) == (2, 16, 16)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"long_factors": ((0.5, 1.0),)}, r"\(1, 1\) last"),
        ({"short_factors": (1.5,)}, "short_factors"),
        ({"stages": ()}, "at least one"),
        ({"stages": (0.5, 0.2)}, "rising order"),
        ({"gamma": 0.0}, "gamma"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(ConfigError, match=words):
        MultigridConfig("both", **options)


def test_clips_are_thinned_and_made_smaller():
    clip = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(2, 3, 8, 16, 24)
    small = resample(clip, (4, 8, 12))
    assert small.shape == (2, 3, 4, 8, 12) and torch.allclose(small[0, 0, :, 0, 0], torch.tensor([0.0, 2, 4, 6]))
    assert resample(clip, (3, 16, 24))[0, 0, :, 0, 0].tolist() == [0, 2, 4] and resample(clip, (8, 16, 24)).equal(clip)
    with pytest.raises(DataError, match="makes clips"):
        resample(clip, (16, 16, 24))


def test_the_stream_is_a_function_of_seed_and_step():
    made = plan(steps=20, full=(8, 16, 16))
    whole = list(Stream(Clips(), 4, 5, 0, made).batches(0, workers=0))
    assert [tuple(b["video"].shape) for b in whole] == [(made.batch_size(s), 3, *made.size(s)) for s in range(made.steps)]
    for first, workers in ((1, 0), (made.steps // 2, 2), (made.steps - 1, 0)):
        rest = list(Stream(Clips(), 4, 5, 0, made).batches(first, workers))
        assert len(rest) == made.steps - first
        assert all(torch.equal(a[k], b[k]) for a, b in zip(whole[first:], rest) for k in ("video", "y", "sample_key"))
    ranks = [list(Stream(Clips(), 4, 5, 0, made).batches(0, 0, Share(rank, 2))) for rank in (0, 1)]
    assert all(torch.cat([a["video"], b["video"]]).equal(w["video"]) for a, b, w in zip(*ranks, whole))
    seen = torch.cat([b["y"] for b in whole])[:40]
    assert len(seen.unique()) == 40  # an epoch holds every sample once, whatever the batches


def test_a_source_that_knows_other_sizes_is_asked_for_them():
    made = plan(steps=20, full=(8, 16, 16))
    batches = list(Stream(Own(), 4, 5, 0, made).batches(0, workers=0))
    assert [tuple(b["video"].shape[2:]) for b in batches] == [made.size(s) for s in range(made.steps)]


def test_a_source_without_the_entry_is_refused():
    made = MultigridPlan(MultigridConfig("short"), 4, 20, (8, 16, 16), entry="volume")
    with pytest.raises(DataError, match=r"batch\['volume'\]; the source gives video, y"):
        next(Stream(Clips(), 4, 5, 0, made).batches(0, workers=0))


def fit(folder, *callbacks, resume=False, **changes):
    config = replace(CONFIG, {"batch_size": 4, "steps": 80, "multigrid.cycles": "both", "save_every": 3, "log_every": 2, **changes})
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    made = MultigridPlan(config.multigrid, 4, 80, (8, 16, 16), (2, 4, 4))
    trainer = Trainer(Mean(), Clips(), config, folder, [MetricsFile(), *callbacks], plan=made)
    trainer.fit(resume=resume)
    return trainer


@pytest.mark.parametrize("changes", [{}, {"accumulate": 3, "ema": 0.9}, {"workers": 2}], ids=["plain", "micro-batches", "workers"])
def test_crashes_leave_no_trace(tmp_path, changes):
    whole = fit(tmp_path / "whole", **changes)
    assert whole.step == whole.plan.steps and len({shape[2:] for shape in whole.objective.seen}) > 3
    for step in (1, 4, 7):
        with pytest.raises(RuntimeError, match="power cut"):
            fit(tmp_path / "cut", Crash(step), resume=step != 1, **changes)
    cut = fit(tmp_path / "cut", resume=True, **changes)
    assert same(weights(cut), weights(whole)) and lines(tmp_path / "cut") == lines(tmp_path / "whole")
    assert lines(tmp_path / "cut")[-1]["samples"] == whole.plan.start(whole.plan.steps)


def test_the_learning_rate_of_a_run(tmp_path):
    """Constant beneath: what is logged is the peak times the relative batch of the long cycle."""
    run = fit(tmp_path / "a", **{"schedule.name": "constant", "schedule.warmup": 0.0, "log_every": 1})
    assert [line["lr"] for line in lines(tmp_path / "a")] == [pytest.approx(1e-2 * run.plan.lr(s)) for s in range(run.steps)]


def test_a_milestone_is_kept_where_the_samples_have_come_to_it(tmp_path):
    run = fit(tmp_path / "a", **{"schedule.name": "wsd", "schedule.decay": 0.5})
    (milestone,) = run.saver.milestones
    assert run.plan.progress(milestone)[0] >= run.plan.progress(0)[1] // 2 > run.plan.progress(milestone - 1)[0]


def test_the_option_needs_a_plan(tmp_path):
    with pytest.raises(ConfigError, match="needs a plan"):
        Trainer(Mean(), Clips(), replace(CONFIG, {"multigrid.cycles": "long"}), tmp_path)
    assert Even(4, 10).start(10) == 40 and Even(4, 10).size(3) is None
