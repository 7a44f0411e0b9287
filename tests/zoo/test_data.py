"""`zoo pack` and `zoo data` as a user runs them."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from modalities.vision.data import raw_parts
from trainer.corrupt import read_quarantine
from trainer.files import read_json
from zoo.cli import main


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Two classes of 6 pictures in several sizes and formats."""
    monkeypatch.setenv("MODALITY_ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(pixels[: 20 + i]).save(tmp_path / "photos" / name / f"a.{i}.{('png', 'JPG')[i % 2]}")
    return tmp_path / "photos"


def test_pack_check_and_show(photos, capsys):
    assert main(["pack", "photos", "--to", "shards", "--samples-per-shard", "5"]) == 0
    assert "12 samples of 2 classes in 3 shards" in capsys.readouterr().out
    for path, what in (("photos", "folder of class folders"), ("shards", "tar shards")):
        assert main(["data", "check", path]) == 0
        assert "12 of 12 samples are fine: 6 JPEG RGB, 6 PNG RGB" in capsys.readouterr().out
        assert main(["data", "show", path, "--to", f"{path}.png"]) == 0
        out = capsys.readouterr().out
        assert what in out and "cat 6, dog 6" in out and "shape 20 to 25 (median 22.5) x 50" in out
        with Image.open(f"{path}.png") as sheet:
            assert sheet.width > 800
    files = raw_parts("photos")[""]
    packed = raw_parts("shards/index.json")[""]
    assert sorted(map(str, map(packed.members, range(12)))) == sorted(map(str, map(files.members, range(12)))), "files are copied as they are"
    assert sorted(os.listdir()) == ["cache", "photos", "photos.png", "shards", "shards.png"]


def test_what_is_damaged_is_listed_and_left_out(photos, capsys):
    (photos / "cat" / "a.1.JPG").write_bytes((photos / "cat" / "a.1.JPG").read_bytes()[:400])
    (photos / "dog" / "a.0.png").write_bytes(b"<html>")
    assert main(["data", "check", "photos", "--workers", "2"]) == 1
    captured = capsys.readouterr()
    assert "10 of 12 samples are fine" in captured.out and "photos/dog/a.0.png is an HTML page" in captured.out
    assert "--data.exclude photos-quarantine.txt" in captured.err
    assert read_quarantine("photos-quarantine.txt") == {"cat/a.1.JPG", "dog/a.0.png"}
    assert main(["data", "show", "photos"]) == 0
    assert "2 of 12 samples that were looked at cannot be read" in capsys.readouterr().out
    assert main(["pack", "photos", "--to", "shards", "--exclude", "photos-quarantine.txt"]) == 0
    assert main(["data", "check", "shards"]) == 0
    assert "10 of 10" in capsys.readouterr().out


def test_damaged_shards_are_named(photos, capsys):
    main(["pack", "photos", "--to", "shards", "--samples-per-shard", "4"])
    tar = bytearray((photos.parent / "shards" / "shard-00001.tar").read_bytes())
    tar[600] ^= 255
    (photos.parent / "shards" / "shard-00001.tar").write_bytes(tar)
    (photos.parent / "shards" / "shard-00002.tar").write_bytes(tar[:3000])
    assert main(["data", "check", "shards"]) == 1
    out = capsys.readouterr().out
    assert "shard-00001.tar has another sha256" in out and "shard-00002.tar is cut off" in out
    assert {"shard-00001.tar", "shard-00002.tar"} <= read_quarantine("shards-quarantine.txt")
    shutil.rmtree("shards")
    os.mkdir("shards")
    (photos.parent / "shards" / "a.tar").write_bytes(b"text")
    assert main(["data", "check", "shards"]) == 1
    assert "None of the 1 shards" in capsys.readouterr().err


def test_train_and_val_number_their_classes_alike(photos, capsys):
    os.mkdir("set")
    shutil.copytree("photos", "set/train")
    shutil.copytree("photos/dog", "set/val/dog")
    (photos.parent / "set" / "val" / "dog" / "a.0.png").write_bytes(b"")
    assert main(["data", "check", "set"]) == 1
    assert read_quarantine("set-quarantine.txt") == {"val/dog/a.0.png"}
    assert main(["pack", "set", "--to", "packed", "--exclude", "set-quarantine.txt"]) == 0
    val = raw_parts("packed/val")[""]
    assert val.classes == ("cat", "dog") and len(val) == 5 and {val.label(i) for i in range(5)} == {1}
    capsys.readouterr()
    assert main(["data", "check", "packed"]) == 0
    assert main(["data", "show", "packed", "--to", "p.png"]) == 0
    assert os.path.exists("p-train.png") and os.path.exists("p-val.png")


def test_tables_are_packed(photos, capsys):
    rows = ["path,label", *(f"photos/{name}/a.0.png,{name}" for name in ("dog", "cat"))]
    (photos.parent / "set.csv").write_text("\n".join(rows))
    assert main(["data", "show", "set.csv", "--to", "set.png"]) == 0
    assert "table of image files, 2 samples" in capsys.readouterr().out
    assert main(["pack", "set.csv", "--to", "shards", "--in-order"]) == 0
    assert raw_parts("shards")[""].classes == ("cat", "dog") and raw_parts("shards")[""].label(0) == 1
    (photos.parent / "set.csv").write_text("path\nphotos/cat/a.0.png\nphotos/gone.png")
    assert main(["data", "check", "set.csv"]) == 1
    assert read_quarantine("set.csv-quarantine.txt") == {"photos/gone.png"}


def test_plain_folders_have_no_classes(photos):
    shutil.copy("photos/cat/a.0.png", "photos/top.png")
    assert main(["pack", "photos", "--to", "shards"]) == 0
    index = read_json("shards/index.json")
    assert index["samples"] == 13 and "classes" not in index
    assert main(["pack", "photos/cat", "--to", "cats", "--unlabelled"]) == 0
    assert set(raw_parts("cats")[""].members(0)) <= {"png", "jpg"}


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["pack", "nowhere", "--to", "x"], "does not exist"),
        (["pack", "digits", "--to", "x"], "built in"),
        (["pack", "photos", "--to", "photos"], "holds other things"),
        (["pack", "photos", "--to", "x", "--samples-per-shard", "0"], "at least 1"),
        (["pack", "photos", "--to", "x", "--modality", "visoin"], "Did you mean 'vision'"),
        (["pack", "photos", "--to", "x", "--exclude", "nothing.txt"], "list of samples to leave out"),
        (["data", "check", "pipe:cat x.tar"], "would run a program"),
        (["data", "check", "photos", "--workers", "0"], "at least 1"),
    ],
)
def test_mistakes_are_explained(photos, arguments, words, capsys):
    assert main(arguments) == 1
    assert words in capsys.readouterr().err
    assert not os.path.exists("x")


def test_a_wrong_class_or_no_picture_is_a_problem(photos, capsys):
    main(["pack", "photos", "--to", "shards"])
    index = read_json("shards/index.json")
    index["classes"] = ["cat"]
    (photos.parent / "shards" / "index.json").write_text(json.dumps(index))
    assert main(["data", "check", "shards"]) == 1
    assert "is class 1, and there are 1" in capsys.readouterr().out
