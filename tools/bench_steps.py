"""Our training steps against those of the peers on the same weights, inputs and masks: `python -m tools.bench_steps`.

- mae: vision/mae-base against transformers' ViTMAEForPreTraining;
- videomae: video/videomae-small against transformers' VideoMAEForPreTraining;
- finetune: our classifier on ViT-B/16 against timm's own.

A step is forward, backward and AdamW (fused, on both sides), in single precision. Both are interleaved in one process, so that a slow moment of
the machine hits both. Prints the median of the paired ratios (theirs / ours; above 1 is faster) and, for either side, how much of the
machine's own rate for matrix products it reaches: operations of a whole step as the peer computes it / time / rate.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Literal

import timm
import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import zoo
from modalities.common.model import Model
from modalities.video.interop import videomae
from modalities.video.objectives.videomae import VideoMAEObjectiveConfig
from modalities.vision.interop import mae
from modalities.vision.models.vit import ViTClassifier
from modalities.vision.objectives.mae import MAEObjectiveConfig

SQUARE = 2048
"""Side of the matrices whose product tells the machine's rate."""

Side = tuple[nn.Module, Callable[[], Tensor]]
"""A module and the function that gives its loss."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure."""

    step: Literal["mae", "videomae", "finetune"] = "mae"
    """Which step."""
    model: str | None = None
    """Another size of the model, as in vision/mae-tiny."""
    batch_size: int = 8
    """Samples per step."""
    repeats: int = 15
    """Paired measurements, after two that do not count."""
    compile: bool = False
    """torch.compile both."""


def main(options: Options) -> float:
    """Measure and print; returns the median ratio."""
    torch.manual_seed(0)
    name, peer_name, ours, theirs = {"mae": _mae, "videomae": _videomae, "finetune": _finetune}[options.step](options)
    for module, _ in (ours, theirs):
        module.train()
    with FlopCounterMode(display=False) as counter:
        theirs[1]().backward()
    operations = counter.get_total_flops()
    with torch.no_grad():
        difference = abs(ours[1]().item() - theirs[1]().item())
    if options.compile:
        ours[0].compile(), theirs[0].compile()
    steps = Step(*ours), Step(*theirs)
    pairs, rates = [], []
    for _ in range(options.repeats + 2):
        rates.append(matrix_rate())
        pairs.append(tuple(step.seconds() for step in steps))
    pairs, rate = pairs[2:], statistics.median(rates[2:])
    ratio = statistics.median(b / a for a, b in pairs)
    how = ", compiled" if options.compile else ""
    print(f"{name}, batch {options.batch_size}, {torch.get_num_threads()} threads{how}; losses differ by {difference:.1e}")
    print(f"{operations / 1e9:.0f} GFLOP a step; products of {SQUARE} x {SQUARE} matrices: {rate / 1e9:.0f} GFLOP/s")
    for side, column in zip(("ours", peer_name), zip(*pairs)):
        seconds = statistics.median(column)
        print(f"{side:<13}{1000 * seconds:>8.0f} ms, {operations / seconds / rate:.2f} of the rate of products")
    print(f"median of the paired ratios, {peer_name} / ours: {ratio:.3f}")
    return ratio


def _mae(options: Options) -> tuple[str, str, Side, Side]:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    name = options.model or "vision/mae-base"
    model = zoo.create(name)
    objective = MAEObjectiveConfig().build(model)
    state, config = mae.to_transformers(model)
    peer = ViTMAEForPreTraining.from_pretrained(None, config=ViTMAEConfig(**{**config, "norm_pix_loss": True}), state_dict=state)
    images, noise = inputs(model, options.batch_size), torch.rand(options.batch_size, model.patch_embed.length)
    return name, "transformers", (objective, lambda: objective({"image": images}, noise).loss), (peer, lambda: peer(images, noise=noise).loss)


def _videomae(options: Options) -> tuple[str, str, Side, Side]:
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    name = options.model or "video/videomae-small"
    model = zoo.create(name)
    objective = VideoMAEObjectiveConfig().build(model)
    state, config = videomae.to_transformers(model)
    peer = VideoMAEForPreTraining.from_pretrained(None, config=VideoMAEConfig(**config), state_dict=state)
    clips, noise = inputs(model, options.batch_size), torch.rand(options.batch_size, model.noise_length)
    hidden = model.mask(noise, 0.9).mask.bool()
    turned = clips.transpose(1, 2).contiguous()
    return name, "transformers", (objective, lambda: objective({"video": clips}, noise).loss), (peer, lambda: peer(turned, bool_masked_pos=hidden).loss)


def _finetune(options: Options) -> tuple[str, str, Side, Side]:
    name = options.model or "vision/mae-base"
    model = ViTClassifier.from_encoder(zoo.create(name), 1000)
    peer = timm.create_model("vit_base_patch16_224", global_pool="avg")
    peer.load_state_dict(mae.to_timm(model))
    images, labels = inputs(model, options.batch_size), torch.randint(1000, (options.batch_size,))
    ours, theirs = (lambda: F.cross_entropy(model({"image": images}), labels)), (lambda: F.cross_entropy(peer(images), labels))
    return f"{name} as a classifier", "timm", (model, ours), (peer, theirs)


def inputs(model: Model, samples: int) -> Tensor:
    """Random inputs for a model."""
    return torch.randn(samples, *model.input_shape())


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
    main(tyro.cli(Options, prog="python -m tools.bench_steps"))
