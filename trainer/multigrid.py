"""Multigrid training (Wu et al. 2020, arXiv 1912.00998): short and small clips in large batches first, long and large ones in small batches later.

The arithmetic is that of facebookresearch/SlowFast@287ec00 `slowfast/utils/multigrid.py`, checked against its outputs. The axes of an input are
(time, height, width), or (depth, height, width) of a volume: the first one is thinned out, the others are made smaller. The long cycle runs
through shapes (T, S) once in each stage of the learning rate; inside it, the short cycle of three steps changes S alone. When T and S shrink,
the batch grows so that batch * T * S^2 stays; the learning rate grows with the batch of the long cycle only.

Ours: phases are measured in samples rather than in whole epochs, the schedule of the learning rate advances with the samples seen, and sizes
are rounded to whole patches. Batch norm, whose statistics the paper keeps at a fixed number of clips, is not supported.
"""

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.errors import ConfigError, DataError
from trainer.plan import Size

HALF = math.sqrt(0.5)


@dataclass(frozen=True)
class MultigridConfig:
    """Which sizes the inputs have in the course of a run."""

    cycles: Literal["none", "short", "long", "both"] = "none"
    """none: every step takes the full size; short: the size changes from step to step; long: from phase to phase; both."""
    long_factors: tuple[tuple[float, float], ...] = ((0.25, HALF), (0.5, HALF), (0.5, 1.0), (1.0, 1.0))
    """Shapes of the long cycle: factors on the first axis and on each of the others, the full shape last."""
    short_factors: tuple[float, ...] = (0.5, HALF)
    """Shapes of the short cycle: factors on all axes but the first, of the full size. The shape of the long cycle comes after them."""
    stages: tuple[float, ...] = (94 / 239, 154 / 239, 196 / 239)
    """Where the second and later stages of the baseline's learning rate begin, as fractions of the run (SlowFast on Kinetics). Each but the last
    runs the whole long cycle; the last has the full shape only, in its first half at the learning rate of the stage before."""
    gamma: float = 1.0
    """Factor on the learning rate from one stage to the next (SlowFast: 0.1, with schedule.name=constant). 1: train.schedule alone decides."""
    length_factor: float = 1.5
    """Samples seen, relative to the baseline's (train.steps, samples or epochs), since steps on small inputs cost little."""

    def __post_init__(self) -> None:
        if not self.long_factors or self.long_factors[-1] != (1.0, 1.0) or any(not 0 < f <= 1 for pair in self.long_factors for f in pair):
            raise ConfigError(f"multigrid.long_factors are pairs of factors above 0 and up to 1, (1, 1) last, found {self.long_factors}.")
        if any(not 0 < f <= 1 for f in self.short_factors):
            raise ConfigError(f"multigrid.short_factors must be above 0 and at most 1, found {self.short_factors}.")
        if not self.stages or list(self.stages) != sorted(set(self.stages)) or not 0 < self.stages[0] <= self.stages[-1] < 1:
            raise ConfigError(f"multigrid.stages are fractions of the run in rising order, at least one, above 0 and below 1; found {self.stages}.")
        if not self.gamma > 0 or not self.length_factor > 0:
            raise ConfigError(f"multigrid.gamma and length_factor must be above 0, found {self.gamma} and {self.length_factor}.")

    @property
    def short(self) -> tuple[float, ...]:
        """The factors of the short cycle, none when it is off."""
        return self.short_factors if self.cycles in ("short", "both") else ()


@dataclass(frozen=True)
class Phase:
    """A stretch of the run in which the long cycle keeps its shape."""

    stage: int
    """Number of the baseline's stage of the learning rate."""
    batch: int
    """Batch size relative to the baseline's."""
    size: Size
    """Lengths along the axes."""
    end: int
    """Where it ends, in the units of the baseline (epochs, samples)."""


def long_cycle(config: MultigridConfig, full: Size, boundaries: Sequence[float], length: float, multiple: Size | None = None) -> list[Phase]:
    """The phases of a run whose baseline has inputs of size `full` and `length` units (epochs, samples), its stages beginning at `boundaries` (from 0).

    Each stage is shared among the shapes by their mean batch size over the short cycle; the last stage saves as many steps as the others.
    All is scaled to length * length_factor and rounded, cumulated. Sizes are rounded to multiples of `multiple` along each axis.
    """
    volume, sizes, means = math.prod(full), [], []
    for time, space in config.long_factors:
        size = scaled(full, time, space, multiple)
        planned = [(size[0], *(side * f for side in full[1:])) for f in config.short] + [size]
        sizes.append(size)
        means.append(sum(round(volume / math.prod(s)) for s in planned) / len(planned))
    shares, steps = [], 0.0
    for stage, (begin, end) in enumerate(zip(boundaries, boundaries[1:])):
        for size, mean in zip(sizes, means):
            shares.append((stage, size, (end - begin) * mean / sum(means)))
            steps += (end - begin) / sum(means)
    saving = boundaries[-1] / steps
    shares.append((len(boundaries) - 1, sizes[-1], (length - boundaries[-1]) / saving * means[-1]))
    factor = length * config.length_factor / sum(share for *_, share in shares)
    phases, total = [], 0.0
    for stage, size, share in shares:
        total += share * factor
        phases.append(Phase(stage, round(volume / math.prod(size)), size, round(total)))
    return phases


def learning_rates(phases: Sequence[Phase], gamma: float) -> list[tuple[int, float]]:
    """(where it begins, factor on the learning rate): gamma^stage * relative batch; the last phase keeps that of the one before for its first half."""
    factors = [gamma**phase.stage * phase.batch for phase in phases]
    begins = [0, *(phase.end for phase in phases[:-1])]
    middle = (begins[-1] + phases[-1].end) // 2
    return [*zip(begins[:-1], factors[:-1]), (begins[-1], factors[-2]), (middle, factors[-1])]


def scaled(full: Size, time: float, space: float, multiple: Size | None = None) -> Size:
    """A size times factors on its first axis and on the others, rounded to multiples (of 1, by default), at least one of them."""
    multiple = multiple or (1,) * len(full)
    return tuple(max(round(side * factor / m), 1) * m for side, factor, m in zip(full, (time, *(space,) * (len(full) - 1)), multiple))


@dataclass(frozen=True)
class _Stretch:
    """Consecutive steps of one shape of the long cycle and one factor on the learning rate."""

    step: int
    """Its first step."""
    start: int
    """Samples before it."""
    cycle: tuple[tuple[int, Size], ...]
    """(samples, size) of its steps, again and again."""
    lr: float
    """Factor on the learning rate."""

    def samples(self, steps: int) -> int:
        """Samples of its first `steps` steps."""
        rounds, rest = divmod(steps, len(self.cycle))
        return rounds * sum(n for n, _ in self.cycle) + sum(n for n, _ in self.cycle[:rest])


class MultigridPlan:
    """The plan (`trainer.plan.Plan`) of a multigrid run."""

    def __init__(
        self, config: MultigridConfig, batch_size: int, steps: int, full: Size, multiple: Size | None = None, entry: str = "video"
    ) -> None:
        """`steps`: of the baseline, `batch_size` samples each, whose inputs batch[`entry`] have the size `full`. ConfigError for a run too short."""
        if multiple is not None and len(multiple) != len(full):
            raise ConfigError(f"Sizes of {len(full)} axes cannot be multiples of {multiple}.")
        self.entry, self.full, self.each, baseline = entry, full, batch_size, steps * batch_size
        if config.cycles == "short":
            phases = [Phase(0, 1, full, round(baseline * config.length_factor))]
            rates = [(0, 1.0)]
        else:
            phases = long_cycle(config, full, [0.0, *(f * baseline for f in config.stages)], baseline, multiple)
            rates = learning_rates(phases, config.gamma)
        self.phases = phases
        self._stretches: list[_Stretch] = []
        step = start = 0
        for begin, end in itertools.pairwise(sorted({0, *(p.end for p in phases), *(at for at, _ in rates)})):
            phase = next(p for p in phases if begin < p.end)
            factor = [lr for at, lr in rates if at <= begin][-1]
            cycle = self._cycle(config, phase, multiple)
            turn = step % len(cycle)  # the short cycle goes by the step of the run, so that short phases see all of it, too
            stretch = _Stretch(step, start, cycle[turn:] + cycle[:turn], factor)
            count = self._steps_for(stretch, end - start)
            if count:
                self._stretches.append(stretch)
                step, start = step + count, start + stretch.samples(count)
        self.steps, self._total = step, start
        if not step:
            raise ConfigError("A multigrid run needs at least one step.")

    def _cycle(self, config: MultigridConfig, phase: Phase, multiple: Size | None) -> tuple[tuple[int, Size], ...]:
        """(samples, size) of the steps of a phase. The short cycle has T of the phase and S of its own; its batch grows as S^2 falls."""
        batch, steps = self.each * phase.batch, []
        for factor in config.short:
            size = (phase.size[0], *scaled(self.full, 1.0, factor, multiple)[1:])
            more = max(round(Fraction(math.prod(phase.size[1:]), math.prod(size[1:]))), 1)
            steps.append((batch * more, size))
        return (*steps, (batch, phase.size))

    @staticmethod
    def _steps_for(stretch: _Stretch, samples: int) -> int:
        """The fewest steps that take so many samples."""
        rounds = max(samples, 0) // stretch.samples(len(stretch.cycle))
        count = rounds * len(stretch.cycle)
        while stretch.samples(count) < samples:
            count += 1
        return count

    def _at(self, step: int) -> _Stretch:
        return self._stretches[bisect.bisect_right(self._stretches, step, key=lambda s: s.step) - 1]

    def batch_size(self, step: int) -> int:
        stretch = self._at(step)
        return stretch.cycle[(step - stretch.step) % len(stretch.cycle)][0]

    def start(self, step: int) -> int:
        stretch = self._at(step)
        return stretch.start + stretch.samples(step - stretch.step)

    def size(self, step: int) -> Size:
        stretch = self._at(step)
        return stretch.cycle[(step - stretch.step) % len(stretch.cycle)][1]

    def progress(self, step: int) -> tuple[int, int]:
        """In steps of the baseline's batch size."""
        return self.start(step) // self.each, math.ceil(self._total / self.each)

    def lr(self, step: int) -> float:
        return self._at(step).lr

    def sizes(self) -> list[Size]:
        """All sizes that occur, each once."""
        return list(dict.fromkeys(size for stretch in self._stretches for _, size in stretch.cycle))


def resample(inputs: Tensor, size: Size) -> Tensor:
    """Inputs (B, C, T, H, W) at a smaller size (T', H', W'): every (T // T')-th frame from the first, so that the time span stays, resized with anti-aliasing.

    DataError when they are smaller than that or have other axes.
    """
    if inputs.ndim != 5 or len(size) != 3 or any(new > old for new, old in zip(size, inputs.shape[2:])):
        raise DataError(f"Multigrid training makes clips (B, C, T, H, W) smaller, to {size}; found {tuple(inputs.shape)}.")
    stride = inputs.shape[2] // size[0]
    inputs = inputs[:, :, : stride * size[0] : stride]
    if inputs.shape[3:] == tuple(size[1:]):
        return inputs.contiguous()
    resized = F.interpolate(inputs.flatten(1, 2), size=size[1:], mode="bilinear", antialias=True)
    return torch.unflatten(resized, 1, inputs.shape[1:3])
