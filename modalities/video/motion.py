"""The built-in set: generated clips of two discs on circles whose class is the motion, so that one frame cannot give the answer.

A bright and a dim disc go round the middle of the picture, each on a circle of its own, over faint clutter. Both begin at independent uniform angles,
and whatever they do, their angles in any frame are independent and uniform: the distribution of any single frame is exactly the same for all
classes. How a disc moves within a token does not give the answer either, as a disc that goes down is on its way round clockwise on the right and
anticlockwise on the left.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.errors import ConfigError

Part = Literal["train", "test"]
CLASSES = (
    "clockwise, slow", "clockwise, fast", "anticlockwise, slow", "anticlockwise, fast", "clockwise and back", "anticlockwise and back", "together", "against each other",
)  # fmt: skip
"""The first six: what the bright disc does, while the dim one does another of the six that is not the mirror image. The last two: both do the same of the six, or its mirror image."""
MOTIONS = 6
MIRRORED = (2, 3, 0, 1, 5, 4)
"""Of each of the six motions the one the other way round."""
SOURCE = "generated"
LICENCE = "Apache-2.0"
SOFT = 0.5
"""Pixels over which the edge of a disc fades."""
JITTER = 0.15
"""Largest deviation of a speed from slow or fast, as a share of it."""


@dataclass(frozen=True)
class MotionConfig:
    """How the clips are drawn. Lengths are in pixels, speeds in radians per frame."""

    canvas: int = 16
    """Side of the square picture."""
    frames: int = 8
    """Frames of a clip."""
    speeds: tuple[float, float] = (0.3, 0.6)
    """Slow and fast."""
    orbit: tuple[float, float] = (3.5, 5.5)
    """Smallest and largest radius of the circles on which the discs move."""
    radius: tuple[float, float] = (1.6, 2.2)
    """Smallest and largest radius of a disc."""
    clutter: float = 0.05
    """Strength of the still background (the bright disc is at most 1)."""
    noise: float = 0.03
    """Standard deviation of the noise on every pixel of every frame."""
    samples: int = 8000
    """Clips of the train part."""
    test_samples: int = 1000
    """Clips of the test part."""
    seed: int = 0
    """Decides the clips."""

    def __post_init__(self) -> None:
        if self.canvas < 4 or self.frames < 3 or not 0 < self.radius[0] <= self.radius[1]:
            raise ConfigError(f"motion needs canvas at least 4, frames at least 3 and radius as (smallest, largest), found {self.canvas}, {self.frames} and {self.radius}.")
        if not 0 < self.orbit[0] <= self.orbit[1] <= self.canvas / 2:
            raise ConfigError(f"motion.orbit must be (smallest, largest), up to half of the canvas of {self.canvas}, found {self.orbit}.")
        if not 0 < self.speeds[0] < self.speeds[1] < math.pi / 2:
            raise ConfigError(f"motion.speeds must be (slow, fast), different and below a quarter of a turn (1.57), found {self.speeds}.")
        if self.clutter < 0 or self.noise < 0 or self.seed < 0 or min(self.samples, self.test_samples) < len(CLASSES):
            raise ConfigError(f"motion needs clutter, noise and seed of at least 0 and at least {len(CLASSES)} samples in both parts.")


@lru_cache(maxsize=4)
def clips(part: Part, config: MotionConfig) -> tuple[Tensor, Tensor]:
    """Clips (N, T, 1, S, S) uint8 of a part and their labels (N,), equally many of each class. Drawn once per process: do not write into them."""
    count = config.samples if part == "train" else config.test_samples
    generator = torch.Generator().manual_seed(2 * config.seed + (part == "test"))
    labels = torch.arange(count) % len(CLASSES)
    labels = labels[torch.randperm(count, generator=generator)]
    return torch.cat([_draw(some, config, generator) for some in labels.split(500)]), labels


def _draw(labels: Tensor, config: MotionConfig, generator: torch.Generator) -> Tensor:
    """One clip for each label (n,): (n, T, 1, S, S) uint8."""
    n, middle = len(labels), config.canvas / 2
    angles = 2 * math.pi * torch.rand(n, 1, 2, generator=generator) + _turns(labels, config, generator)  # (n, T, disc)
    circle = _between(config.orbit, (n, 1, 2), generator)
    pixels = torch.arange(config.canvas) + 0.5
    rows = pixels.view(-1, 1) - (middle + circle * angles.sin())[..., None, None]  # (n, T, disc, S, 1); rows grow downwards, so angles grow clockwise
    columns = pixels - (middle + circle * angles.cos())[..., None, None]
    radius = _between(config.radius, (n, 1, 2, 1, 1), generator)
    inside = ((radius - (rows.square() + columns.square()).sqrt()) / SOFT).sigmoid()
    brightness = torch.stack([_between((0.85, 1.0), (n, 1), generator), _between((0.4, 0.55), (n, 1), generator)], dim=2)  # (n, 1, disc)
    discs = (brightness[..., None, None] * inside).amax(dim=2)  # (n, T, S, S)
    scene = torch.maximum(discs, _clutter(n, config, generator))
    scene = scene + config.noise * torch.randn(scene.shape, generator=generator)
    return (scene.clamp(0, 1) * 255).round().to(torch.uint8)[:, :, None]


def _turns(labels: Tensor, config: MotionConfig, generator: torch.Generator) -> Tensor:
    """How far both discs have turned clockwise since the first frame, in radians, (n, T, disc)."""
    n, mirrored = len(labels), torch.tensor(MIRRORED)
    bright = torch.where(labels < MOTIONS, labels, torch.randint(MOTIONS, (n,), generator=generator))
    chances = torch.ones(n, MOTIONS).scatter_(1, torch.stack([bright, mirrored[bright]], dim=1), 0.0)  # neither the same nor its mirror image
    other = torch.multinomial(chances, 1, generator=generator)[:, 0]
    dim = torch.where(labels < MOTIONS, other, torch.where(labels == MOTIONS, bright, mirrored[bright]))
    motions = torch.stack([bright, dim], dim=1)  # (n, disc)
    back = motions >= 4
    clockwise = (motions < 2) | (motions == 4)
    speed = torch.tensor(config.speeds)[(motions % 2).bool().logical_or(back).long()] * (1 + JITTER * _between((-1.0, 1.0), (n, 2), generator))
    speed = torch.where((labels < MOTIONS)[:, None], speed, speed[:, :1])  # discs of a pair are equally fast
    times = torch.arange(config.frames, dtype=torch.float32).view(1, -1, 1)
    half = (config.frames - 1) / 2
    passed = torch.where(back[:, None], half - (times - half).abs(), times)
    return torch.where(clockwise, speed, -speed)[:, None] * passed


def _between(limits: tuple[float, float], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform random numbers."""
    return limits[0] + (limits[1] - limits[0]) * torch.rand(shape, generator=generator)


def _clutter(n: int, config: MotionConfig, generator: torch.Generator) -> Tensor:
    """A still background of random blobs, (n, 1, S, S)."""
    coarse = torch.rand(n, 1, config.canvas // 2, config.canvas // 2, generator=generator)
    return config.clutter * F.interpolate(coarse, size=(config.canvas, config.canvas), mode="bilinear", align_corners=False).square()
