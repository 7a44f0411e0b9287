"""Random changes of aligned maps: the same crop, mirror image and shift for all of them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from modalities.vision.images import Picture, to_tensor
from modalities.vision.maps import IGNORED
from modalities.vision.preprocess_paired import MODES, Maps, PairedPreprocess
from modalities.vision.sources import window


class PairedTransform:
    """Raw maps of one sample -> what the model reads: shift, random resized crop, mirror image, each the same for every map."""

    def __init__(
        self, preprocess: PairedPreprocess, crop_scale: tuple[float, float] | None, crop_ratio: tuple[float, float], flip: bool, shift: int = 0
    ) -> None:
        self.preprocess, self.flip, self.shift = preprocess, flip, shift
        self.crop = v2.RandomResizedCrop(preprocess.size, scale=crop_scale, ratio=crop_ratio) if crop_scale is not None else None

    def __call__(self, raw: Mapping[str, Any]) -> dict[str, Tensor]:
        maps = self.preprocess.read(raw)
        if self.shift:
            down, right = torch.randint(-self.shift, self.shift + 1, (2,)).tolist()
            offset = torch.tensor([[self.shift - down, self.shift - right]])
            maps = {domain: found if isinstance(found, Tensor) else to_tensor(found) for domain, found in maps.items()}
            moved = shift_batch({domain: found[None] for domain, found in maps.items()}, offset, self.shift)
            maps = {domain: found[0] for domain, found in moved.items()}
        if self.crop is None:
            maps = self.preprocess.fit(maps)
        else:
            place = self.crop.make_params([next(iter(maps.values()))])
            maps = {domain: self._cropped(domain, found, place) for domain, found in maps.items()}
        if self.flip and torch.rand(()) < 0.5:
            maps = {domain: F.horizontal_flip(found) for domain, found in maps.items()}
        return self.preprocess.finish(maps)

    def _cropped(self, domain: str, found: Picture, place: dict[str, int]) -> Picture:
        mode = MODES[domain] or self.preprocess.image.interpolation
        return F.resized_crop(found, **place, size=list(self.preprocess.size), interpolation=v2.InterpolationMode(mode), antialias=not mode.startswith("nearest"))


def shift_batch(maps: Maps, offsets: Tensor, most: int) -> Maps:
    """Batches of maps (B, C, H, W), each sample moved by its own offset (B, 2) in 0..2*most, where `most` is no move.

    From the edge come black in pictures, the values at the edge in depth and semseg (a depth of 0 would be the nearest thing of all), and in
    a segmentation pixels without label.
    """
    moved: Maps = {}
    for domain, found in maps.items():
        if domain in ("depth", "semseg"):
            wide = functional.pad(found.float(), (most,) * 4, mode="replicate").to(found.dtype)
        else:
            wide = functional.pad(found, (most,) * 4, value=IGNORED if domain == "segmentation" else 0)
        moved[domain] = window(wide, offsets, found.shape[2:])
    return moved
