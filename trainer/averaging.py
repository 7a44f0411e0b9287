"""Averages of weights: model soups, running averages, interpolation.

Pure functions over state dicts (name -> tensor) of one architecture. Floating tensors are averaged, in at least
32 bits; integer tensors (counters, indices) are copied from the first state, since their mean has no meaning. The mean
of BatchNorm's statistics is no statistic of the averaged network either: recompute them (torch's `update_bn`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.errors import CheckpointError, ConfigError

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class GreedySoup:
    """What `greedy_soup` made."""

    state: dict[str, Tensor]
    """The average of the ingredients, equally weighted."""
    ingredients: list[int]
    """Indices of the models in it, in the order in which they were added."""
    score: float
    """Its score."""
    scores: list[float]
    """Score of each model alone."""
    order: list[int]
    """Indices in the order in which they were tried: by falling score, of equal ones the later first."""


def uniform_soup(states: Iterable[State]) -> dict[str, Tensor]:
    """The mean of some states (Wortsman et al. 2022, arXiv 2203.05482).

    Reads one state after another and keeps none: two are in memory at a time when `states` loads them as it is
    iterated. Raises ConfigError when there is none, CheckpointError when names or shapes differ.
    """
    total: dict[str, Tensor] = {}
    types: dict[str, torch.dtype] = {}
    count = 0
    for state in states:
        if not count:
            total = {name: _wide(tensor).clone() for name, tensor in state.items()}
            types = {name: tensor.dtype for name, tensor in state.items()}
        else:
            require_same_tensors(total, state)
            for name, tensor in state.items():
                if tensor.is_floating_point():
                    total[name] += tensor.detach()
        count += 1
        del state  # or it would stay while the next one is read
    if not count:
        raise ConfigError("An average needs at least one model, found none.")
    return {name: (tensor / count).to(types[name]) if tensor.is_floating_point() else tensor for name, tensor in total.items()}


def greedy_soup(states: Sequence[State], score: Callable[[State], float], scores: Sequence[float] | None = None) -> GreedySoup:
    """Add models in the order of their score as long as the score of the average rises (Wortsman et al. 2022, recipe 1).

    `score` measures a state on held-out data, higher is better; `scores` are those of the single models, when they
    are known. A model stays in only if the score strictly improves. With states that are loaded when they are
    indexed, two are in memory at a time. Raises ConfigError when there is none, CheckpointError when names or shapes differ.
    """
    if not len(states):
        raise ConfigError("A soup needs at least one model, found none.")
    scores = [score(states[i]) for i in range(len(states))] if scores is None else list(scores)
    order = sorted(range(len(states)), key=lambda i: scores[i])[::-1]  # reversed, so that among equals the later comes first
    first, *others = order
    soup, ingredients, best = {name: tensor.detach() for name, tensor in states[first].items()}, [first], scores[first]
    for index in others:
        trial = _fold(soup, dict(states[index]), _mean_of(len(ingredients)))
        reached = score(trial)
        if reached > best:
            soup, best = trial, reached
            ingredients.append(index)
        del trial
    return GreedySoup(soup, ingredients, best, scores, order)


def running_average(average: State, state: State, count: int) -> dict[str, Tensor]:
    """The mean of `count` + 1 states from the mean of `count` of them and one more: (average * count + state) / (count + 1).

    In ZSCL (arXiv 2303.06628) the initial weights are the first of them, so `count` is 1 at the first update.
    """
    return _fold(average, dict(state), _mean_of(count))


def interpolate(first: State, second: State, weight: float) -> dict[str, Tensor]:
    """(1 - weight) * first + weight * second, as WiSE-FT does between zero-shot and fine-tuned weights (arXiv 2109.01903)."""
    return _fold(first, dict(second), lambda a, b: (1 - weight) * a + weight * b)


@torch.no_grad()
def moving_average_(live: State, state: State, decay: float) -> None:
    """live = decay * live + (1 - decay) * state, written into the tensors of `live` (a model's own parameters, say)."""
    require_same_tensors(live, state)
    for name, tensor in live.items():
        if tensor.is_floating_point():
            tensor.mul_(decay).add_(state[name], alpha=1 - decay)


def squared_distance(first: State, second: State) -> Tensor:
    """Sum over all floating tensors of the squared differences, a scalar with gradient."""
    require_same_tensors(first, second)
    return torch.stack([(t - second[name]).square().sum() for name, t in first.items() if t.is_floating_point()]).sum()


def require_same_tensors(first: State, second: State) -> None:
    """Raise CheckpointError when two states differ in names or shapes."""
    names = sorted(first.keys() ^ second.keys())
    shapes = [f"{n} {tuple(first[n].shape)} and {tuple(second[n].shape)}" for n in first if n in second and first[n].shape != second[n].shape]
    if names or shapes:
        found = ([f"only in one of them: {', '.join(names[:5])}"] if names else []) + ([f"other shapes: {', '.join(shapes[:5])}"] if shapes else [])
        raise CheckpointError(f"Only weights of one architecture can be averaged; found {'; '.join(found)}.")


def _mean_of(count: int) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda average, tensor: (average * count + tensor) / (count + 1)


def _fold(first: State, second: dict[str, Tensor], rule: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Tensor]:
    """`second` with `rule` of each pair of floating tensors in place of its own, so that there is never a third set of tensors."""
    require_same_tensors(first, second)
    for name, tensor in first.items():
        floating = tensor.is_floating_point()
        second[name] = rule(_wide(tensor), _wide(second[name])).to(tensor.dtype) if floating else tensor.clone()
    return second


def _wide(tensor: Tensor) -> Tensor:
    """16-bit floats in 32 bits: a mean loses too much in fewer."""
    return tensor.detach().float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor.detach()
