"""Several random crops of each picture, as self-distillation compares them (DINO: Caron et al. 2021, arXiv 2104.14294).

The values are those of DINOv2 and POA (alipay/POA@00d9074 `poa/data/augmentations.py`). All randomness comes from the global
generators, which the loader seeds for each sample: the crops of a sample in an epoch do not depend on processes or restarts.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from modalities.vision.data import UnlabelledImages
from modalities.vision.bands import USUAL
from modalities.vision.images import as_picture, to_eight_bit, to_tensor
from modalities.vision.preprocess import ImagePreprocess
from trainer.errors import ConfigError

GLOBAL = 2
"""Large crops of each picture."""


@dataclass(frozen=True)
class MultiCropAugment:
    """Two large crops in the model's size and several small ones, each mirrored, coloured and blurred by chance."""

    global_scale: tuple[float, float] = (0.32, 1.0)
    """Smallest and largest part of the area that a large crop takes."""
    local_scale: tuple[float, float] = (0.05, 0.32)
    """Smallest and largest part of the area that a small crop takes."""
    local_count: int = 8
    """Small crops of each picture. 0: none."""
    local_size: tuple[int, int] = (96, 96)
    """Height and width of a small crop in pixels, whole patches of the model."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width / height of a crop before it is resized."""
    flip: bool = True
    """Mirror half of the crops left to right. False where left and right differ in meaning (digits, text)."""
    jitter: float = 0.8
    """Chance that brightness, contrast (by up to 0.4), saturation (0.2) and hue (0.1) of a crop are changed."""
    grey: float = 0.2
    """Chance that the colour of a crop is taken away."""
    blur: tuple[float, float, float] = (0.0, 0.9, 0.5)
    """Chance of a blur of the first large, the second large and each small crop. The papers say 1, 0.1 and 0.5; the official code
    draws by the opposite chance, and these are the values that it was trained with."""
    solarise: float = 0.2
    """Chance that the bright half of the second large crop is inverted."""

    def __post_init__(self) -> None:
        for name in ("global_scale", "local_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise ConfigError(f"augment.{name} must be (smallest, largest) within 0..1, found {(low, high)}.")
        if not 0 < self.ratio[0] <= self.ratio[1] or self.local_count < 0 or min(self.local_size) < 1:
            raise ConfigError(
                f"augment needs ratio as (smallest, largest) above 0, local_count at least 0 and local_size at least 1, "
                f"found {self.ratio}, {self.local_count} and {self.local_size}."
            )
        if not all(0 <= chance <= 1 for chance in (self.jitter, self.grey, *self.blur, self.solarise)):
            raise ConfigError(f"augment.jitter, grey, blur and solarise are chances within 0..1, found {self.jitter}, {self.grey}, {self.blur} and {self.solarise}.")

    @classmethod
    def plain(cls, local_count: int, local_size: tuple[int, int], **changes: Any) -> "MultiCropAugment":
        """Crops alone, without mirror images and colours: for tiny grey pictures."""
        return cls(local_count=local_count, local_size=local_size, flip=False, jitter=0.0, grey=0.0, blur=(0.0, 0.0, 0.0), solarise=0.0, **changes)

    def build(self, preprocess: ImagePreprocess) -> "MultiCropTransform":
        """The transform of one picture. ConfigError for pictures that are neither grey nor RGB."""
        if preprocess.channels not in USUAL:
            raise ConfigError(
                f"The crops of self-distillation are made of 8-bit grey or RGB pictures, and in_chans is {preprocess.channels}. "
                "Pre-train on other channels with MAE (vision/mae-...) or SparK (vision/spark-...)."
            )
        return MultiCropTransform(self, preprocess)


class MultiCropTransform:
    """Raw picture -> {"global": (2, C, H, W), "local": (n, C, h, w)}, normalised; without "local" when there are no small crops."""

    def __init__(self, config: MultiCropAugment, preprocess: ImagePreprocess) -> None:
        self.preprocess, self.count = preprocess, config.local_count
        options = dict(ratio=config.ratio, interpolation=v2.InterpolationMode(preprocess.interpolation), antialias=True)
        crops = {"global": (preprocess.size, config.global_scale), "local": (config.local_size, config.local_scale)}
        self.crops = {name: v2.RandomResizedCrop(list(size), scale=scale, **options) for name, (size, scale) in crops.items()}
        colour = [v2.RandomHorizontalFlip(0.5)] if config.flip else []
        if config.jitter:
            colour.append(v2.RandomApply([v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)], p=config.jitter))
        if config.grey:
            colour.append(v2.RandomGrayscale(p=config.grey))
        blurs = [[v2.RandomApply([v2.GaussianBlur(kernel_size=9, sigma=(0.1, 2.0))], p=chance)] if chance else [] for chance in config.blur]
        ends = [blurs[0], blurs[1] + ([v2.RandomSolarize(threshold=128, p=config.solarise)] if config.solarise else []), blurs[2]]
        self.changes = [[*colour, *end] for end in ends]
        """Of the first large, the second large and the small crops."""

    def __call__(self, raw: Any) -> dict[str, Tensor]:
        picture = to_eight_bit(as_picture(raw, self.preprocess.channels))
        made = {"global": torch.stack([self._crop(picture, "global", i) for i in range(GLOBAL)])}
        if self.count:
            made["local"] = torch.stack([self._crop(picture, "local", GLOBAL) for _ in range(self.count)])
        return made

    def _crop(self, picture: Any, kind: str, changes: int) -> Tensor:
        picture = self.crops[kind](picture)
        for change in self.changes[changes]:
            picture = change(picture)
        return self.preprocess.normalise(to_tensor(picture))


@dataclass(frozen=True)
class MultiCropImages(UnlabelledImages):
    """Pictures for self-distillation. A batch holds "global" (B, 2, C, H, W) and "local" (B, n, C, h, w), normalised, in place of "image"."""

    augment: MultiCropAugment = field(default_factory=MultiCropAugment)
    """The crops."""
