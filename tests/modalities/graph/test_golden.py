"""The official outputs, recomputed."""

from pathlib import Path

import pytest

from modalities.graph.golden import RUNNERS
from tools.check_golden import main

GOLDEN = Path(__file__).parents[2] / "golden" / "graph"


@pytest.mark.parametrize("name", ["graphmae", "graphmae_gin", "graphmae_chem", "pretrain_gnns", "w2pgnn", "preroutgnn", "preroutgnn_encoder", "preroutgnn_decoder"])
def test_golden(name, capsys):
    assert main([str(GOLDEN / f"{name}.safetensors")]) == 0, capsys.readouterr().out


def test_every_runner_has_a_file():
    from trainer.weights import read_metadata

    assert {read_metadata(path)["model"] for path in GOLDEN.glob("*.safetensors")} >= set(RUNNERS)
