"""Recomputes golden files of W2PGNN."""

import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from modalities.common.golden import Golden, pick
from modalities.graph.barycenters import BARYCENTERS
from modalities.graph.feasibility import FeasibilityConfig, at_one_size, nearest
from modalities.graph.graphons import ESTIMATORS, GraphonConfig, align, fit, resize
from modalities.graph.statistics import topology
from modalities.graph.transport import entropic_gw, gromov_wasserstein

ON_A_PATH = ("output.entropic_gw_mean", "output.alpha", "output.feasibility_distance")
"""Outputs that hang on the path of an optimisation; the notes of a file state how exact they are."""


def _graphs(golden: Golden, group: str) -> list[np.ndarray]:
    first, prefix = golden.input(f"{group}.graph0"), f"{group}.graph"
    more = sorted((name for name in golden.inputs if name.startswith(prefix)), key=lambda name: int(name.removeprefix(prefix)))[1:]
    return [matrix.double().numpy() for matrix in (first, *(golden.input(name) for name in more))]


def _config(golden: Golden, method: str) -> GraphonConfig:
    """The official code takes every name that it does not know for SAS, also LP, its default."""
    known = method if method in (*ESTIMATORS, *BARYCENTERS) else "SAS"
    options = {"USVT": {"threshold": "threshold_usvt"}, **dict.fromkeys(BARYCENTERS, {"outer_iterations": "outer_iters"})}.get(known, {})
    return GraphonConfig(known, **{ours: golden.config[theirs] for ours, theirs in options.items() if theirs in golden.config})


def _w2pgnn(golden: Golden) -> dict[str, Tensor]:
    side, chosen = int(golden.config["r"]), _config(golden, golden.config["method"])
    groups = [f"basis{number}" for number in range(golden.config["n_bases"])]
    graphs = {group: _graphs(golden, group) for group in (*groups, "down")}
    steps = {group: fit(matrices, chosen) for group, matrices in graphs.items()}
    graphons = {group: resize(found, side) for group, found in steps.items()}
    computed: dict[str, np.ndarray | Tensor | float] = {"output.topo_features0": topology(graphs["basis0"][0]), "output.down.step": steps["down"]}
    for group, matrices in graphs.items():
        size = None if chosen.method in BARYCENTERS else max(map(len, matrices))
        for number, matrix in enumerate(matrices):
            ordered, degrees = align(matrix, size)
            computed |= {f"output.{group}.aligned{number}": ordered, f"output.{group}.degree{number}": degrees[:, None]}
        for name in golden.expected:
            if name.startswith(f"output.{group}.step."):
                computed[name] = fit(matrices, _config(golden, name.rpartition(".")[2]))
        computed[f"output.{group}.graphon"] = graphons[group]
    bases, down = at_one_size([steps[group] for group in groups], graphons["down"])
    computed |= {f"output.{group}.resized": basis for group, basis in zip((*groups, "down"), (*bases, down))}
    computed |= {f"output.gw_{group}": gromov_wasserstein(basis, down) for group, basis in zip((*groups, "mean"), (*bases, bases.mean(axis=0)))}
    computed["output.entropic_gw_mean"] = entropic_gw(torch.from_numpy(bases.mean(axis=0)), torch.from_numpy(down))
    found = nearest(bases, down, FeasibilityConfig(learning_rate=golden.config["lr"], epochs=golden.config["epochs"]))
    computed |= {"output.alpha": found.last_alpha[:, None], "output.feasibility_distance": found.distance, "output.feasibility": -found.distance}
    return pick({name: torch.as_tensor(value).float() for name, value in computed.items()}, golden.expected)


def tolerances(golden: Golden) -> dict[str, float]:
    """Relative tolerance of outputs whose notes state one of their own."""
    stated = re.search(r"tolerate (\d[\d.]*(?:e-?\d+)?) relative", golden.metadata.get("notes", ""))
    return dict.fromkeys(ON_A_PATH, float(stated[1])) if stated else {}


RUNNERS: dict[str, Callable[[Golden], dict[str, Tensor]]] = {"graph/w2pgnn": _w2pgnn}
