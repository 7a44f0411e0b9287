"""Golden files of W2PGNN with other methods, sizes and options than the stored one: what is read from where."""

from pathlib import Path

import numpy as np
import pytest
import torch

from modalities.common.golden import Golden
from modalities.graph.golden.w2pgnn import RUNNERS, tolerances
from modalities.graph.graphons import METHODS, adjacency, sample
from trainer.errors import CheckpointError

STEPS = np.array([[0.9, 0.2], [0.2, 0.4]])
CONFIG = {"r": 6, "method": "LP", "n_bases": 1, "lr": 0.05, "epochs": 1}


def golden(expected, notes="", **config):
    graphs = {f"{group}.graph{n}": torch.from_numpy(adjacency(sample(STEPS, 9 + n, n))) for group in ("basis0", "down") for n in range(11)}
    names = {f"output.{name}": torch.zeros(()) for name in expected}
    return Golden(Path("a file"), "graph/w2pgnn", "official", {**CONFIG, **config}, {"notes": notes}, {}, graphs, names)


def computed(*expected, notes="", **config):
    return RUNNERS["graph/w2pgnn"](golden(expected, notes, **config))


@pytest.mark.parametrize("method", [*METHODS, "LP"])
def test_every_method_is_recomputed_as_the_chosen_and_as_a_named_one(method):
    found = computed("down.step", f"down.step.{method}", "basis0.aligned10", "basis0.graphon", "gw_basis0", "alpha", "feasibility", method=method)
    assert len(found) == 7 and torch.equal(found["output.down.step"], found[f"output.down.step.{method}"])
    assert found["output.basis0.graphon"].shape == (6, 6) and len(found["output.basis0.aligned10"]) == 19 and found["output.alpha"].tolist() == [[1.0]]


def test_options_come_from_the_config_or_else_from_the_notes():
    name = "output.down.step.FGWB"
    plain, config, notes = (computed("down.step.FGWB", **options)[name] for options in ({}, {"gamma": 0.9}, {"notes": "FGWB beta=5e-3, gamma=0.9."}))
    assert torch.equal(config, notes) and not torch.equal(config, plain)
    assert not torch.equal(computed("down.step.SFGWB", notes="alpha=0.3")["output.down.step.SFGWB"], computed("down.step.SFGWB")["output.down.step.SFGWB"])
    assert tolerances(golden((), "Entropic numbers tolerate 1e-3 relative."))["output.feasibility"] == 1e-3


def test_what_a_file_lacks_is_named():
    with pytest.raises(CheckpointError, match="a file: its config lacks lr"):
        computed("alpha", lr=None)
    with pytest.raises(CheckpointError, match="has no input.basis1.graph0"):
        computed("alpha", n_bases=2)
