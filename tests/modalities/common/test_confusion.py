"""Which classes are taken for which: counted by hand, drawn for few and many classes, and by the commands."""

import numpy as np
import pytest
import torch
from PIL import Image

from modalities.common.confusion import confusion, draw_confusion
from trainer.errors import DataError


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_counted_by_hand():
    labels, said = torch.tensor([[0, 1], [2, 255]]), torch.tensor([[0, 2], [2, 1]])
    assert confusion(labels, said, 3, 255).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1]]
    assert confusion(torch.tensor([-1, 1]), torch.tensor([0, 1]), 2).tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("classes", [2, 15, 40, 150])
def test_drawn(classes, tmp_path):
    """A perfect classifier is dark on its diagonal, and names may hold anything, but be empty."""
    counts = torch.eye(classes, dtype=torch.long) * 12
    names = [f"$x_{{{i}$ a very long name of a class <b>" for i in range(classes)] if classes < 100 else []
    right = pixels(draw_confusion(counts, names, tmp_path / "right.png", "step 1"))
    wrong = pixels(draw_confusion(counts.roll(1, 0), names, tmp_path / "wrong.png", "step 1"))
    assert right.shape == wrong.shape and max(right.shape) < 2400 and (right != wrong).any()
    with pytest.raises(DataError, match="no labelled sample"):
        draw_confusion(counts * 0, names, tmp_path / "none.png")
