"""Preprocessing of aligned pictures: colour, depth and classes of the same pixels go the same way through resizing and cropping."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from modalities.common.preprocess import Preprocess
from modalities.vision.images import Picture, as_picture, to_tensor
from modalities.vision.maps import read_depth, read_labels
from modalities.vision.preprocess import ImagePreprocess
from trainer.errors import ConfigError, DataError, did_you_mean, shorten
from trainer.objective import Batch

KEYS = {"rgb": "image", "depth": "depth", "semseg": "semseg", "segmentation": "segmentation"}
"""Domain -> its entry in a batch. `segmentation` is semseg as something to be predicted: at full size, with pixels that count for nothing."""
MODES = {"rgb": None, "depth": "bilinear", "semseg": "nearest-exact", "segmentation": "nearest-exact"}
"""How a domain is resized; a picture as its own preprocessing says."""
TRIMMED = 0.1
"""Share of the smallest and of the largest depths that the standardisation leaves out."""
DEPTH_EPS = 1e-6
"""Added to the variance of depth before the root."""

Maps = dict[str, Picture]
"""Domain -> what was read: a picture, depth (1, H, W) float, ids (1, H, W) int32; all of one size."""


@dataclass(frozen=True)
class PairedPreprocess(Preprocess):
    """Aligned maps -> what a model of several inputs reads (Bachmann et al. 2022, arXiv 2204.01678, section 3).

    All are resized and cropped as `image` says: the picture by its own interpolation, depth bilinear, ids nearest. Depth is then standardised
    image by image: mean and variance are those of its values without the smallest and the largest tenth. Ids are reduced to every
    `semseg_stride`-th pixel.
    """

    type: ClassVar[str] = "paired-images"

    image: ImagePreprocess = field(default_factory=ImagePreprocess)
    """That of the picture; its size is that of every map."""
    domains: tuple[str, ...] = ("rgb", "depth", "semseg")
    """What is read: rgb, depth, semseg, segmentation."""
    semseg_classes: int = 133
    """Classes of semseg and segmentation."""
    semseg_stride: int = 4
    """Pixels of the picture along each side of one pixel of semseg."""
    semseg_names: tuple[str, ...] = ()
    """What the classes are called, in order; empty when unknown."""

    def __post_init__(self) -> None:
        strange = [domain for domain in self.domains if domain not in KEYS]
        if strange or not self.domains or len(set(self.domains)) < len(self.domains):
            hint = did_you_mean(str(strange[0]), KEYS) if strange else ""
            raise ConfigError(f"preprocess.domains must be different ones of {', '.join(KEYS)}, found {shorten(self.domains)}.{hint}")
        if self.semseg_classes < 1 or self.semseg_stride < 1 or any(side % self.semseg_stride for side in self.image.size):
            raise ConfigError(
                f"preprocess needs semseg_classes of at least 1 and a semseg_stride that divides {self.image.size}, "
                f"found {self.semseg_classes} and {self.semseg_stride}."
            )
        if self.semseg_names and len(self.semseg_names) != self.semseg_classes:
            raise ConfigError(f"preprocess.semseg_names has {len(self.semseg_names)} names for {self.semseg_classes} classes.")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what the model sees, in pixels of the picture."""
        return self.image.size

    def adapted(self, input_shape: tuple[int, ...]) -> "PairedPreprocess | None":
        image = self.image.adapted(input_shape)
        return image and replace(self, image=image)

    def require_shape(self, input_shape: tuple[int, ...], where: str) -> None:
        self.image.require_shape(input_shape, where)

    def __call__(self, raw: Any) -> Batch:
        """One sample or several -> {"image": (B, C, H, W), "depth": (B, 1, H, W), "semseg": (B, H/stride, W/stride)}, of what is given.

        `raw`: a mapping from domains to what `as_picture`, `read_depth` or `read_labels` take, or to lists of such; or pictures alone, as
        `ImagePreprocess` takes them. Inputs may be left out: MultiMAE takes any of them. Raises DataError.
        """
        if not isinstance(raw, Mapping):
            raw = {"rgb": raw}
        known = [domain for domain in self.domains if domain in raw]
        strange = sorted(str(key) for key in raw if key not in self.domains)
        if strange or not known:
            hint = did_you_mean(strange[0], self.domains) if strange else ""
            raise DataError(f"Expected some of {', '.join(self.domains)}, found {', '.join(map(str, raw)) or 'nothing'}.{hint}")
        columns = {domain: _several(raw[domain]) for domain in known}
        lengths = {domain: len(column) for domain, column in columns.items()}
        if len(set(lengths.values())) > 1 or not min(lengths.values()):
            raise DataError(f"Each input must have one map for each sample, at least one; found {lengths}.")
        narrowed = replace(self, domains=tuple(known))
        samples = [narrowed.transform(dict(zip(columns, row)), f"sample {i}") for i, row in enumerate(zip(*columns.values()))]
        return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}

    def transform(self, raw: Mapping[str, Any], where: str = "") -> dict[str, Tensor]:
        """The deterministic transform of one sample: domain -> raw map, to batch key -> tensor."""
        return self.finish(self.fit(self.read(raw, where)))

    def read(self, raw: Mapping[str, Any], where: str = "") -> Maps:
        """The maps of one sample, all of one size. DataError when one cannot be read, has another size, or labels that are no classes."""
        maps: Maps = {}
        for domain in self.domains:
            one, name = raw[domain], f"{domain} of {where}" if where else None
            if domain == "rgb":
                maps[domain] = as_picture(one, self.image.channels, name or "the image")
            elif domain == "depth":
                maps[domain] = read_depth(one, None if isinstance(one, (str, bytes)) else name)
            else:
                maps[domain] = read_labels(one, self.semseg_classes, None if isinstance(one, (str, bytes)) else name, ignored=domain == "segmentation")
        sizes = {domain: tuple(F.get_size(found)) for domain, found in maps.items()}
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{domain} ({_name(raw[domain])}) {height} x {width}" for domain, (height, width) in sizes.items())
            raise DataError(f"The maps of one sample must show the same pixels, found the sizes {told}. Resize them to one size (labels with nearest).")
        return maps

    def fit(self, maps: Maps) -> Maps:
        """Resize and centre crop all maps to the model's size."""
        return {domain: self.image.fit(found, MODES[domain]) for domain, found in maps.items()}

    def finish(self, maps: Maps) -> dict[str, Tensor]:
        """Maps of the model's size, or whole batches of them, to what the model reads, under the keys of a batch."""
        ready = {}
        for domain, found in maps.items():
            if domain == "rgb":
                ready["image"] = self.image.normalise(found if isinstance(found, Tensor) and found.dtype == torch.uint8 else to_tensor(found))
            elif domain == "depth":
                ready["depth"] = standardised(found)
            elif domain == "semseg":
                half, step = self.semseg_stride // 2, self.semseg_stride
                ready["semseg"] = found[..., 0, half::step, half::step].long()
            else:
                ready["segmentation"] = found[..., 0, :, :].long()
        return ready


def standardised(depth: Tensor) -> Tensor:
    """Depth maps (..., 1, H, W), each less the mean and by the deviation of its middle values (the official `standardize_depth`)."""
    values = depth.flatten(-3).sort(dim=-1).values
    count = values.shape[-1]
    middle = values[..., int(TRIMMED * count) : int((1 - TRIMMED) * count)]
    middle = middle if middle.shape[-1] > 1 else values  # a map of a few pixels
    mean, variance = middle.mean(dim=-1), middle.var(dim=-1, correction=int(middle.shape[-1] > 1))
    return (depth - mean[..., None, None, None]) / (variance + DEPTH_EPS).sqrt()[..., None, None, None]


def _several(raw: Any) -> Sequence[Any]:
    """The maps of one domain as a sequence: a list as it is, a batch of arrays one by one, anything else alone."""
    if isinstance(raw, (list, tuple)):
        return raw
    return list(raw) if isinstance(raw, (np.ndarray, Tensor)) and raw.ndim == 4 else [raw]


def _name(raw: Any) -> str:
    return str(getattr(raw, "where", raw)) if not isinstance(raw, (np.ndarray, Tensor)) else "an array"
