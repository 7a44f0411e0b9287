"""Is it worth pre-training on these graphs for those? W2PGNN (Cao et al., When to Pre-Train Graph Neural Networks?, KDD 2023, arXiv 2303.16458).

Nothing is trained. The pre-training graphs are cut into groups, and a graphon, called a basis, is fitted to each; the graphons that pre-training
can generate are the convex combinations of the bases. The score is minus the distance of the nearest of them to the graphon of the downstream graphs: the larger, the more feasible.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from torch_geometric.data import Data

from modalities.graph.graphons import GraphonConfig, adjacency, fit, resize
from modalities.graph.statistics import alike
from modalities.graph.transport import EntropicConfig, Loss, entropic_gw, gromov_wasserstein
from trainer.errors import ConfigError, DataError, TrainingError

Kind = Literal["integral", "domain", "topology"]
Matrices = list[np.ndarray]
BETAS, WEIGHT_DECAY = (0.9, 0.99), 1e-5
"""Of Adam."""
PATIENCE, FORGET_EVERY, EARLIEST_STOP = 3, 20, 30
"""So many epochs without a new minimum end the search, once `EARLIEST_STOP` are done; they are counted anew every `FORGET_EVERY` epochs."""


@dataclass(frozen=True)
class FeasibilityConfig:
    """How feasibility is measured."""

    graphon: GraphonConfig = field(default_factory=GraphonConfig)
    """How graphons are fitted."""
    entropic: EntropicConfig = field(default_factory=EntropicConfig)
    """The distance by which the combination is searched."""
    kinds: tuple[Kind, ...] = get_args(Kind)
    """Ways to cut the pre-training graphs into groups: integral (all in one), domain (one for each set), topology (by k-means on numbers of their structure). The nearest combination of any counts."""
    resolution: int = 32
    """Side of the downstream graphon, to which all are resized unless a basis has more steps. The official code takes 1000; time and memory grow with the square."""
    distance: Loss = "kl"
    """Loss of the distance that is reported: kl, as in the official code, or square, which is symmetric and stays moderate where graphons have zeros."""
    learning_rate: float = 0.05
    """Of Adam, for the combination."""
    epochs: int = 100
    """Steps of Adam, at most."""
    clusters: int = 5
    """Groups of the kind topology, at most."""
    standardise: bool = True
    """Bring the numbers of the kind topology to one scale before k-means. The official code does not, so that the mean degree decides."""
    seed: int = 0
    """Of k-means, and of which graphs of a set are drawn."""

    def __post_init__(self) -> None:
        if not self.kinds or not set(self.kinds) <= set(get_args(Kind)) or self.distance not in get_args(Loss):
            raise ConfigError(f"kinds must be some of {', '.join(get_args(Kind))} and distance kl or square, found {', '.join(self.kinds) or 'none'} and {self.distance}.")
        if self.resolution < 2 or self.epochs < 1 or self.clusters < 1 or self.seed < 0 or not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"feasibility needs a resolution of at least 2, epochs and clusters of at least 1, a learning rate above 0 and a seed of at least 0, found {self}.")


@dataclass(frozen=True)
class Bases:
    """What was fitted to pre-training graphs."""

    names: dict[Kind, list[str]]
    """What the groups of each kind are called."""
    steps: dict[Kind, list[np.ndarray]]
    """Step functions of the groups of each kind."""


@dataclass(frozen=True)
class Combination:
    """The combination of bases that is nearest to a downstream graphon."""

    distance: float
    """Gromov-Wasserstein distance."""
    alpha: np.ndarray
    """Share of each basis, (K,)."""
    graphon: np.ndarray
    """The combination, (M, M)."""
    losses: list[float]
    """Entropic distance in each epoch; of a single basis there is nothing to search, and none."""
    last_alpha: np.ndarray
    """Shares in the last epoch, which the official code prints; `alpha` are those of the best."""


@dataclass(frozen=True)
class Feasibility:
    """How feasible pre-training is."""

    score: float
    """Minus the smallest distance."""
    kind: Kind
    """Groups with which it was found."""
    combinations: dict[Kind, Combination]
    """The best combination of each kind."""
    bases: Bases
    """What was fitted to the pre-training graphs."""
    downstream: np.ndarray
    """The downstream graphon, (resolution, resolution)."""

    @property
    def best(self) -> Combination:
        """The nearest combination of all kinds."""
        return self.combinations[self.kind]


def feasibility(pretrain: Mapping[str, Sequence[Data]], down: Sequence[Data], config: FeasibilityConfig = FeasibilityConfig()) -> Feasibility:
    """How feasible pre-training on some sets of graphs (name of the domain -> graphs) is for downstream graphs. Edges count, in both directions; features do not.

    DataError for damaged graphs, and for sets without an edge.
    """
    return measure(bases_of(pretrain, config), steps_of(down, "the downstream set", config), config)


def select(
    pretrain_sets: Mapping[str, Mapping[str, Sequence[Data]] | Sequence[Data]], down: Sequence[Data], config: FeasibilityConfig = FeasibilityConfig()
) -> dict[str, Feasibility]:
    """Which pre-training data to choose: name -> feasibility, the most feasible first. A choice is a set of graphs, or several (name of the domain -> graphs)."""
    steps = steps_of(down, "the downstream set", config)
    sets = {name: graphs if isinstance(graphs, Mapping) else {name: graphs} for name, graphs in pretrain_sets.items()}
    return ranked({name: measure(bases_of(domains, config), steps, config) for name, domains in sets.items()})


def ranked(found: Mapping[str, Feasibility]) -> dict[str, Feasibility]:
    """The same, the most feasible first."""
    return dict(sorted(found.items(), key=lambda item: -item[1].score))


def steps_of(graphs: Sequence[Data], name: str, config: FeasibilityConfig) -> np.ndarray:
    """The step function (K, K) of a set of graphs. DataError for damaged graphs, and for a set without an edge."""
    return fit(matrices_of(graphs, name), config.graphon)


def bases_of(pretrain: Mapping[str, Sequence[Data]], config: FeasibilityConfig) -> Bases:
    """The pre-training graphs (name of the domain -> graphs) in groups, and what is fitted to each. DataError for damaged graphs, and for a set without an edge."""
    domains = {name: matrices_of(graphs, name) for name, graphs in pretrain.items()}
    grouped = {kind: groups(domains, kind, config) for kind in config.kinds}
    if "integral" in grouped:  # where all graphs are one group they are known already
        grouped = {kind: of_kind for kind, of_kind in grouped.items() if kind == "integral" or len(of_kind) > 1}
    steps = {kind: [fit(matrices, config.graphon) for matrices in of_kind.values()] for kind, of_kind in grouped.items()}
    return Bases({kind: [*of_kind] for kind, of_kind in grouped.items()}, steps)


def matrices_of(graphs: Sequence[Data], name: str) -> Matrices:
    """Adjacency matrices of a set of graphs; DataError when none has an edge."""
    found = [adjacency(graph, f"{name}, graph {index}") for index, graph in enumerate(graphs)]
    if not any(matrix.any() for matrix in found):
        raise DataError(f"{name}: none of its {len(found)} graphs has an edge, so there is no structure to compare.")
    return found


def measure(bases: Bases, down: np.ndarray, config: FeasibilityConfig) -> Feasibility:
    """Feasibility of what was fitted to pre-training graphs for the step function (K, K) of the downstream graphs."""
    graphon = resize(down, config.resolution)
    combinations = {kind: nearest(*at_one_size(steps, graphon), config) for kind, steps in bases.steps.items()}
    best = min(combinations, key=lambda kind: combinations[kind].distance)
    return Feasibility(-combinations[best].distance, best, combinations, bases, graphon)


def groups(domains: Mapping[str, Matrices], kind: Kind, config: FeasibilityConfig) -> dict[str, Matrices]:
    """The pre-training graphs in named groups."""
    if kind == "domain":
        return dict(domains)
    together = [matrix for matrices in domains.values() for matrix in matrices]
    if kind == "integral":
        return {"all": together}
    found = alike(together, config.clusters, config.standardise, config.seed)
    return {f"cluster {number} ({len(places)})": [together[place] for place in places] for number, places in enumerate(found)}


def at_one_size(bases: Sequence[np.ndarray], graphon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(bases (K, M, M), downstream graphon (M, M)) at the largest side of any, as float32."""
    side = max(len(graphon), *map(len, bases))
    return np.stack([resize(basis, side) for basis in bases]).astype(np.float32), resize(graphon, side).astype(np.float32)


def nearest(bases: np.ndarray, graphon: np.ndarray, config: FeasibilityConfig) -> Combination:
    """The convex combination of bases (K, M, M) that is nearest to a graphon (M, M). TrainingError when the search yields no finite distance."""
    stacked, target = torch.from_numpy(bases), torch.from_numpy(graphon)
    logits = torch.ones(len(bases), requires_grad=True)
    adam = torch.optim.Adam([logits], lr=config.learning_rate, betas=BETAS, weight_decay=WEIGHT_DECAY)
    losses: list[float] = []
    alpha = best = logits.detach().softmax(dim=0)
    failures = 0
    for epoch in range(config.epochs if len(bases) > 1 else 0):
        shares = logits.softmax(dim=0)
        alpha = shares.detach()
        loss = entropic_gw(torch.einsum("k,kij->ij", shares, stacked), target, config.entropic)
        if not loss.isfinite():
            raise TrainingError(f"The entropic distance became {loss.item()} in epoch {epoch}. A larger epsilon (now {config.entropic.epsilon}) is more stable.")
        if epoch % FORGET_EVERY == 0:
            failures = 0
        if not losses or loss.item() < min(losses):
            best = alpha
        else:
            failures += 1
        losses.append(loss.item())
        if failures >= PATIENCE and epoch > EARLIEST_STOP:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
    combined = torch.einsum("k,kij->ij", best, stacked).numpy()
    return Combination(gromov_wasserstein(combined, graphon, config.distance), best.numpy(), combined, losses, alpha.numpy())
