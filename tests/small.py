"""A recipe that trains in a moment, with all that a real run has: data on disk, an export, a report."""

import numpy as np
from PIL import Image

from modalities import registry
from trainer.config import replace

MODEL = {
    "model.input_size": (16, 16), "model.patch_size": (8, 8), "model.depth": 2, "model.embed_dim": 16, "model.num_heads": 2,
    "model.decoder_embed_dim": 16, "model.decoder_depth": 1, "model.decoder_num_heads": 2,
}  # fmt: skip
TRAIN = {"train.steps": 12, "train.epochs": None, "train.batch_size": 4, "train.log_every": 1, "train.save_every": 4, "train.pictures": 0, "train.workers": 0}


def pictures(folder):
    """A folder with a few image files."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), "uint8")).save(folder / f"{i}.png")
    return folder


def recipe(folder, **changes):
    """Pre-training of a tiny model on the pictures in `folder`; `changes` by dotted names."""
    return replace(registry.find_recipe("vision/mae-tiny"), {**MODEL, **TRAIN, "data.path": str(folder), **changes})
