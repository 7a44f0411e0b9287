"""Recomputes what the golden files of time series models hold (`python -m tools.check_golden`), one module per system."""

from collections.abc import Callable

from torch import Tensor

from modalities.common.golden import Golden, run_by
from modalities.time_series.golden import ce_ssl, chronos2, chronos_bolt, flowstate, gpht, sspt, time_moe, timelygpt, ttm

RUNNERS: dict[str, Callable[[Golden], dict[str, Tensor]]] = {**chronos2.RUNNERS, **flowstate.RUNNERS, **ce_ssl.RUNNERS, **chronos_bolt.RUNNERS, **gpht.RUNNERS, **sspt.RUNNERS, **time_moe.RUNNERS, **timelygpt.RUNNERS, **ttm.RUNNERS}
"""What a golden file calls its model -> the function that recomputes its outputs and gradients, under the file's names."""


def run(golden: Golden) -> dict[str, Tensor]:
    """The outputs and gradients of a file, recomputed, under the file's names."""
    return run_by(golden, RUNNERS)
