"""The built-in sets: scikit-learn's handwritten digits, and cluttered scenes drawn from them.

Both need no download. The digits are 8x8 grey pixels and nearly solved by comparing pixels; in a scene a digit
is moved, turned and resized, and fragments of other digits lie over it, so that features have to be learned.
"""

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.errors import ConfigError

Part = Literal["train", "test"]
CLASSES = tuple("0123456789")
TEST_DIGITS = 500
SOURCE = (
    "Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, E. Alpaydin and C. Kaynak 1998; "
    "the test part of 1,797 images as bundled by scikit-learn"
)
LICENCE = "CC BY 4.0"
LAYERS = ("background", "digit", "fragment")
"""Classes of a scene's segmentation: where the digit is, not which one."""
SHOWS = 0.25
"""From this brightness on a digit or a piece hides what lies behind it."""
FINE = 32
"""Side to which the 8x8 digits are enlarged before they are placed, in pixels."""


@dataclass(frozen=True)
class SceneConfig:
    """How digits become scenes. Lengths are in pixels of the canvas."""

    canvas: int = 20
    """Side of the square picture."""
    digit_size: tuple[float, float] = (14.0, 16.0)
    """Smallest and largest side of the digit's 8x8 frame."""
    travel: float = 1.5
    """Farthest that the digit's centre lies from the middle of the picture along each axis."""
    rotation: float = 15.0
    """Largest turn to either side, in degrees."""
    fragments: int = 2
    """Pieces of other digits, drawn over the scene."""
    fragment_size: int = 3
    """Side of a piece, in pixels of the 8x8 digit it is cut from."""
    brightness: float = 0.7
    """Each digit and each piece is multiplied by a number between this and 1."""
    noise: float = 0.05
    """Standard deviation of the noise on every pixel (white is 1)."""
    views: int = 20
    """Scenes per digit of the train part when pre-training."""
    test_views: int = 4
    """Scenes per digit of the test part."""
    seed: int = 0
    """Decides the scenes. The train and test digits are always the same."""

    def __post_init__(self) -> None:
        if self.canvas < 1 or not 0 < self.digit_size[0] <= self.digit_size[1] or self.travel < 0:
            raise ConfigError(
                f"scenes need canvas at least 1, digit_size as (smallest, largest) above 0 and travel at least 0, "
                f"found {self.canvas}, {self.digit_size} and {self.travel}."
            )
        if not 1 <= self.fragment_size <= 8 or self.fragments < 0 or self.views < 1 or self.test_views < 1:
            raise ConfigError("scenes need fragment_size in 1..8, fragments at least 0, views and test_views at least 1.")
        if not 0 <= self.brightness <= 1 or self.noise < 0:
            raise ConfigError(f"scenes.brightness must be in 0..1 and noise at least 0, found {self.brightness} and {self.noise}.")


@cache
def load_digits(part: Part) -> tuple[Tensor, Tensor]:
    """The real digits of a part: images (N, 8, 8) float in 0..1 and labels (N,) int64.

    1,297 train and 500 test digits, stratified by class, always the same.
    """
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    digits = datasets.load_digits()
    kept = train_test_split(range(len(digits.target)), test_size=TEST_DIGITS, stratify=digits.target, random_state=0)
    indices = kept[0] if part == "train" else kept[1]
    images = torch.from_numpy(digits.images[indices]).float() / 16  # scikit-learn counts 0..16
    return images, torch.from_numpy(digits.target[indices]).long()


def render_digit_scenes(
    digits: Tensor, seed: int, config: SceneConfig, views: int = 1, clutter_from: Tensor | None = None
) -> Tensor:
    """Scenes of the digits (N, 8, 8) in 0..1: uint8 (views * N, canvas, canvas), the first view of all digits first.

    The fragments are cut from `clutter_from` (M, 8, 8), by default from `digits` themselves. The same arguments
    give the same scenes; the first view does not depend on how many views there are.
    """
    generator = torch.Generator().manual_seed(seed)
    digits = _enlarge(digits)
    pool = digits if clutter_from is None else _enlarge(clutter_from)
    return torch.cat([_render_view(digits, pool, generator, config)[0] for _ in range(views)])


@lru_cache(maxsize=4)
def scenes(part: Part, config: SceneConfig, views: int) -> tuple[Tensor, Tensor]:
    """Scenes (views * N, canvas, canvas) uint8 of a part and their labels, drawn once per process. Do not write into them.

    Fragments come from the train digits in both parts.
    """
    digits, labels = load_digits(part)
    seed = 2 * config.seed + (part == "test")
    images = render_digit_scenes(digits, seed, config, views, clutter_from=load_digits("train")[0])
    return images, labels.repeat(views)


@lru_cache(maxsize=4)
def scene_layers(part: Part, config: SceneConfig, views: int) -> tuple[Tensor, Tensor]:
    """Depth and segmentation of the same scenes as `scenes` gives, both (views * N, canvas, canvas). Do not write into them.

    Depth is synthetic, float32 in 0..1: the scene is taken for a stack of layers, a tilted wall at the back, the digit before it, and each
    piece before the one that was drawn earlier, at random distances. The segmentation (uint8, an index into LAYERS) says what is in front.
    """
    digits, _ = load_digits(part)
    seed = 2 * config.seed + (part == "test")
    generator = torch.Generator().manual_seed(seed)  # as for `scenes`, so that the pictures are the same
    distances = torch.Generator().manual_seed(1_000_003 + seed)
    digits, pool = _enlarge(digits), _enlarge(load_digits("train")[0])
    fronts = [_render_view(digits, pool, generator, config)[1] for _ in range(views)]
    depths = [_depth(front, config, distances) for front in fronts]
    return torch.cat(depths), torch.cat(fronts).clamp(max=len(LAYERS) - 1).to(torch.uint8)


def _depth(front: Tensor, config: SceneConfig, generator: torch.Generator) -> Tensor:
    """Distances (N, canvas, canvas) of what is in front: 0 the wall, 1 the digit, 2 and more the pieces."""
    n, gap = len(front), 0.6 / (config.fragments + 1)
    place = torch.linspace(-1, 1, config.canvas)
    tilt = 0.1 * (2 * torch.rand(n, 2, generator=generator) - 1)
    wall = 0.8 + tilt[:, 0, None, None] * place[None, :, None] + tilt[:, 1, None, None] * place[None, None, :]
    nearer = 0.6 - gap * (torch.arange(config.fragments + 1) + 0.8 * torch.rand(n, config.fragments + 1, generator=generator))  # (N, layers)
    object_depth = nearer.gather(1, (front.long() - 1).clamp(min=0).flatten(1)).view(front.shape)
    return torch.where(front == 0, wall, object_depth)


def _render_view(digits: Tensor, pool: Tensor, generator: torch.Generator, config: SceneConfig) -> tuple[Tensor, Tensor]:
    """One scene per digit, (N, 1, FINE, FINE) -> uint8 (N, canvas, canvas), and which layer is in front at each pixel (0: none, 1: the digit, ...)."""
    n, canvas = len(digits), config.canvas

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    size = uniform(*config.digit_size)
    centre = canvas / 2 + uniform(-config.travel, config.travel, 2)  # (N, 2) as x, y
    angle = uniform(-config.rotation, config.rotation)
    scene = _place(digits, size, angle, centre, canvas) * uniform(config.brightness, 1, 1, 1, 1)
    side = config.fragment_size * FINE // 8
    front = (scene[:, 0] > SHOWS).to(torch.uint8)
    steps = torch.arange(FINE)
    for layer in range(2, config.fragments + 2):
        piece = pool[torch.randint(len(pool), (n,), generator=generator)]
        corner = torch.randint(0, FINE - side + 1, (n, 2), generator=generator)  # x, y
        inside = (steps >= corner[..., None]) & (steps < corner[..., None] + side)  # (N, 2, FINE)
        piece = piece * (inside[:, 0, None, None, :] & inside[:, 1, None, :, None])
        size = uniform(*config.digit_size)
        # The whole digit is shifted so that the centre of the piece, not of the digit, is anywhere.
        offset = (corner + side / 2 - FINE / 2) / FINE * size[:, None]
        centre = uniform(0, canvas, 2) - offset
        drawn = _place(piece, size, torch.zeros(n), centre, canvas) * uniform(config.brightness, 1, 1, 1, 1)
        front = torch.where((drawn >= scene)[:, 0] & (drawn[:, 0] > SHOWS), layer, front)
        scene = torch.maximum(scene, drawn)
    scene = scene + config.noise * torch.randn(scene.shape, generator=generator)
    return (scene[:, 0].clamp(0, 1) * 255).round().to(torch.uint8), front


def _enlarge(digits: Tensor) -> Tensor:
    """(N, 8, 8) -> (N, 1, FINE, FINE), smooth."""
    return F.interpolate(digits[:, None], size=FINE, mode="bicubic", align_corners=False).clamp(0, 1)


def _place(images: Tensor, size: Tensor, degrees: Tensor, centre: Tensor, canvas: int) -> Tensor:
    """Draw images (N, 1, h, w) on black canvases (N, 1, canvas, canvas), each `size` pixels wide, turned, about `centre`."""
    angle, zoom = degrees * math.pi / 180, canvas / size
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    turn = torch.stack([cos, sin, -sin, cos], dim=1).view(-1, 2, 2)  # canvas -> image coordinates, both in -1..1
    shift = -turn @ (centre / canvas * 2 - 1)[:, :, None]
    grid = F.affine_grid(torch.cat([turn, shift], dim=2), (len(images), 1, canvas, canvas), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
