"""Our MAE training step against transformers' on the same weights, images and masks: `python -m tools.bench_mae`.

A step is forward, backward and AdamW (fused, on both sides), in single precision. Both are interleaved in one process, so that a slow moment of
the machine hits both. Prints the median of the paired ratios (theirs / ours; above 1 is faster) and, for either side, how much of the
machine's own rate for matrix products it reaches: operations of a whole step as the peer computes it / time / rate.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable

import torch
import tyro
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import zoo
from modalities.common.reconstruction import MaskedReconstruction
from modalities.vision.interop.mae import to_transformers
from modalities.vision.objectives.mae import MAEObjectiveConfig

SQUARE = 2048
"""Side of the matrices whose product tells the machine's rate."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    size: str = "base"
    """Size of vision/mae-*."""
    input_size: int = 224
    """Side of the images, in pixels."""
    batch_size: int = 8
    """Images per step."""
    repeats: int = 15
    """Paired measurements, after two that do not count."""
    compile: bool = False
    """torch.compile both."""


def main(options: Options) -> float:
    """Measure and print; returns the median ratio."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    torch.manual_seed(0)
    model = zoo.create(f"vision/mae-{options.size}", input_size=options.input_size)
    objective = MaskedReconstruction(model, MAEObjectiveConfig())
    state, config = to_transformers(model)
    peer = ViTMAEForPreTraining.from_pretrained(None, config=ViTMAEConfig(**{**config, "norm_pix_loss": True}), state_dict=state)
    objective.train(), peer.train()
    images = torch.randn(options.batch_size, model.config.in_chans, *model.config.input_size)
    noise = torch.rand(options.batch_size, model.patch_embed.length)
    with FlopCounterMode(display=False) as counter:
        peer(images, noise=noise).loss.backward()
    peer.zero_grad(set_to_none=True)
    operations = counter.get_total_flops()
    if options.compile:
        objective.compile(), peer.compile()
    ours, theirs = (lambda: objective({"image": images}, noise).loss), (lambda: peer(images, noise=noise).loss)
    with torch.no_grad():
        difference = abs(ours().item() - theirs().item())
    steps = Step(objective, ours), Step(peer, theirs)
    pairs, rates = [], []
    for _ in range(options.repeats + 2):
        rates.append(matrix_rate())
        pairs.append(tuple(step.seconds() for step in steps))
    pairs, rate = pairs[2:], statistics.median(rates[2:])
    ratio = statistics.median(b / a for a, b in pairs)
    a, b = (statistics.median(column) for column in zip(*pairs))
    how = ", compiled" if options.compile else ""
    print(f"vision/mae-{options.size}, {options.input_size} pixels, batch {options.batch_size}, {torch.get_num_threads()} threads{how}; losses differ by {difference:.1e}")
    print(f"{operations / 1e9:.0f} GFLOP a step; products of {SQUARE} x {SQUARE} matrices: {rate / 1e9:.0f} GFLOP/s")
    for name, seconds in (("ours", a), ("transformers", b)):
        print(f"{name:<13}{1000 * seconds:>8.0f} ms, {operations / seconds / rate:.2f} of the rate of products")
    print(f"median of the paired ratios, transformers / ours: {ratio:.3f}")
    return ratio


class Step:
    """A training step of a module whose loss a function gives."""

    def __init__(self, module: nn.Module, loss: Callable[[], torch.Tensor]) -> None:
        self.loss = loss
        self.optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-6, fused=True)

    def seconds(self) -> float:
        """Take a step; how long it took."""
        start = time.perf_counter()
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - start


def matrix_rate() -> float:
    """Operations per second in one product of square matrices."""
    a, b = torch.randn(2, SQUARE, SQUARE)
    start = time.perf_counter()
    a @ b
    return 2 * SQUARE**3 / (time.perf_counter() - start)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m tools.bench_mae"))
