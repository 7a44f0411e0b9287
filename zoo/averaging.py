"""`zoo average`: one model from the weights of several, or of the last checkpoints of a run."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from modalities import registry
from modalities.common import pretrained
from modalities.common.evaluation import Judge, percent
from modalities.common.licences import combined
from modalities.common.model import Model
from modalities.common.run import command
from trainer.averaging import State, greedy_soup, uniform_soup
from trainer.checkpoint import list_checkpoints, verify
from trainer.data import batches, to_device
from trainer.errors import CheckpointError, ConfigError
from trainer.randomness import seeded
from trainer.recipe import difference
from trainer.versions import versions
from trainer.warm_start import objective_state
from zoo.cards import CARD, card_of

log = logging.getLogger("zoo")

def average(
    models: tyro.conf.Positional[tuple[str, ...]], /, to: Path, greedy: bool = False, data: str | None = None, last: int | None = None
) -> Path:
    """Average the weights of models of one architecture, or of the last checkpoints of a run, into a new model folder.

    Args:
        models: Folders or names of models; with --last the folder of one run.
        to: Folder to write: new, empty, or an earlier average, which is replaced.
        greedy: Add models in the order of their score only as long as the score rises (a greedy soup). Needs --data.
        data: Labelled folder or built-in set. Its held-out part gives the scores (accuracy; of an encoder that of 5-NN on
            frozen features), its training part the statistics of batch normalisation.
        last: Average the last so many checkpoints of the run.
    """
    if greedy and data is None:
        raise ConfigError("--greedy chooses models by their score on held-out data. Give --data LABELLED_FOLDER.")
    _require_place(to, models)
    model, names, states = _checkpoints(models, last) if last is not None else _models(models)
    normalised = any(isinstance(m, _BatchNorm) and m.track_running_stats for m in model.modules())
    if normalised and data is None:
        raise ConfigError(
            "These models normalise by statistics of their training data (BatchNorm), and the mean of such statistics fits no network. "
            "Give --data LABELLED_FOLDER, so that they can be computed for the averaged weights."
        )
    judge: Judge | None = None
    if data is not None:
        judge = registry.load_task(model.system.partition("/")[0], "judge", "Measuring the models of an average on data (--data, --greedy)")(model, data)

    def take(state: State, anew: bool) -> None:
        """Put weights into the model, with statistics of their own."""
        model.load_state_dict(state)
        if normalised and anew:
            update_statistics(model, judge)

    def score(state: State, anew: bool = True) -> float:
        take(state, anew)
        return judge.score(model)

    scores = None
    if judge is not None:
        scores = [score(states[i], anew=False) for i in range(len(states))]
        for name, value in zip(names, scores):
            print(f"{percent(value):6.2f} %  {name}")
    if greedy:
        soup = greedy_soup(states, score, scores)
        chosen, state = soup.ingredients, soup.state
    else:
        chosen, state = list(range(len(states))), uniform_soup(states)
    take(state, anew=len(chosen) > 1)
    reached = None if judge is None else judge.score(model)
    shares = [1 / len(chosen) if i in chosen else 0.0 for i in range(len(states))]
    alone = [None] * len(names) if scores is None else list(map(percent, scores))
    record = {
        "system": model.system,
        "method": ("greedy soup" if greedy else "mean") + (" of models" if last is None else " of checkpoints of one run"),
        "greedy": greedy,
        "models": [{"model": name, "weight": share, "score": score} for name, share, score in zip(names, shares, alone)],
        "measured": None if judge is None else judge.row(reached),
        "statistics_recomputed": normalised and len(chosen) > 1,
        "command": command(),
        "versions": versions(),
    }
    card, files = card_of(model, {"kind": "average", "record": record}, renews=[to / CARD])
    model.save_pretrained(to, card=card, files=files)
    print((f"{percent(reached):6.2f} %  " if reached is not None else "") + f"{record['method']}, {len(chosen)} of {len(names)} used: {to}")
    return to


def update_statistics(model: Model, judge: Judge, batch_size: int = 256) -> None:
    """Compute the statistics of BatchNorm layers anew: one pass over the training part, shuffled, in batches of one size."""
    size = min(batch_size, len(judge.train))
    stream = batches(judge.train, size, seed=0, first=0, steps=len(judge.train) // size, workers=0)
    with seeded(0):  # dropout and masks are on
        update_bn((to_device(batch, model.device) for batch in stream), model)


class _Lazy(Sequence[State]):
    """States that are read when they are asked for and not kept."""

    def __init__(self, items: Sequence[Any], read: Callable[[Any], dict[str, Tensor]]) -> None:
        self.items, self.read = items, read

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.read(self.items[index])

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (self.read(item) for item in self.items)  # the inherited one would hold on to the last


def _models(names: Sequence[str]) -> tuple[Model, list[str], Sequence[State]]:
    """The first of some models, their names, and the weights of all. ConfigError when they cannot be averaged."""
    if len(names) < 2:
        raise ConfigError(f"An average needs at least two models (or one run and --last K), found {len(names)}: {', '.join(names) or 'none'}.")
    folders = [pretrained.locate(name).resolve() for name in names]
    twice = [name for i, name in enumerate(names) if folders[i] in folders[:i]]
    if twice:
        raise ConfigError(f"{twice[0]} is given twice. Give each model once.")
    first = pretrained.load(names[0])
    for name in names[1:]:
        other = pretrained.load(name)
        if other.system != first.system:
            raise ConfigError(f"Only models of one system can be averaged: {names[0]} is a {first.system} and {name} a {other.system}.")
        differing = difference(first.config, other.config)
        if first.preprocess != other.preprocess:
            differing.append(f"preprocess: {first.preprocess} -> {other.preprocess}")
        if differing:
            raise ConfigError(f"Only models of one config can be averaged. {name} differs from {names[0]}:\n  " + "\n  ".join(differing))
        first.name = first.name if first.name == other.name else None
        first.licence = combined([first.licence, other.licence])
    return first, list(names), _Lazy(names, lambda name: pretrained.load(name).state_dict())


def _checkpoints(names: Sequence[str], last: int) -> tuple[Model, list[str], Sequence[State]]:
    """The exported model of a run, the names of its last checkpoints, and the model's part of each."""
    if len(names) != 1:
        raise ConfigError(f"--last averages the checkpoints of one run, found {len(names)} folders: {', '.join(names)}.")
    run = Path(names[0]).expanduser()
    if not (run / "recipe.yaml").exists():
        raise CheckpointError(f"{run} is no run folder (it has no recipe.yaml), and --last needs the checkpoints of one.")
    if not (run / "export").is_dir():
        raise CheckpointError(f"{run} has no export, so the run is not finished. Start it again with --resume, then average.")
    found = list_checkpoints(run / "checkpoints")
    if not 2 <= last <= len(found):
        raise ConfigError(
            f"--last must be at least 2 and at most the number of checkpoints that the run kept, {len(found)}; found {last}. "
            "A run keeps as many as train.keep_last says."
        )
    model, paths = pretrained.load(run), found[-last:]
    prefix = _prefix(objective_state(paths[-1]), model)

    def read(path: Path) -> dict[str, Tensor]:
        verify(path)
        return {name.removeprefix(prefix): tensor for name, tensor in objective_state(path).items() if name.startswith(prefix)}

    return model, [str(path) for path in paths], _Lazy(paths, read)


def _prefix(objective: State, model: Model) -> str:
    """Under which name the objective holds the model that a run exports: "model.", as a rule.

    Where several parts fit (a student and its teacher), it is the one that is equal to the export in the last checkpoint.
    """
    own = model.state_dict()
    first = next(iter(own))
    fits = [name.removesuffix(first) for name in objective if name == first or name.endswith(f".{first}")]
    fits = [p for p in fits if own.keys() == {n.removeprefix(p) for n in objective if n.startswith(p)}]
    if len(fits) > 1:
        fits = [p for p in fits if all(torch.equal(objective[p + n], tensor) for n, tensor in own.items())]
    if len(fits) != 1:
        raise CheckpointError("The checkpoints do not hold the model that the run exported as one part: it was changed at its export. Average exports instead.")
    return fits[0]


def _require_place(to: Path, models: Sequence[str]) -> None:
    """Raise ConfigError when the result would replace something else than an earlier model, or one of its own ingredients."""
    if to.exists() and not (to.is_dir() and ((to / "config.json").exists() or not any(to.iterdir()))):
        raise ConfigError(f"{to} holds other things than a model. Choose a new folder with --to.")
    if to.exists() and to.resolve() in {pretrained.locate(name).resolve() for name in models if Path(name).exists()}:
        raise ConfigError(f"{to} is one of the models to average. Choose another folder with --to.")
