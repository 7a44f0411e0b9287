"""Time-MoE, forward and backward: experts by groups against the official loop over experts.

    python -m tools.bench_time_moe [--size 50m] [--rows 2] [--length 512] [--rounds 3]

Both networks have the same weights and get the same sequences; the sum of the heads' mean squares is what is derived. Rounds alternate, the
shortest time of each counts. The command fails when outputs or gradients differ by more than 1e-4 of their largest magnitude.
"""

import sys
import time
from collections.abc import Callable

import torch
import tyro
from torch import Tensor, nn

import zoo
from modalities.time_series.interop.naming import in_layout
from modalities.time_series.interop.time_moe import names_in, to_official
from modalities.time_series.models.time_moe import TimeMoE
from tools.looped_experts import LoopedTimeMoE
from trainer.errors import ModelError


def bench(size: str = "50m", rows: int = 2, length: int = 512, rounds: int = 3, seed: int = 0) -> float:
    """Print the time of a step of each, and their ratio.

    Args:
        size: 50m, 200m or ultra.
        rows: Sequences in the batch.
        length: Points of each.
        rounds: Steps of each that are timed, after one that is not.
        seed: Of weights and sequences.
    """
    torch.manual_seed(seed)
    ours = zoo.create(f"time_series/time-moe-{size}")
    theirs = LoopedTimeMoE(ours.config)
    theirs.load_state_dict(to_official(ours))
    values = torch.randn(rows, length)
    steps = {"by groups": lambda: step(ours, lambda: answers(ours, values)), "official loop": lambda: step(theirs, lambda: theirs(values)[0])}
    first = {name: run() for name, run in steps.items()}
    require_same(first["by groups"], first["official loop"])
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, run in steps.items():
            began = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - began)
    for name, seconds in best.items():
        print(f"{name:15} {1000 * seconds:9.1f} ms per step of {rows} x {length} points")
    ratio = best["official loop"] / best["by groups"]
    print(f"ratio {ratio:.2f} on {torch.get_num_threads()} thread(s)")
    return ratio


def answers(model: TimeMoE, values: Tensor) -> list[Tensor]:
    """What every head says at every point."""
    hidden = model.decode(values).hidden
    return [head(hidden) for head in model.heads]


def step(model: nn.Module, forward: Callable[[], list[Tensor]]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Forward and backward; what came out and the gradients by parameter."""
    model.zero_grad(set_to_none=True)
    found = forward()
    sum(x.square().mean() for x in found).backward()
    return [x.detach() for x in found], {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def require_same(ours: tuple[list[Tensor], dict[str, Tensor]], theirs: tuple[list[Tensor], dict[str, Tensor]]) -> None:
    """ModelError unless outputs and gradients are the same."""
    gradients = in_layout(ours[1], names_in)
    pairs = [*zip(ours[0], theirs[0]), *((gradients[name], gradient) for name, gradient in theirs[1].items())]
    worst = max(((a - b).abs().max() / b.abs().max().clamp(min=1e-8)).item() for a, b in pairs)
    if not worst <= 1e-4:
        raise ModelError(f"The two networks differ by {worst:.1g} of the largest magnitude; at most 1e-4 is allowed.")


if __name__ == "__main__":
    tyro.cli(bench, prog="python -m tools.bench_time_moe")
    sys.exit()
