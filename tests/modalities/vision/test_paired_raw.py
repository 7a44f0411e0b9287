"""`zoo data show`, `zoo data check` and `zoo pack` on pictures with depth and segmentation beside them."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from modalities.vision.data import UnlabelledImages
from modalities.vision.paired import open_pairs
from modalities.vision.raw_paired import open_raw
from tests.modalities.vision.test_paired import P, write_scenes
from zoo.cli import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_scenes(tmp_path / "scenes", ["a/0", "a/1", "b/0", "b/1"])


def test_shown_checked_and_packed(folder, tmp_path, capsys):
    assert main(["data", "show", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "scenes: vision, folder of images with depth and semseg, 4 samples" in said and "a 2, b 2" in said
    assert "4 JPEG RGB + depth + semseg" in said and "shape 24 x 32" in said
    sheet = np.asarray(Image.open(tmp_path / "scenes-samples.png"))
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 100
    assert main(["data", "check", str(folder)]) == 0 and "4 of 4 samples are fine" in capsys.readouterr().out
    assert main(["pack", str(folder), "--to", str(tmp_path / "tars"), "--in-order"]) == 0
    packed, plain = open_pairs(tmp_path / "tars", P), open_pairs(folder, P)
    assert packed.classes == plain.classes == ("a", "b")
    for i in range(4):
        assert all(torch.equal(packed[i][key], value) for key, value in plain[i].items())
    capsys.readouterr()
    assert main(["data", "check", str(tmp_path / "tars")]) == 0 and "4 of 4 samples are fine: 4 JPEG RGB + depth + semseg" in capsys.readouterr().out
    assert main(["data", "show", str(tmp_path / "tars")]) == 0 and "tar shards of pictures with maps, 4 samples" in capsys.readouterr().out


def test_everything_that_is_wrong_is_listed_and_can_be_left_out(folder, tmp_path, capsys):
    np.save(folder / "depth" / "a" / "0.npy", np.full((24, 32), np.nan, np.float32))
    (folder / "depth" / "a" / "0.png").unlink()
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(folder / "semseg" / "a" / "1.png")
    (folder / "semseg" / "b" / "0.png").unlink()
    assert main(["data", "check", str(folder), "--to", str(tmp_path / "list.txt")]) == 1
    said = capsys.readouterr().out
    assert "1 of 4 samples are fine" in said
    assert "rgb/a/0.jpg" in said and "768 NaN or infinite pixels" in said
    assert "rgb/a/1.jpg" in said and "must show the same pixels" in said and "12 x 16" in said
    assert "rgb/b/0.jpg" in said and "The picture b/0.jpg has no semseg in" in said
    assert main(["data", "show", str(folder)]) == 0 and "3 of 4 samples that were looked at cannot be read" in capsys.readouterr().out
    assert main(["pack", str(folder), "--to", str(tmp_path / "tars"), "--exclude", str(tmp_path / "list.txt")]) == 0
    assert len(open_pairs(tmp_path / "tars", P, labelled=False)) == 1
    source = UnlabelledImages(str(folder), exclude=str(tmp_path / "list.txt")).build(P)
    assert len(source) == 1 and set(source[0]) == {"image", "depth", "semseg"}


def test_a_table_and_parts(folder, tmp_path, capsys):
    with open(folder / "table.csv", "w", newline="") as file:
        csv.writer(file).writerows([["path", "depth", "label"], ["rgb/a/0.jpg", "depth/a/0.png", "x"], ["rgb/b/1.jpg", "", "y"]])
    found = open_raw(str(folder / "table.csv"))
    assert found.format == "table of image files with depth" and set(found.members(0)) == {"jpg", "depth.png", "cls"} and found.check(0).form == "JPEG RGB + depth"
    assert main(["data", "check", str(folder / "table.csv"), "--to", str(tmp_path / "x.txt")]) == 1 and "has no depth" in capsys.readouterr().out
    write_scenes(tmp_path / "parts" / "train", ["0", "1"])
    write_scenes(tmp_path / "parts" / "val", ["7"])
    assert main(["data", "show", str(tmp_path / "parts")]) == 0
    said = capsys.readouterr().out
    assert "folder of images with depth and semseg, 2 samples" in said and "folder of images with depth and semseg, 1 samples" in said


def test_folders_of_pictures_alone_stay_what_they_are(tmp_path):
    for name in ("depth", "other"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
    assert open_raw(str(tmp_path)).classes == ("depth", "other")
