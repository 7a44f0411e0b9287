"""Our MAE training step against transformers' on the same weights and images: `python -m tools.bench_mae`.

Both run forward and backward with normalised-pixel loss, interleaved in one process, so that a slow moment of the
machine hits both. Prints the median of the paired ratios (ours / theirs; below 1 is faster) and both medians.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable

import torch
import tyro

import zoo
from modalities.common.reconstruction import MaskedReconstruction
from modalities.vision.interop.mae import to_transformers
from modalities.vision.objectives.mae import MAEObjectiveConfig


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    size: str = "small"
    """Size of vision/mae-*."""
    input_size: int = 224
    """Side of the images, in pixels."""
    batch_size: int = 8
    """Images per step."""
    repeats: int = 15
    """Paired measurements, after two that do not count."""


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
    ours, theirs = (lambda: objective({"image": images}, noise).loss), (lambda: peer(images, noise=noise).loss)
    difference = abs(ours().item() - theirs().item())
    pairs = [(_seconds(ours, objective), _seconds(theirs, peer)) for _ in range(options.repeats + 2)][2:]
    ratio = statistics.median(a / b for a, b in pairs)
    a, b = (statistics.median(column) for column in zip(*pairs))
    print(f"vision/mae-{options.size}, {options.input_size} pixels, batch {options.batch_size}, {torch.get_num_threads()} threads, losses differ by {difference:.1e}")
    print(f"ours {1000 * a:.0f} ms, transformers {1000 * b:.0f} ms, median of the paired ratios {ratio:.3f}")
    return ratio


def _seconds(loss: Callable[[], torch.Tensor], module: torch.nn.Module) -> float:
    start = time.perf_counter()
    loss().backward()
    seconds = time.perf_counter() - start
    module.zero_grad(set_to_none=True)
    return seconds


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m tools.bench_mae"))
