"""Recomputes golden files of W2PGNN."""

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modalities.common.golden import Golden, pick
from modalities.graph.barycenters import BARYCENTERS, BarycenterConfig
from modalities.graph.feasibility import FeasibilityConfig, at_one_size, nearest
from modalities.graph.graphons import METHODS, OPTIONS, GraphonConfig, align, fit, resize
from modalities.graph.statistics import topology
from modalities.graph.transport import entropic_gw, gromov_wasserstein
from trainer.config import from_dict
from trainer.errors import CheckpointError

ON_A_PATH = ("output.entropic_gw_mean", "output.alpha", "output.feasibility_distance", "output.feasibility")
"""Outputs that hang on the path of an optimisation; the notes of a file state how exact they are."""
NAMES = {
    "threshold": "threshold_usvt", "likeness": "threshold_sba", "order": "seed", "outer_iterations": "outer_iters", "inner_iterations": "inner_iters", "beta": "beta",
    "edge_share": "gamma", "bending": "alpha",
}  # fmt: skip
"""Our option -> what the official code calls it."""


def _stated(golden: Golden, name: str) -> Any:
    """An option as the config of a file has it, or else its notes ("gamma=0.5"); None when neither does."""
    found = re.search(rf"\b{name} ?= ?(\d+(?:\.\d+)?(?:e-?\d+)?)", golden.metadata.get("notes", ""))
    return golden.config.get(name, json.loads(found[1]) if found else None)


def _needed(golden: Golden, name: str) -> Any:
    """An option that a file must have. CheckpointError when it lacks it."""
    value = _stated(golden, name)
    if value is None:
        raise CheckpointError(f"{golden.path}: its config lacks {name}, which {golden.model} needs. It has: {', '.join(golden.config) or 'nothing'}.")
    return value


def _graphs(golden: Golden, group: str) -> list[np.ndarray]:
    prefix = f"{group}.graph"
    names = sorted((name for name in golden.inputs if name.startswith(prefix)), key=lambda name: int(name.removeprefix(prefix)))
    return [golden.input(name).double().numpy() for name in names or [f"{prefix}0"]]


def _config(golden: Golden, method: str) -> GraphonConfig:
    """How the official code fits by `method`. It takes every name that it does not know for SAS, also LP, its default."""
    known = method if method in METHODS else "SAS"
    options = {ours: value for ours, theirs in NAMES.items() if known in OPTIONS[ours] and (value := _stated(golden, theirs)) is not None}
    of_barycenter = {name: options.pop(name) for name in [*options] if name in BarycenterConfig.__dataclass_fields__}
    return from_dict(GraphonConfig, {"method": known, **options, "barycenter": of_barycenter}, str(golden.path))


def _w2pgnn(golden: Golden) -> dict[str, Tensor]:
    side, chosen = int(_needed(golden, "r")), _config(golden, _needed(golden, "method"))
    groups = [f"basis{number}" for number in range(int(_needed(golden, "n_bases")))]
    graphs = {group: _graphs(golden, group) for group in (*groups, "down")}
    steps = {group: fit(matrices, chosen) for group, matrices in graphs.items()}
    graphons = {group: resize(found, side) for group, found in steps.items()}
    computed: dict[str, np.ndarray | Tensor | float] = {"output.topo_features0": topology(graphs["basis0"][0])}
    for group, matrices in graphs.items():
        size = None if chosen.method in BARYCENTERS else max(map(len, matrices))
        for number, matrix in enumerate(matrices):
            ordered, degrees = align(matrix, size)
            computed |= {f"output.{group}.aligned{number}": ordered, f"output.{group}.degree{number}": degrees[:, None]}
        for name in golden.expected:
            if name.startswith(f"output.{group}.step."):
                computed[name] = fit(matrices, _config(golden, name.rpartition(".")[2]))
        computed |= {f"output.{group}.step": steps[group], f"output.{group}.graphon": graphons[group]}
    bases, down = at_one_size([steps[group] for group in groups], graphons["down"])
    computed |= {f"output.{group}.resized": basis for group, basis in zip((*groups, "down"), (*bases, down))}
    computed |= {f"output.gw_{group}": gromov_wasserstein(basis, down) for group, basis in zip((*groups, "mean"), (*bases, bases.mean(axis=0)))}
    computed["output.entropic_gw_mean"] = entropic_gw(torch.from_numpy(bases.mean(axis=0)), torch.from_numpy(down))
    found = nearest(bases, down, FeasibilityConfig(learning_rate=_needed(golden, "lr"), epochs=int(_needed(golden, "epochs"))))
    computed |= {"output.alpha": found.last_alpha[:, None], "output.feasibility_distance": found.distance, "output.feasibility": -found.distance}
    return pick({name: torch.as_tensor(value).float() for name, value in computed.items()}, golden.expected)


def tolerances(golden: Golden) -> dict[str, float]:
    """Relative tolerance of outputs whose notes state one of their own."""
    stated = re.search(r"tolerate (\d[\d.]*(?:e-?\d+)?) relative", golden.metadata.get("notes", ""))
    return dict.fromkeys(ON_A_PATH, float(stated[1])) if stated else {}


RUNNERS: dict[str, Callable[[Golden], dict[str, Tensor]]] = {"graph/w2pgnn": _w2pgnn}
