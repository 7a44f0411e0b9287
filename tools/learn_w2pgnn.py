"""Does W2PGNN's score say which graphs to pre-train on? `python -m tools.learn_w2pgnn`, three seeds, on generated graphs.

An encoder that is told nothing but the structure is pre-trained on each choice by contrast of changed views (GraphCL) and then frozen; a linear probe on few labelled
graphs is compared with the same probe on random weights. The differences are ranked beside the scores, which `zoo feasibility` computes from the graphs alone.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from scipy.stats import spearmanr
from torch_geometric.data import Data

from modalities import registry
from modalities.common import pretrained
from modalities.common.commandline import guarded
from modalities.common.evaluation import features, probes
from modalities.common.folders import labelled_subset
from modalities.graph.choosing import divided
from modalities.graph.data import LabelledGraphs, UnlabelledGraphs
from modalities.graph.feasibility import Bases, FeasibilityConfig, bases_of, measure, steps_of
from modalities.graph.generated import BUILT_IN, GeneratedConfig
from modalities.graph.generated import graphs as generated_graphs
from modalities.graph.graphons import GraphonConfig, sample
from modalities.graph.models.encoder import GraphEncoder, GraphEncoderConfig
from modalities.graph.recipes.base import GraphRecipe
from modalities.graph.sources import GraphSource
from tools.learn_graph import QUIET
from tools.learning import finished, show
from trainer.config import replace
from trainer.errors import UnknownNameError
from trainer.randomness import seeded

COMMUNITIES = "communities-"
"""Sets of this name, with the density of edges behind it: stochastic block models that the classes of `blocks` are alike, of any density."""
KINDS = ((1, 1.0), (2, 0.95), (4, 0.9), (2, 0.05))
"""Class -> (communities, share of the edges inside them, or as many as there can be)."""
Nodes = Literal["constant", "degree"]
WIDTHS = {"constant": 1, "degree": 32}
"""What nodes are told of themselves -> numbers; degrees of 31 and more are one kind."""
NODES = (28, 37)
"""At least, and below."""
PRETRAIN, LABELLED, TEST, DRAWS, SCORED = 2000, 400, 1000, 4, 100
"""Graphs for pre-training, those of which the labelled ones are drawn and those that are measured on; draws of labelled ones for each seed; graphs that a score is computed from."""
CHOICES = ("trees", "blocks", "communities-0.25", "communities-0.4", "communities-0.6", "trees+communities-0.6")
DOWN = ("communities-0.2", "communities-0.3", "communities-0.4", "communities-0.5", "communities-0.6")
DEFAULT = FeasibilityConfig(GraphonConfig(tv_weight=0.05))


def communities(density: float, count: int, seed: Sequence[int]) -> tuple[list[Data], list[int]]:
    """(graphs, classes) of stochastic block models of one density; the class is how they are divided."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        number, inside = KINDS[index % len(KINDS)]
        own = min(inside * number * density, 1.0)
        other = (density - own / number) / (1 - 1 / number) if number > 1 else 0.0
        found.append(sample(np.where(np.eye(number, dtype=bool), own, other), int(rng.integers(*NODES)), int(rng.integers(2**31))))
    return found, [index % len(KINDS) for index in range(count)]


def drawn(name: str, count: int, seed: Sequence[int]) -> tuple[list[Data], list[int]]:
    """(graphs, classes) of a set by its name, also of several with a + between them."""
    parts = divided(name, "+")
    if len(parts) > 1:
        return [graph for part in parts for graph in drawn(part, count // len(parts), seed)[0]], [0] * (count // len(parts) * len(parts))
    if name.startswith(COMMUNITIES):
        return communities(float(name.removeprefix(COMMUNITIES)), count, seed)
    if name not in BUILT_IN:
        raise UnknownNameError(f"{name!r} is no set of graphs: give {', '.join(BUILT_IN)}, or {COMMUNITIES}0.3 with any density.")
    graphs, labels = generated_graphs(name, "train", GeneratedConfig(samples=count, seed=seed[0] + 10 * seed[1]))
    return list(graphs), labels.tolist()


def written(folder: Path, graphs: Sequence[Data], labels: Sequence[int]) -> Path:
    """A set as TU text files."""
    folder.mkdir(parents=True, exist_ok=True)
    ends = np.cumsum([0, *(graph.num_nodes for graph in graphs)])
    edges = np.concatenate([graph.edge_index.numpy() + start for graph, start in zip(graphs, ends)], axis=1).T + 1
    whose = np.repeat(np.arange(len(graphs)) + 1, np.diff(ends))
    for part, rows in (("A", edges), ("graph_indicator", whose), ("graph_labels", labels)):
        np.savetxt(folder / f"DS_{part}.txt", rows, fmt="%d", delimiter=",")
    return folder


def recipe(data: Path, nodes: Nodes, steps: int, seed: int) -> GraphRecipe:
    """Pre-training by GraphCL."""
    start = registry.find_recipe("graph/tiny-graphcl")
    model = GraphEncoderConfig("gin", in_dim=WIDTHS[nodes], embed_dim=32, depth=3)
    return replace(start, {**QUIET, "model": model, "data": UnlabelledGraphs(str(data), nodes=nodes), "train.steps": steps, "train.seed": seed})


def accuracy(encoder: GraphEncoder, train: GraphSource, test: GraphSource, per_class: int, seed: int) -> float:
    """Accuracy in % of a linear probe on frozen features, the mean over some draws of the labelled graphs."""
    with torch.inference_mode():
        asked = features(encoder.eval(), test)
        known = [features(encoder, labelled_subset(train, per_class, DRAWS * seed + draw)) for draw in range(DRAWS)]
    return 100 * float(np.mean([probes(few, asked, ("probe",))["probe"] for few in known]))


def fitted(choice: str, config: FeasibilityConfig) -> Bases:
    """What W2PGNN fits to the graphs of a choice."""
    return bases_of({part: drawn(part, SCORED, (0, 1))[0] for part in divided(choice, "+")}, config)


def scores(bases: Sequence[Bases], down: str, config: FeasibilityConfig) -> list[float]:
    """W2PGNN's score of each choice for a downstream set."""
    steps = steps_of(drawn(down, SCORED, (1, 0))[0], down, config)
    return [measure(own, steps, config).score for own in bases]


def learn(
    choices: tuple[str, ...] = CHOICES, down: tuple[str, ...] = DOWN, seeds: tuple[int, ...] = (0, 1, 2), nodes: Nodes = "constant", per_class: int = 20, steps: int = 300,
    folder: Path | None = None, config: tyro.conf.OmitArgPrefixes[FeasibilityConfig] = DEFAULT,
) -> None:  # fmt: skip
    """Score, train, measure and print.

    Args:
        choices: Sets to pre-train on: built-in ones, communities-0.3 (any density), or several with a + between them.
        down: Downstream sets, with labels.
        seeds: One pre-training on each choice per seed; it also decides which graphs are labelled.
        nodes: What the encoder is told of a node: nothing, or its degree.
        per_class: Labelled graphs of each class.
        steps: Of pre-training.
        folder: Where sets and runs go and are found again. Default: a temporary folder.
        config: How the scores are computed.
    """
    with tempfile.TemporaryDirectory() as scratch_folder:
        place = folder or Path(scratch_folder)
        for name in down:
            for part, count in (("train", LABELLED), ("test", TEST)):
                written(place / "down" / name / part, *drawn(name, count, (1, int(part == "test"))))
        encoders: dict[str, list[GraphEncoder]] = {"random": []}
        for seed in seeds:
            for choice in choices:
                sets = written(place / "sets" / choice, *drawn(choice, PRETRAIN, (0, 1)))
                encoders.setdefault(choice, []).append(pretrained.load(finished(recipe(sets, nodes, steps, seed), place / "runs" / f"{choice}-{nodes}-{seed}")))
            with seeded(seed):
                fresh = GraphEncoder(encoders[choices[0]][0].config)
            fresh.preprocess = encoders[choices[0]][0].preprocess
            encoders["random"].append(fresh)
        correlations, bases = [], [fitted(choice, config) for choice in choices]
        for name in down:
            parts = LabelledGraphs(str(place / "down" / name), nodes=nodes).build(fresh.preprocess)
            reached = {choice: [accuracy(encoder, *parts, per_class, seed) for seed, encoder in zip(seeds, found)] for choice, found in encoders.items()}
            base = reached.pop("random")
            gains = [float(np.mean(found) - np.mean(base)) for found in reached.values()]
            own = scores(bases, name, config)
            correlations.append(float(spearmanr(own, gains).statistic))
            title = f"For {name}: accuracy on {TEST:,} test graphs, {per_class} labelled ones per class, in %, the most feasible first"
            order = sorted(range(len(choices)), key=lambda index: -own[index])
            rows = {f"{choices[i]}, score {own[i]:.4f}, gain {gains[i]:+.1f}": reached[choices[i]] for i in order}
            show(title, {**rows, "random weights": base})
            print(f"rank correlation of score and gain: {correlations[-1]:.2f}", flush=True)
        print(f"mean rank correlation over {len(down)} downstream sets: {np.mean(correlations):.2f}")


if __name__ == "__main__":
    sys.exit(guarded(lambda: tyro.cli(learn, prog="python -m tools.learn_w2pgnn", use_underscores=True)))
