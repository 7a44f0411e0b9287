"""Chronos-Bolt's forecast against chronos-forecasting's own class: the same configuration, the same weights, the same series.

    pip install --target PEER --no-deps chronos-forecasting
    python -m tools.bench_chronos --peer PEER [--batches 1 16 64] [--rounds 10]

The two alternate, in turn the one and the other first; the median of the ratios of each pair counts. Both run in evaluation mode without
gradients; ours is `forecast`, with all its checks. The command fails when outputs differ by more than 1e-4 of their largest magnitude.
"""

import sys
from pathlib import Path

import torch
import tyro
from torch import nn

import zoo
from modalities.common.commandline import guarded
from modalities.time_series.interop.chronos_bolt import to_official, to_official_config
from modalities.time_series.models.chronos_bolt import ChronosBolt
from tools.bench_forecasters import race
from trainer.errors import MissingDependencyError, ModelError


def bench(name: str = "time_series/chronos-bolt-tiny", peer: Path | None = None, batches: tuple[int, ...] = (1, 16, 64), rounds: int = 10, seed: int = 0) -> list[float]:
    """Print the time of a forecast of each, and the median ratio, for some numbers of series of the longest context.

    Args:
        name: Which Chronos-Bolt; weights are random.
        peer: Folder into which chronos-forecasting was installed. Default: where Python finds it.
        batches: Numbers of series.
        rounds: Pairs that are timed.
        seed: Of weights and series.
    """
    torch.manual_seed(seed)
    ours = zoo.create(name).eval()
    theirs = official(ours, peer)
    runs = {
        "here": lambda series: ours.forecast({"series": series}, ours.direct_horizon).quantiles[:, :, 0],
        "chronos-forecasting": lambda series: theirs(context=series[:, 0]).quantile_preds,
    }
    return race(runs, batches, ours.context_length, rounds)


def official(model: ChronosBolt, peer: Path | None) -> nn.Module:
    """chronos-forecasting's class with the model's configuration and weights. MissingDependencyError when it is not there."""
    if peer is not None:
        sys.path.append(str(peer))
    try:
        from chronos.chronos_bolt import ChronosBoltModelForForecasting
        from transformers import T5Config
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{error.name!r} is not in {peer or 'the path of Python'}: pip install --target FOLDER --no-deps chronos-forecasting, and give --peer FOLDER; "
            "transformers comes with 'modality-zoo[transformers]'."
        ) from error
    theirs = ChronosBoltModelForForecasting(T5Config(**to_official_config(model)))
    missing, unexpected = theirs.load_state_dict(to_official(model), strict=False)
    if unexpected or not all("embed_tokens" in name for name in missing):
        raise ModelError(f"chronos-forecasting takes these weights only in part: missing {missing}, unexpected {unexpected}.")
    return theirs.eval()


if __name__ == "__main__":
    sys.exit(guarded(lambda: tyro.cli(bench, prog="python -m tools.bench_chronos")))
