"""Recomputes what the golden files of graph models hold (`python -m tools.check_golden`), one module per system."""

from torch import Tensor

from modalities.common.golden import Golden, run_by
from modalities.graph.golden import graphmae, preroutgnn, pretrain_gnns, w2pgnn

RUNNERS = {**graphmae.RUNNERS, **pretrain_gnns.RUNNERS, **w2pgnn.RUNNERS, **preroutgnn.RUNNERS}
"""What a golden file calls its model -> the function that recomputes its outputs and gradients, under the file's names."""


def run(golden: Golden) -> dict[str, Tensor]:
    """The outputs and gradients of a file, recomputed, under the file's names."""
    return run_by(golden, RUNNERS)


def tolerances(golden: Golden) -> dict[str, float]:
    """Outputs for which the file's notes state a tolerance of their own."""
    return w2pgnn.tolerances(golden) if golden.model in w2pgnn.RUNNERS else {}
