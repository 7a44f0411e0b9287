"""Looking at maps: depth and classes in colours, what one input says of the others, segmentations beside their pictures."""

from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor

from modalities.common.model import Model
from modalities.vision.masks import coloured_classes, palette
from modalities.vision.models.multi_input import KEYS, MultiInputEncoder
from modalities.vision.models.multimae import MultiMAE
from modalities.vision.pictures import row_sheet, to_pixels
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.preprocess_paired import PairedPreprocess
from trainer.evaluation import evaluating
from trainer.objective import Batch

NEAR_FAR = "viridis_r"
"""Colours of depth: yellow is near, dark is far."""
SPAN = 2.0
"""Deviations of depth to either side that the colours cover."""
LISTED = 20
"""Classes whose colours are explained."""
OVERLAY = 0.5
"""Share of the colours of the classes where they are laid over a picture."""


def coloured_depth(depth: Tensor) -> np.ndarray:
    """Standardised depth (B, 1, H, W) -> uint8 (B, H, W, 3)."""
    share = ((depth[:, 0].detach().float().cpu() + SPAN) / (2 * SPAN)).clamp(0, 1).nan_to_num(0.5).numpy()
    return (matplotlib.colormaps[NEAR_FAR](share)[..., :3] * 255).round().astype(np.uint8)


def coloured(domain: str, maps: Tensor, preprocess: ImagePreprocess | None, logits: bool = False, size: tuple[int, int] | None = None) -> np.ndarray:
    """Maps of a domain as the model reads them, or as it predicts them (classes as `logits`) -> uint8 (B, H, W, 3).

    Without `preprocess` pictures are in 0..1; classes are drawn at `size`, by default that of the preprocessing.
    """
    if domain == "rgb":
        return to_pixels(maps, preprocess)
    if domain == "depth":
        return coloured_depth(maps)
    return coloured_classes(maps.argmax(dim=1) if logits else maps, size or preprocess.size)


def picture_of(preprocess: ImagePreprocess | PairedPreprocess) -> ImagePreprocess:
    """The part of a preprocessing that is about the picture."""
    return preprocess.image if isinstance(preprocess, PairedPreprocess) else preprocess


def inputs_in_colour(model: MultiInputEncoder, batch: Batch) -> dict[str, np.ndarray]:
    """The inputs that a batch holds: domain -> uint8 (B, H, W, 3)."""
    found = {domain: batch[KEYS[domain]] for domain in model.config.in_domains if KEYS[domain] in batch}
    return {domain: coloured(domain, maps, picture_of(model.preprocess)) for domain, maps in found.items()}


def first_in_colour(batch: Batch, preprocess: ImagePreprocess | PairedPreprocess) -> Tensor:
    """The first input of a batch as pictures in 0..1, (B, C, H, W)."""
    domain = preprocess.domains[0] if isinstance(preprocess, PairedPreprocess) else "rgb"
    pixels = coloured(domain, batch[KEYS[domain]], picture_of(preprocess))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def cross_sheet(model: MultiMAE, batch: Batch, path: Path, title: str = "") -> Path:
    """Draw scenes in columns: first the inputs that the batch holds, then what each of them alone says of every other domain.

    norm_rgb is no picture by itself and is left out, and so is what an input says of itself: all of it was visible.
    """
    preprocess = picture_of(model.preprocess)
    rows = inputs_in_colour(model, batch)
    for domain in list(rows):
        key = KEYS[domain]
        with evaluating(model):
            guesses = model.cross_predict({key: batch[key].to(model.device)})
        for output, maps in guesses.items():
            if output not in (domain, "norm_rgb"):
                rows[f"{domain} → {output}"] = coloured(output, maps, preprocess, logits=True)
    return row_sheet(rows, path, title)


def segmentation_sheet(model: Model, batch: Batch, path: Path, title: str = "") -> Path:
    """Draw scenes in columns: the inputs, the labels, where the batch holds them, what the model says, and that laid over the first input.

    Below stand the colours of the classes, where they have names.
    """
    with evaluating(model):
        logits = model({key: tensor.to(model.device) for key, tensor in batch.items()})
    preprocess = picture_of(model.preprocess)
    if isinstance(model, MultiInputEncoder):
        rows = inputs_in_colour(model, batch)
    else:
        rows = {"image": to_pixels(batch["image"], preprocess)}
    if "segmentation" in batch:
        rows["labelled"] = coloured_classes(batch["segmentation"], preprocess.size)
    said = coloured("semseg", logits, preprocess, logits=True)
    under = next(iter(rows.values()))
    rows |= {"predicted": said, "overlay": (under * (1 - OVERLAY) + said * OVERLAY).round().astype(np.uint8)}
    names = model.config.class_names
    return row_sheet(rows, path, title, legend={name: tuple(palette()[i].tolist()) for i, name in enumerate(names[:LISTED])})
