import numpy as np
import pytest
import torch
from PIL import Image

from modalities.vision.pictures import contact_sheet, reconstruction_sheet
from modalities.vision.preprocess import ImagePreprocess
from trainer.errors import CheckpointError, DataError


def pixels(path):
    """(H, W, 3) uint8 of a PNG file."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def test_reconstruction_sheet_is_crisp_grey_and_shows_what_is_hidden(tmp_path):
    image = torch.zeros(3, 1, 16, 16)
    image[:, :, ::2] = 1.0
    masked = image.clone()
    masked[:, :, :8] = float("nan")
    path = reconstruction_sheet(image, masked, image, tmp_path / "new" / "a.png", count=2)
    sheet = pixels(path)
    assert (sheet[:, :, 0] == sheet[:, :, 1]).all()  # grey stays grey
    left = sheet.shape[1] - 2 * (128 + 10)
    row = sheet[:, left + 64, 0]  # down through the middle of a sample
    assert set(row.tolist()) <= {0, 255, 127}  # 16 pixels are enlarged to 128 without blur
    assert (row == 127).sum() == 64  # half of the masked picture


def test_reconstruction_sheet_undoes_the_normalisation_and_takes_a_mask(tmp_path):
    p = ImagePreprocess.default(32)
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    hidden = torch.zeros(1, 1, 32, 32)
    hidden[..., :16] = 1
    path = reconstruction_sheet(*[p.normalise(red)] * 3, tmp_path / "a.png", "A title", preprocess=p, hidden=hidden)
    assert {(255, 0, 0), (127, 127, 127)} <= {tuple(c) for c in pixels(path).reshape(-1, 3).tolist()}


def test_contact_sheet(tmp_path):
    images = torch.rand(5, 3, 300, 20)
    path = contact_sheet(images, ["a", "a caption that is far too long for its picture", "ü → β", "d", "e"], tmp_path / "a.png", "Title " * 20, columns=3)
    assert pixels(path).shape[1] == 10 + 3 * (17 + 10)
    assert pixels(contact_sheet(images[:1], None, tmp_path / "b.png")).shape == (256 + 20, 17 + 20, 3)


def test_mistakes(tmp_path):
    with pytest.raises(DataError, match="1 or 3 channels"):
        contact_sheet(torch.rand(2, 4, 8, 8), None, tmp_path / "a.png")
    with pytest.raises(DataError, match="one caption per image"):
        contact_sheet(torch.rand(2, 3, 8, 8), ["a"], tmp_path / "a.png")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="Cannot write"):
        contact_sheet(torch.rand(2, 3, 8, 8), None, tmp_path / "file" / "a.png")
