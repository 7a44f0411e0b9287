"""What a vision transformer looks at and which pictures it takes for alike: sheets that its training draws beside its own picture."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from modalities.common.attention import attention_maps
from modalities.common.model import Model
from modalities.common.run import Draw
from modalities.common.sheets import spread
from modalities.vision.pictures import attention_sheet, neighbour_sheet
from modalities.vision.sources import ImageSource
from trainer.evaluation import evaluating
from trainer.objective import Objective
from trainer.randomness import seeded

SHOWN = 6
"""Pictures in a sheet."""
POOL = 128
"""Pictures among which neighbours are sought."""
NEIGHBOURS = 7
"""Of each picture."""


def encoder_views(source: ImageSource, seed: int) -> dict[str, Draw]:
    """Sheets of attention and of nearest neighbours, by their names, for an objective whose exported model is a vision transformer.

    The pictures are held-out ones, or of the training set where nothing is held out.
    """
    pool = source.held_out if source.held_out is not None else source
    with seeded(seed):
        images = torch.stack([_image(pool[i]) for i in spread(len(pool), POOL)])
    asked = spread(len(images), SHOWN)

    def attention(objective: Objective, path: Path, title: str) -> None:
        draw_attention(objective.export(), images[asked], path, f"{title}: what the class token looks at")

    def neighbours(objective: Objective, path: Path, title: str) -> None:
        draw_alike(objective.export(), images, asked, path, f"{title}: pictures (left) and, of {len(images)}, those with the nearest features; below, the cosine")

    return {"attention": attention, "neighbours": neighbours}


def draw_attention(model: Model, images: Tensor, path: Path, title: str) -> Path:
    """A sheet of normalised images (B, C, H, W) with what the class token of a vision transformer looks at in the last block."""
    maps = attention_maps(model, {"image": images.to(model.device)}).cpu()
    return attention_sheet(model.preprocess.denormalise(images), maps, path, title)


def draw_alike(model: Model, images: Tensor, asked: list[int], path: Path, title: str) -> Path:
    """A sheet of some of the normalised images (B, C, H, W), each with the others whose features are nearest."""
    with evaluating(model):
        features = torch.cat([model.embed({"image": part.to(model.device)}).float().cpu() for part in images.split(32)])
    cosine, nearest = most_alike(features, features[asked], min(NEIGHBOURS + 1, len(images)))
    others = [[(i, value) for i, value in zip(*row) if i != own][:NEIGHBOURS] for own, row in zip(asked, zip(nearest.tolist(), cosine.tolist()))]
    pictures = model.preprocess.denormalise(images)
    found = torch.stack([pictures[[i for i, _ in row]] for row in others])
    return neighbour_sheet(pictures[asked], found, [""] * len(asked), [[f"{value:.2f}" for _, value in row] for row in others], None, path, title)


def most_alike(known: Tensor, asked: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Of feature vectors (N, D) the `count` nearest to each of (M, D): cosines and indices, both (M, count)."""
    return (F.normalize(asked, dim=1) @ F.normalize(known, dim=1).T).topk(count, dim=1)


def _image(sample: dict[str, Tensor]) -> Tensor:
    """The picture (C, H, W) of a sample, of several crops the first large one."""
    return sample["image"] if "image" in sample else sample["global"][0]
