"""Our training steps against those of the peers on the same weights, inputs and masks: `python -m tools.bench_steps`.

- mae: vision/mae-base against transformers' ViTMAEForPreTraining;
- videomae: video/videomae-small against transformers' VideoMAEForPreTraining;
- finetune: our classifier on ViT-B/16 against timm's own.

A step is forward, backward and AdamW (fused, on both sides), in single precision. Both are interleaved in one process, so that a slow moment of
the machine hits both. Prints by how much their losses differ at most over all steps, the median of the paired ratios (theirs / ours; above 1 is
faster) and, for either side, how much of the machine's own rate for matrix products it reaches: operations of a whole step as the peer computes
it / time / rate. With --compile, both are compiled, and ours is measured without it as well.
"""

import copy
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
    """torch.compile both, and show what it does to ours."""


def main(options: Options) -> float:
    """Measure and print; returns the median ratio."""
    name, peer_name, ours, theirs = _build(options)
    sides = {"ours": ours, peer_name: theirs}
    if options.compile:
        sides["ours, plain"] = _build(options)[2]
    for module, _ in sides.values():
        module.train()
    with FlopCounterMode(display=False) as counter:
        theirs[1]().backward()
    operations = counter.get_total_flops()
    theirs[0].zero_grad()
    if options.compile:
        ours[0].compile(), theirs[0].compile()
    steps = [Step(*side) for side in sides.values()]
    rounds, rates = [], []
    for _ in range(options.repeats + 2):
        rates.append(matrix_rate())
        rounds.append([step.seconds() for step in steps])
    columns, rate = dict(zip(sides, zip(*rounds[2:]))), statistics.median(rates[2:])
    difference = max(abs(loss - side.losses[i]) for side in steps for i, loss in enumerate(steps[0].losses))
    how = ", compiled" if options.compile else ""
    print(f"{name}, batch {options.batch_size}, {torch.get_num_threads()} threads{how}; losses differ by {difference:.1e}")
    print(f"{operations / 1e9:.0f} GFLOP a step; products of {SQUARE} x {SQUARE} matrices: {rate / 1e9:.0f} GFLOP/s")
    for side, column in columns.items():
        seconds = statistics.median(column)
        print(f"{side:<13}{1000 * seconds:>8.0f} ms, {operations / seconds / rate:.2f} of the rate of products")
    ratios = [statistics.median(b / a for a, b in zip(columns["ours"], columns[other])) for other in columns if other != "ours"]
    for other, ratio in zip(list(columns)[1:], ratios):
        print(f"median of the paired ratios, {other} / ours: {ratio:.3f}")
    return ratios[0]


def _build(options: Options) -> tuple[str, str, Side, Side]:
    """The names of the step and of the peer, our side and theirs; the same ones each time."""
    torch.manual_seed(0)
    return {"mae": _mae, "videomae": _videomae, "finetune": _finetune}[options.step](options)


def _mae(options: Options) -> tuple[str, str, Side, Side]:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    name = options.model or "vision/mae-base"
    model = zoo.create(name)
    objective = MAEObjectiveConfig().build(model)
    state, config = mae.to_transformers(model)
    values = copy.deepcopy(state)  # the peer takes these tensors for its own
    peer = ViTMAEForPreTraining.from_pretrained(None, config=ViTMAEConfig(**{**config, "norm_pix_loss": True}), state_dict=values)
    images, noise = inputs(model, options.batch_size), torch.rand(options.batch_size, model.patch_embed.length)
    return name, "transformers", (objective, lambda: objective({"image": images}, noise).loss), (peer, lambda: peer(images, noise=noise).loss)


def _videomae(options: Options) -> tuple[str, str, Side, Side]:
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    name = options.model or "video/videomae-small"
    model = zoo.create(name)
    objective = VideoMAEObjectiveConfig().build(model)
    state, config = videomae.to_transformers(model)
    values = copy.deepcopy(state)  # the peer takes these tensors for its own
    peer = VideoMAEForPreTraining.from_pretrained(None, config=VideoMAEConfig(**config), state_dict=values)
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
        self.losses: list[float] = []
        """Of the steps so far."""
        self.optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-6, fused=True)

    def seconds(self) -> float:
        """Take a step; how long it took."""
        start = time.perf_counter()
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - start
        self.losses.append(loss.item())
        return seconds


def matrix_rate() -> float:
    """Operations per second in one product of square matrices."""
    a, b = torch.randn(2, SQUARE, SQUARE)
    start = time.perf_counter()
    a @ b
    return 2 * SQUARE**3 / (time.perf_counter() - start)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m tools.bench_steps"))
