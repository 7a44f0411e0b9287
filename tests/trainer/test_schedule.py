"""Schedules against the libraries that have them, against formulas of their papers, and at their edges."""

import math
from dataclasses import fields

import pytest
import transformers
from timm.scheduler import CosineLRScheduler
from timm.scheduler.wsd_lr import WSDLRScheduler

from tests.trainer.references import PEAK, infinite_as_published, of_timm, of_torch
from trainer.config import from_dict, replace, to_dict
from trainer.errors import ConfigError
from trainer.recipe import Recipe, TrainConfig, settle
from trainer.schedule import TAKES, ScheduleConfig

EVERY = {
    "constant": {},
    "linear": {"floor": 0.2},
    "cosine": {"floor": 0.1},
    "wsd": {"floor": 0.05, "decay": 0.3},
    "inverse_sqrt": {},
    "infinite": {},
    "rewarm": {},
    "power": {"power_a": 0.05},
}
"""Fields with which each schedule is tried."""


def values(config, steps, count=None, peak=PEAK, samples=64):
    return [config.lr(step, steps, peak, samples) for step in range(steps if count is None else count)]


def same(found, expected):
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_warmup_and_cosine_follow_mae():
    """Against the rule of the specification, per iteration in fractional epochs."""
    epochs, warmup, per_epoch, peak, low = 100, 5, 20, 1e-3, 1e-6
    config = ScheduleConfig(warmup=warmup / epochs, floor=low / peak)
    for step in (0, 1, 50, 99, 100, 101, 1000, 1999):
        epoch = step / per_epoch
        expected = peak * epoch / warmup if epoch < warmup else low + (peak - low) * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))
        assert config.lr(step, epochs * per_epoch, peak, 1) == pytest.approx(expected, rel=1e-9)


def test_the_default_is_a_warmup_of_5_percent_and_a_cosine_to_0():
    assert values(ScheduleConfig(), 100) == values(ScheduleConfig(warmup=0.05, floor=0.0), 100)
    assert ScheduleConfig().warmup_length(2400) == 120


@pytest.mark.parametrize("warmup, total", [(0, 30), (1, 2), (7, 31), (12, 90)])
def test_linear_cosine_and_constant_of_transformers(warmup, total):
    same(values(ScheduleConfig("linear", warmup_steps=warmup), total), of_torch(lambda o: transformers.get_linear_schedule_with_warmup(o, warmup, total), total))
    same(values(ScheduleConfig(warmup_steps=warmup), total), of_torch(lambda o: transformers.get_cosine_schedule_with_warmup(o, warmup, total), total))
    same(values(ScheduleConfig("constant", warmup_steps=warmup), total), of_torch(lambda o: transformers.get_constant_schedule_with_warmup(o, warmup), total))
    make = transformers.optimization.get_cosine_with_min_lr_schedule_with_warmup
    same(values(ScheduleConfig(warmup_steps=warmup, floor=0.3), total), of_torch(lambda o: make(o, warmup, total, min_lr_rate=0.3), total))


@pytest.mark.parametrize("warmup, timescale", [(0, None), (0, 25), (9, None), (9, 40)])
def test_inverse_sqrt_of_transformers(warmup, timescale):
    config = ScheduleConfig("inverse_sqrt", warmup_steps=warmup, timescale=timescale)
    make = transformers.optimization.get_inverse_sqrt_schedule
    same(values(config, None, 120), of_torch(lambda o: make(o, warmup, timescale), 120))


@pytest.mark.parametrize("style", ["linear", "cosine", "1-sqrt"])
@pytest.mark.parametrize("warmup, decay, total, floor", [(5, 10, 40, 0.1), (0, 1, 9, 0.0), (3, 57, 60, 0.02), (11, 20, 64, 0.5)])
def test_wsd_of_transformers(style, warmup, decay, total, floor):
    config = ScheduleConfig("wsd", warmup_steps=warmup, decay_steps=decay, decay_style=style, warmup_style=style, floor=floor)
    make = transformers.optimization.get_wsd_schedule
    expected = of_torch(lambda o: make(o, warmup, decay, total, warmup_type=style, decay_type=style, min_lr_ratio=floor), total + 3)
    same(values(config, total, total + 3), expected)
    assert config.milestones(total) == [total - decay]


@pytest.mark.parametrize("style", ["linear", "cosine", "1-sqrt"])
@pytest.mark.parametrize("warmup, decay, rest, low, start", [(4, 8, 40, 1e-5, 0.0), (0, 5, 20, 0.0, 0.0), (6, 30, 30, 1e-4, 1e-3)])
def test_wsd_of_timm(style, warmup, decay, rest, low, start):
    """timm counts the warm-up apart and starts it at 0 (or at warmup_lr_init), not at the floor."""
    config = ScheduleConfig("wsd", warmup_steps=warmup, decay_steps=decay, decay_style=style, floor=low / PEAK, warmup_start=start / PEAK)
    options = dict(t_initial=rest, decay_t=decay, lr_min=low, decay_fn=style, warmup_t=warmup, warmup_lr_init=start, t_in_epochs=False)
    same(values(config, warmup + rest, warmup + rest + 3), of_timm(lambda o: WSDLRScheduler(o, **options), warmup + rest + 3))


def test_cosine_of_timm():
    config = ScheduleConfig(warmup_steps=5, warmup_start=1e-4 / PEAK, floor=1e-5 / PEAK)
    options = dict(t_initial=40, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-4, warmup_prefix=True, t_in_epochs=False)
    same(values(config, 45), of_timm(lambda o: CosineLRScheduler(o, **options), 45))


@pytest.mark.parametrize("task", [0, 1, 5])
@pytest.mark.parametrize("style", ["cosine", "inverse_sqrt", "linear"])
@pytest.mark.parametrize("total, ratios", [(60, (0.05, 0.15, 0.8)), (100, (0.29, 0.57, 0.57)), (37, (0.1, 0.1, 0.9)), (500, (0.01, 0.3, 0.999))])
def test_infinite(total, ratios, style, task):
    """The ratios are cumulative and cut down to whole steps: 0.29 of 100 is 28."""
    warm, cool, end = ratios
    config = ScheduleConfig("infinite", warmup=warm, cooldown_end=cool, constant_end=end, cooldown_style=style, constant_lr=0.4, floor=0.02, task=task)
    expected = [infinite_as_published(i, total, warm, cool, end, PEAK, 0.4 * PEAK, 0.02 * PEAK, style, task) for i in range(total)]
    same(values(config, total), expected)
    assert config.milestones(total) == [int(end * total)]


def test_infinite_without_a_known_end():
    """The constant phase goes on until a total says when to anneal, and what came before does not change then."""
    config = ScheduleConfig("infinite", warmup_steps=10, cooldown_steps=20, decay_steps=15)
    assert config.milestones(None) == [] and config.milestones(500) == [485]
    assert config.lr(10**9, None, PEAK, 1) == pytest.approx(0.25 * PEAK)
    for total in (45, 100, 1000):
        begin = total - 15
        assert values(config, None, begin) == values(config, total, begin)
        assert config.lr(total, total, PEAK, 1) == pytest.approx(0.01 * PEAK)
    assert ScheduleConfig("infinite", task=1).lr(0, None, PEAK, 1) == 0.25 * PEAK
    with pytest.raises(ConfigError, match="warmup_steps"):
        ScheduleConfig("infinite").lr(0, None, PEAK, 1)
    with pytest.raises(ConfigError, match="cooldown_steps"):
        ScheduleConfig("infinite", warmup_steps=1).lr(0, None, PEAK, 1)


def test_a_warmup_that_is_cut_down_to_nothing():
    """4 % of 20 steps are 0 steps; the published code divides by it."""
    config = ScheduleConfig("infinite", warmup=0.04, cooldown_end=0.2)
    assert config.warmup_length(20) == 0 and config.lr(0, 20, PEAK, 1) == PEAK


def test_rewarm():
    config = ScheduleConfig("rewarm")
    assert config.warmup_length(1000) == 10
    assert config.lr(10, 1000, PEAK, 1) == PEAK and config.lr(1000, 1000, PEAK, 1) == pytest.approx(0.1 * PEAK)
    assert values(config, 1000) == values(ScheduleConfig(warmup=0.01, floor=0.1), 1000)
    from_old = ScheduleConfig("rewarm", warmup_start=0.1)  # where an earlier run ended
    assert from_old.lr(0, 1000, PEAK, 1) == pytest.approx(0.1 * PEAK)


def test_power_is_a_law_of_the_data_seen():
    config = ScheduleConfig("power", warmup_steps=8, power_a=0.05, power_b=-0.51)
    for step in (8, 9, 100, 10_000):
        assert config.lr(step, None, PEAK, 64) == pytest.approx(min(PEAK, 0.05 * (step * 64) ** -0.51), rel=1e-12)
    top = 0.05 * (8 * 64) ** -0.51  # the warm-up aims at the law, not at the peak
    assert top < PEAK and values(config, None, 9) == pytest.approx([top * i / 8 for i in range(9)])
    assert ScheduleConfig("power", warmup_steps=0, power_a=0.05).lr(0, None, PEAK, 64) == PEAK
    assert ScheduleConfig("power", warmup_steps=8, power_a=0.05).lr(500, None, 10 * PEAK, 64) == config.lr(500, None, PEAK, 64)  # only a bound


def test_power_with_half_the_batch_and_twice_the_steps():
    config = ScheduleConfig("power", warmup=0.1, power_a=0.05, decay=0.2)
    for step in range(200):
        assert config.lr(step, 200, PEAK, 64) == pytest.approx(config.lr(2 * step, 400, PEAK, 32), rel=1e-12)


@pytest.mark.parametrize("name", [n for n, taken in TAKES.items() if "decay_floor" in taken])
@pytest.mark.parametrize("style", ["linear", "cosine", "1-sqrt", "exponential"])
def test_a_tail_on_any_schedule(name, style):
    plain = ScheduleConfig(name, **EVERY[name])
    tailed = ScheduleConfig(name, **EVERY[name], decay_steps=20, decay_style=style, decay_floor=0.25)
    assert values(tailed, 200, 181) == values(plain, 200, 181)
    top = plain.lr(180, 200, PEAK, 64)
    assert tailed.lr(200, 200, PEAK, 64) == pytest.approx(0.25 * top)
    half = {"linear": 0.625, "cosine": 0.625, "1-sqrt": 1 - 0.75 * math.sqrt(0.5), "exponential": 0.5}[style]
    assert tailed.lr(190, 200, PEAK, 64) == pytest.approx(half * top)
    assert plain.milestones(200) == [] and tailed.milestones(200) == [180]


@pytest.mark.parametrize("name", TAKES)
@pytest.mark.parametrize("decay", [None, 0.25])
def test_no_jump_between_phases(name, decay):
    """On a run of many steps the learning rate never moves by more than a little from one step to the next."""
    options = EVERY[name] | ({"decay": decay} if decay and "decay" in TAKES[name] else {})
    found = values(ScheduleConfig(name, **options), 20_000)
    assert max(abs(a - b) for a, b in zip(found, found[1:])) < PEAK / 100 and 0 <= min(found) and max(found) <= PEAK * (1 + 1e-12)


@pytest.mark.parametrize("name", TAKES)
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 20, 21])
@pytest.mark.parametrize("warmup", [0.0, None, 0.9])
def test_short_runs(name, steps, warmup):
    options = EVERY[name] | ({"cooldown_end": 0.95, "constant_end": 0.95} if name == "infinite" else {})
    if name == "wsd":
        options = options | {"decay": 0.1}
    config = ScheduleConfig(name, warmup=warmup, **options)
    found = values(config, steps, steps + 2)
    assert all(math.isfinite(v) and 0 <= v <= PEAK * (1 + 1e-12) for v in found)
    assert all(0 < m < steps for m in config.milestones(steps))
    assert warmup != 0.0 or found[0] == PEAK


def test_the_whole_run_is_warmup():
    assert values(ScheduleConfig(warmup_steps=10), 10) == pytest.approx([PEAK * i / 10 for i in range(10)])


@pytest.mark.parametrize("name", TAKES)
def test_resuming_is_evaluating(name):
    """The value of a step does not depend on what was asked before."""
    config = ScheduleConfig(name, **EVERY[name])
    forwards = values(config, 50)
    assert [config.lr(step, 50, PEAK, 64) for step in reversed(range(50))] == forwards[::-1]


@pytest.mark.parametrize("name", TAKES)
def test_open_ended(name):
    options = EVERY[name] | {"warmup_steps": 4} | ({"cooldown_steps": 3} if name == "infinite" else {})
    config = ScheduleConfig(name, **options)
    if name in ("linear", "cosine", "rewarm"):
        with pytest.raises(ConfigError, match="how long the run is"):
            config.lr(0, None, PEAK, 64)
    else:
        assert values(config, None, 50) == values(config, 1000, 50)


OTHERS = {
    "floor": 0.1, "horizon": 1.25, "decay": 0.1, "decay_steps": 3, "decay_style": "linear", "decay_floor": 0.1, "timescale": 5.0, "cooldown_end": 0.2, "cooldown_steps": 3,
    "cooldown_style": "linear", "constant_lr": 0.5, "constant_end": 0.7, "task": 1, "power_a": 1.0, "power_b": -0.4,
    "warmup": 0.1, "warmup_steps": 3, "warmup_start": 0.1, "warmup_style": "cosine",
}  # fmt: skip


def test_every_field_belongs_to_a_schedule():
    names = {f.name for f in fields(ScheduleConfig)} - {"name"}
    assert names == OTHERS.keys() == {field for taken in TAKES.values() for field in taken}
    assert all(getattr(ScheduleConfig(), name) is None for name in names)


@pytest.mark.parametrize("name, field", [(n, f) for n in TAKES for f in OTHERS if f not in TAKES[n]])
def test_a_field_of_another_schedule_is_refused(name, field):
    with pytest.raises(ConfigError, match=f"schedule.{field}=.*no meaning.*belongs to .*{next(n for n in TAKES if field in TAKES[n])}"):
        ScheduleConfig(name, **EVERY[name] | {field: OTHERS[field]})


@pytest.mark.parametrize(
    "options, words",
    [
        ({"warmup": 1.0}, "schedule.warmup must be in"),
        ({"warmup": -0.1}, "schedule.warmup must be in"),
        ({"warmup": math.nan}, "schedule.warmup must be in"),
        ({"warmup_steps": -1}, "schedule.warmup_steps"),
        ({"warmup_start": 1.5}, "schedule.warmup_start"),
        ({"floor": 1.1}, "schedule.floor"),
        ({"decay": 0.0}, "schedule.decay must"),
        ({"decay_steps": 0}, "schedule.decay_steps"),
        ({"decay_style": "linear"}, "how long"),
        ({"decay_floor": 0.1}, "how long"),
        ({"decay": 0.1, "decay_style": "exponential"}, "decay_floor above 0"),
        ({"name": "wsd", "decay_style": "exponential"}, "floor above 0"),
        ({"name": "power"}, "power_a"),
        ({"name": "power", "power_a": 0.0}, "schedule.power_a"),
        ({"name": "power", "power_a": 1.0, "power_b": 0.5}, "schedule.power_b"),
        ({"name": "inverse_sqrt", "timescale": 0.0}, "schedule.timescale"),
        ({"name": "infinite", "floor": 0.0}, "above 0"),
        ({"name": "infinite", "floor": 0.5}, "annealing"),
        ({"name": "infinite", "task": -1}, "schedule.task"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(ConfigError, match=words):
        ScheduleConfig(**options)


@pytest.mark.parametrize(
    "options, steps, words",
    [
        ({"warmup": 0.1, "warmup_steps": 3}, 100, "either schedule.warmup or schedule.warmup_steps"),
        ({"decay": 0.1, "decay_steps": 3}, 100, "either schedule.decay or"),
        ({"name": "infinite", "cooldown_end": 0.2, "cooldown_steps": 3}, 100, "either schedule.cooldown_end or"),
        ({"name": "infinite", "constant_end": 0.8, "decay_steps": 3}, 100, "either schedule.constant_end or"),
        ({"warmup_steps": 101}, 100, "do not fit a run of 100 steps: the warm-up would end at step 101. Shorten"),
        ({"name": "wsd", "warmup_steps": 95}, 100, "end at step 95, and the last phase would begin at step 90"),
        ({"name": "wsd", "decay_steps": 101}, 100, "do not fit"),
        ({"warmup": 0.6, "decay": 0.6}, 100, "do not fit"),
        ({"name": "infinite", "warmup": 0.2}, 100, "end at step 20, the cooldown would end at step 15, and"),
        ({"name": "infinite", "cooldown_end": 0.9}, 100, "do not fit"),
        ({"name": "constant"}, None, "schedule.warmup=0.05 is a fraction"),
    ],
)
def test_what_does_not_fit(options, steps, words):
    config = ScheduleConfig(**options)
    with pytest.raises(ConfigError, match=words):
        config.lr(0, steps, PEAK, 1)
    if steps is not None:
        with pytest.raises(ConfigError, match=words):
            config.milestones(steps)


def test_fractions_that_fill_the_run_exactly():
    """0.55 and 0.45 of 100 overlap by a rounding error, which is no reason to refuse them."""
    assert values(ScheduleConfig("wsd", warmup=0.55, decay=0.45), 100)[55] == pytest.approx(PEAK)


def test_yaml_and_command_line_hold_it():
    config = ScheduleConfig("infinite", task=2, constant_lr=0.3)
    assert from_dict(ScheduleConfig, to_dict(config)) == config
    with pytest.raises(ConfigError, match="Did you mean 'cosine'"):
        from_dict(ScheduleConfig, {"name": "cosin"})
    base = Recipe(train=TrainConfig(steps=100, schedule=ScheduleConfig(warmup=0.1)))
    changed = settle(replace(base, {"train.schedule.warmup_steps": 7}), base)
    assert changed.train.schedule == ScheduleConfig(warmup_steps=7)
