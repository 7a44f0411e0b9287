import copy
import io

import numpy as np
import pytest
import torch
from PIL import Image

from modalities.vision.augment import FinetuneAugment, PretrainAugment
from modalities.vision.data import LabelledImages, UnlabelledImages
from modalities.vision.files import ImageShards, ImageTable, open_images
from modalities.vision.images import Encoded, read_image
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.sources import ImageFolder
from tests.trainer.tars import write_tar
from trainer.config import from_dict, to_dict
from trainer.data import Stream, ordered_batches
from trainer.errors import ConfigError, DataError
from trainer.mixture import MixtureConfig
from trainer.shards import Shard, write_index

P = ImagePreprocess(size=(8, 8), channels=3, mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0)
PLAIN = PretrainAugment.none()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MODALITY_ZOO_CACHE", str(tmp_path / "cache"))


def picture(number):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 255, (10, 12, 3), "uint8")).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def data(tmp_path):
    """The same 12 pictures of two classes in a folder, in two tars and in a table."""
    rows = ["path,label"]
    (tmp_path / "tars").mkdir()
    for tar in range(2):
        members = []
        for number in range(tar * 6, tar * 6 + 6):
            label = "cat" if number % 2 else "dog"
            (tmp_path / "folder" / label).mkdir(parents=True, exist_ok=True)
            (tmp_path / "folder" / label / f"{number:02d}.png").write_bytes(picture(number))
            rows.append(f"folder/{label}/{number:02d}.png,{label}")
            members += [(f"{number:02d}.png", picture(number)), (f"{number:02d}.cls", str(int(label == "dog")).encode()), (f"{number:02d}.json", b"{}")]
        write_tar(tmp_path / "tars" / f"x-{tar}.tar", members)
    (tmp_path / "table.csv").write_text("\n".join(rows))
    return tmp_path


def images(source):
    return {int(source.id(i).rpartition("/")[2].rpartition("#")[2].partition(".")[0]): source[i]["image"] for i in range(len(source))}


def test_the_same_pictures_from_folder_tars_and_table(data):
    wanted = images(ImageFolder(data / "folder", P))
    assert sorted(wanted) == list(range(12))
    for path, kind in ((data / "tars", ImageShards), (f"{data}/tars/x-{{0..1}}.tar", ImageShards), (data / "table.csv", ImageTable)):
        source = open_images(path, P)
        assert isinstance(source, kind) and source.describe()["samples"] == 12 and source.describe()["classes"] == 2
        found = images(source)
        assert all(found[n].equal(wanted[n]) for n in wanted)
        names = [source.classes[label] for label in source.labels]
        assert names == [{"cat": source.classes[0], "dog": source.classes[1]}["cat" if n % 2 else "dog"] for n in found]
        part = source.take([1, 4, 7])
        assert part[2]["image"].equal(source[7]["image"]) and part[1]["label"] == source[4]["label"] and part.id(0) == source.id(1) and len(part) == 3
        assert next(iter(ordered_batches(part, 3)))["label"].equal(part.labels)


def test_names_of_sets(data):
    assert [open_images(data / p, P, labelled=False).name for p in ("tars", "table.csv", "tars/x-{0..1}.tar")] == ["tars", "table", "x"]


def test_classes_are_named_by_the_index(data):
    tars = sorted((data / "tars").glob("*.tar"))
    write_index(data / "tars", [Shard(t.name, 6, t.stat().st_size, "") for t in tars], {"name": "pets", "classes": ["cat", "dog"]})
    source = open_images(data / "tars", P)
    assert source.classes == ("cat", "dog") and source.name == "pets"
    with pytest.raises(DataError, match="00.cls is class 1, and there are 1"):
        open_images(data / "tars", P, classes=("cat",))


def test_reading_tars_is_nearly_sequential_and_subsets_keep_it(data):
    source = ImageShards(str(data / "tars"), P)
    source.shards.buffer = 1
    assert source.order(0, 0)[0:12].tolist() in ([*range(12)], [*range(6, 12), *range(6)])
    part = source.take([0, 1, 7, 11])
    assert part.order(0, 0)[0:4].tolist() in ([0, 1, 2, 3], [2, 3, 0, 1]) and sorted(source.take([7, 0]).order(0, 0)) == [0, 1]


@pytest.mark.parametrize("path", ["tars", "table.csv"])
def test_for_training_with_workers(data, path):
    train = UnlabelledImages(str(data / path)).build(P)
    seen = [[b["image"] for b in Stream(train, 5, 0, 6).batches(2, workers)] for workers in (0, 2)]
    assert all(a.equal(b) for a, b in zip(*seen)) and len(seen[0]) == 4 and seen[0][0].shape == (5, 3, 8, 8)
    train, test = LabelledImages(str(data / path), augment=FinetuneAugment.none(), test_fraction=0.5).build(P)
    assert len(train) == len(test) == 6 and train.held_out is test and set(images(train)).isdisjoint(images(test))


def test_parts_in_sub_folders(data):
    (data / "parts").mkdir()
    (data / "tars").rename(data / "parts" / "train")
    (data / "parts" / "val").mkdir()
    write_tar(data / "parts" / "val" / "v.tar", [("99.png", picture(99)), ("99.cls", b"1")])
    source = UnlabelledImages(str(data / "parts"), augment=PLAIN).build(P)
    assert len(source) == 12 and len(source.held_out) == 1


def test_leaving_out_and_skipping(data):
    (data / "list").write_text("x-1.tar#07\tdamaged\n")
    assert len(UnlabelledImages(str(data / "tars"), exclude=str(data / "list"), augment=PLAIN).build(P)) == 11
    (data / "list").write_text("folder/dog/00.png\tdamaged\n")
    assert len(UnlabelledImages(str(data / "table.csv"), exclude=str(data / "list"), augment=PLAIN).build(P)) == 11
    with pytest.raises(DataError, match="nothing that it names"):
        UnlabelledImages(str(data / "tars"), exclude=str(data / "list")).build(P)


def test_a_tar_beside_images_is_a_download(data):
    write_tar(data / "folder" / "backup.tar", [("a.png", picture(0))])
    assert len(open_images(data / "folder", P)) == 12


def test_damage_is_named_with_shard_and_member(data, tmp_path):
    tar = write_tar(tmp_path / "bad.tar", [("a.png", picture(0)), ("b.png", picture(1)[:100]), ("c.txt", b""), ("d.png", picture(0)), ("d.jpg", b"")])
    source = ImageShards(str(tar), P, labelled=False)
    assert source[0]["image"].shape == (3, 8, 8)
    for index, message in ((1, f"{tar}: b.png is a truncated"), (2, rf"{tar}: c.\* has 0 pictures .txt."), (3, r"d.\* has 2 pictures .png, jpg.")):
        with pytest.raises(DataError, match=message):
            source[index]
    with pytest.raises(DataError, match="a.cls is missing: the sample has no label, only png"):
        ImageShards(str(tar), P)
    with pytest.raises(DataError, match="bad.tar: b.png"):
        UnlabelledImages(str(tar)).build(P)
    (data / "table.csv").write_text("path,label\nnone.png,cat\nfolder/dog/00.png,dog\n")
    with pytest.raises(DataError, match="There is no file .*none.png"):
        UnlabelledImages(str(data / "table.csv")).build(P)
    (data / "table.csv").write_text("path\nfolder/dog/00.png\n")
    with pytest.raises(DataError, match="no column 'label'"):
        ImageTable(str(data / "table.csv"), P)
    with pytest.raises(DataError, match="does not exist"):
        UnlabelledImages(str(data / "tabel.csv")).build(P)
    with pytest.raises(ConfigError, match="would run a program"):
        UnlabelledImages("pipe:cat x.tar").build(P)


def test_encoded_keeps_its_name_in_copies():
    copied = copy.deepcopy(Encoded(b"no image", "x.tar: a.png"))
    with pytest.raises(DataError, match="^x.tar: a.png is a text file"):
        read_image(copied, 3)


def test_mixtures(data):
    config = UnlabelledImages(str(data / "folder"), also=(str(data / "tars"), "digits"), augment=PLAIN)
    source = config.build(P)
    assert len(source) == 12 + 12 + 1297 and source.name == "folder + tars + digits" and len(source.held_out) == 500
    batches = [next(Stream(source, 64, 0, 5).batches(2, workers))["image"] for workers in (0, 2)]
    assert batches[0].equal(batches[1]) and Stream(source, 1321, 0, 1).counts(1) == {"seen/folder": 12, "seen/tars": 12, "seen/digits": 1297}
    mixed = from_dict(UnlabelledImages, {**to_dict(config), "mixture": {"mode": "resampled", "weights": [1, 1, 0], "late_weights": [0, 0, 1]}})
    counts = Stream(mixed.build(P), 100, 0, 10).counts
    assert list(counts(9).values()) == [450, 450, 0] and counts(10)["seen/digits"] > 40
    with pytest.raises(ConfigError, match="only data.path"):
        UnlabelledImages("digits", mixture=MixtureConfig("resampled"))
    assert torch.isfinite(batches[0]).all()
