"""How well the timing of circuits is known: R2 of times, slacks and delays, circuit after circuit, counted as PreRoutGNN's authors do (Zhong et al. 2024)."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch

from modalities.common.evaluation import HeldOut, ReportedEvaluator, Row, result
from modalities.graph.circuit_sets import CircuitSource
from modalities.graph.circuits import CORNERS
from modalities.graph.evaluation import FEATURES
from modalities.graph.models.preroutgnn import PreRoutGNN
from modalities.graph.preprocess import collate
from trainer.objective import Objective

MEASURED = {
    "arrival": "R2 of arrival times", "slack": "R2 of slacks", "slew": "R2 of log-slews", "net_delay": "R2 of log-delays of wires", "cell_delay": "R2 of delays of cells",
}  # fmt: skip
"""What is compared -> how it is called. Slacks are those of end points."""
FLAT = "_flat"
"""Put after the name of a value that takes all corners at once."""


class Compared(NamedTuple):
    """Numbers (M, 4), one column for each corner."""

    found: Tensor
    true: Tensor
    """NaN where it is not known or nothing is asked."""


def slack(arrival: Tensor, required: Tensor) -> Tensor:
    """Time to spare (N, 4), below 0 where a signal comes too late (late corners), or too early for what must still be held (early corners)."""
    early = CORNERS // 2
    return torch.cat([(arrival - required)[:, :early], (required - arrival)[:, early:]], dim=1)


@torch.no_grad()
def compare(model: PreRoutGNN, batch: Batch) -> dict[str, Compared]:
    """What the model finds level by level from the primary inputs, beside what the batch says; the keys are those of `MEASURED`."""
    timing = model.timing_of(batch)
    unknown = batch.labelled[:, None] == 0
    true, said = batch.timing.masked_fill(unknown, torch.nan), torch.full_like(batch.timing[:, :CORNERS], torch.nan)
    at_end = torch.zeros(len(said), 1, dtype=torch.bool, device=said.device).index_fill_(0, batch.net_index[1], True)
    found = timing.pins[:, :CORNERS]
    return {
        "arrival": Compared(found, true[:, :CORNERS]),
        "slack": Compared(slack(found, batch.required), slack(true[:, :CORNERS], batch.required)),
        "slew": Compared(timing.pins[:, CORNERS:], true[:, CORNERS:]),
        "net_delay": Compared(timing.net_delays, torch.where(at_end, batch.net_delays, said) if "net_delays" in batch else said),
        "cell_delay": Compared(timing.cell_delays, batch.get("cell_delays", torch.full_like(timing.cell_delays, torch.nan))),
    }


def r2(found: Tensor, true: Tensor) -> float:
    """Share of the variance that is explained, the mean over the columns of (M, K). NaN in `true` are left out; a column without variance is not counted, and without any the value is NaN."""
    shares = []
    for said, known in zip(found.double().T, true.double().T):
        there = known.isfinite()
        spread = (known[there] - known[there].mean()).square().sum()
        if spread > 1e-12:
            shares.append(float(1 - (said - known)[there].square().sum() / spread))
    return mean_known(shares)


def mean_known(values: Iterable[float]) -> float:
    """The mean of those that are numbers; NaN when there is none."""
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan


class TimingR2:
    """R2 of all in `MEASURED`, the mean over corners and then over circuits; of arrival times and slacks also with all corners taken at once."""

    def __init__(self, source: CircuitSource) -> None:
        self.source = source
        self.name = f"times on {source.name}"
        lacking = {"slack": all(circuit.required.isnan().all() for circuit in source.circuits)}
        lacking |= {name: not any(f"{name}s" in circuit for circuit in source.circuits) for name in ("net_delay", "cell_delay")}
        names = [name for name in MEASURED if not lacking.get(name)]
        self.higher_is_better = dict.fromkeys([*names, *(name + FLAT for name in names if name in ("arrival", "slack"))], True)

    def __call__(self, objective: Objective) -> dict[str, float]:
        model, found = objective.export(), []
        for index in range(len(self.source)):
            compared = compare(model, collate([self.source[index]]).to(model.device))
            each = {name: r2(*pair) for name, pair in compared.items()}
            flat = {name + FLAT: r2(*(numbers.reshape(-1, 1) for numbers in pair)) for name, pair in compared.items()}
            found.append({name: value for name, value in (each | flat).items() if name in self.higher_is_better})
        return {name: mean_known(each[name] for each in found) for name in self.higher_is_better}

    def row(self, name: str, value: float) -> Row:
        plain = name.removesuffix(FLAT)
        how = "all corners at once" if name != plain else "mean over corners"
        return result(self.source, FEATURES, MEASURED[plain], round(value, 4), f"{how}, then over circuits; found level by level")


def timing_evaluators(source: CircuitSource) -> list[ReportedEvaluator]:
    """The loss on circuits that have all labels, and how well their times are found."""
    whole = all(name in circuit for circuit in source.circuits for name in ("net_delays", "cell_delays"))
    return [*([HeldOut(source, FEATURES, "squared error of times and delays, from true times", batch=1)] if whole else []), TimingR2(source)]
