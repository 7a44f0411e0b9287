"""The built-in set: generated clips of two moving shapes whose class is the motion, so that one frame cannot give the answer.

Two shapes of random kind, size and brightness are drawn over random clutter. The picture is a torus (what leaves at one side comes in at the
other) and the shapes begin at independent uniform places, so that they are at independent uniform places in every frame, whatever
they do: the distribution of any single frame is exactly the same for all classes.
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
    "right, slow", "right, fast", "left, slow", "left, fast", "up, slow", "up, fast", "down, slow", "down, fast", "together", "against each other",
)  # fmt: skip
"""The first eight: one shape moves and the other stands still. The last two: both move along one line, equally fast."""
DIRECTIONS = ((0.0, 1.0), (0.0, -1.0), (-1.0, 0.0), (1.0, 0.0))
"""Rows and columns per frame at unit speed: right, left, up, down."""
SOURCE = "generated"
LICENCE = "Apache-2.0"
KINDS = 4
"""Disc, square, diamond, ring."""
SOFT = 0.5
"""Pixels over which the edge of a shape fades."""


@dataclass(frozen=True)
class MotionConfig:
    """How the clips are drawn. Lengths are in pixels, speeds in pixels per frame."""

    canvas: int = 16
    """Side of the square picture."""
    frames: int = 8
    """Frames of a clip."""
    speeds: tuple[float, float] = (0.75, 1.75)
    """Slow and fast."""
    radius: tuple[float, float] = (2.5, 3.5)
    """Smallest and largest half size of a shape."""
    clutter: float = 0.1
    """Strength of the still background (the shapes are at most 1)."""
    noise: float = 0.05
    """Standard deviation of the noise on every pixel of every frame."""
    samples: int = 8000
    """Clips of the train part."""
    test_samples: int = 1000
    """Clips of the test part."""
    seed: int = 0
    """Decides the clips."""

    def __post_init__(self) -> None:
        if self.canvas < 4 or self.frames < 2 or not 0 < self.radius[0] <= self.radius[1] <= self.canvas / 2:
            raise ConfigError(f"motion needs canvas at least 4, frames at least 2 and radius as (smallest, largest) up to half the canvas, found {self.canvas}, {self.frames} and {self.radius}.")
        if not 0 < self.speeds[0] < self.speeds[1] < self.canvas / 4:
            raise ConfigError(f"motion.speeds must be (slow, fast), different and below a quarter of the canvas, found {self.speeds}.")
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
    n, side = len(labels), config.canvas
    starts = side * torch.rand(n, 2, 2, generator=generator)  # (n, shape, row and column)
    steps = torch.arange(config.frames).view(1, -1, 1, 1)
    centres = starts[:, None] + steps * _velocities(labels, config, generator)[:, None]  # (n, T, shape, 2)
    pixels = torch.arange(side) + 0.5
    away = (pixels.view(1, 1, 1, 1, -1) - centres[..., None] + side / 2) % side - side / 2  # (n, T, shape, 2, S) on the torus
    rows, columns = away[:, :, :, 0, :, None], away[:, :, :, 1, None, :]  # (n, T, shape, S, 1), (n, T, shape, 1, S)
    low, high = config.radius
    radius = low + (high - low) * torch.rand(n, 1, 2, 1, 1, generator=generator)
    kind = torch.randint(KINDS, (n, 1, 2, 1, 1), generator=generator)
    disc, square, diamond = (rows.square() + columns.square()).sqrt(), torch.maximum(rows.abs(), columns.abs()), (rows.abs() + columns.abs()) / math.sqrt(2)
    ring = (disc - 0.7 * radius).abs() + 0.5 * radius
    distance = torch.where(kind == 0, disc, torch.where(kind == 1, square, torch.where(kind == 2, diamond, ring)))
    brightness = 0.6 + 0.4 * torch.rand(n, 1, 2, 1, 1, generator=generator)
    shapes = (brightness * ((radius - distance) / SOFT).sigmoid()).amax(dim=2)  # (n, T, S, S)
    scene = torch.maximum(shapes, _clutter(n, config, generator))
    scene = scene + config.noise * torch.randn(scene.shape, generator=generator)
    return (scene.clamp(0, 1) * 255).round().to(torch.uint8)[:, :, None]


def _velocities(labels: Tensor, config: MotionConfig, generator: torch.Generator) -> Tensor:
    """Pixels per frame of both shapes, (n, shape, 2)."""
    n, directions = len(labels), torch.tensor(DIRECTIONS)
    alone = labels < 8
    fast = torch.where(alone, labels % 2, torch.randint(2, (n,), generator=generator))
    way = torch.where(alone, labels // 2, torch.randint(4, (n,), generator=generator))
    first = directions[way] * torch.tensor(config.speeds)[fast][:, None]  # (n, 2)
    second = first * torch.tensor([0.0, 1.0, -1.0])[(labels - 7).clamp(min=0)][:, None]
    both = torch.stack([first, second], dim=1)
    return torch.where((torch.rand(n, generator=generator) < 0.5)[:, None, None], both, both.flip(1))


def _clutter(n: int, config: MotionConfig, generator: torch.Generator) -> Tensor:
    """A still background of random blobs, (n, 1, S, S), on the torus like the shapes."""
    coarse = torch.rand(n, 1, config.canvas // 2, config.canvas // 2, generator=generator)
    fine = F.interpolate(F.pad(coarse, (1, 1, 1, 1), mode="circular"), scale_factor=2, mode="bilinear", align_corners=False)[..., 2:-2, 2:-2]
    fine = F.pad(fine, (0, config.canvas - fine.shape[-1], 0, config.canvas - fine.shape[-2]), mode="replicate")
    return config.clutter * fine.square()
