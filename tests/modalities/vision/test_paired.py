"""Pictures with depth and segmentation beside them: reading, the same geometry for all, the built-in scenes, bad input."""

import csv
import io
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from modalities.vision import digits
from modalities.vision.augment import FinetuneAugment, PretrainAugment
from modalities.vision.augment_paired import shift_batch
from modalities.vision.data import LabelledImages, UnlabelledImages, built_in
from modalities.vision.maps import read_depth, read_labels
from modalities.vision.paired import open_pairs
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.preprocess_paired import PairedPreprocess, standardised
from trainer.data import batches, ordered_batches
from trainer.errors import ConfigError, DataError
from trainer.randomness import seeded

IMAGE = ImagePreprocess(size=(16, 16), crop_pct=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
P = PairedPreprocess(IMAGE, semseg_classes=7, semseg_stride=4)


def scene(seed, height=24, width=32):
    """A picture, a depth map of 16 bits and a segmentation that all show the same ramp."""
    ramp = np.linspace(0, 1, width)[None] * np.linspace(0.5, 1, height)[:, None]
    picture = (np.stack([ramp, ramp, ramp], 2) * 255).astype(np.uint8)
    return picture, (ramp * 60000).astype(np.uint16), (ramp * 6.99).astype(np.uint8) if seed % 2 else np.full((height, width), seed % 7, np.uint8)


def write_scenes(root, names, depth=".png"):
    for i, name in enumerate(names):
        picture, far, classes = scene(i)
        for domain in ("rgb", "depth", "semseg"):
            (root / domain / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(root / "rgb" / f"{name}.jpg")
        if depth == ".png":
            Image.fromarray(far).save(root / "depth" / f"{name}.png")
        else:
            np.save(root / "depth" / f"{name}.npy", far.astype(np.float32) / 100)
        Image.fromarray(classes).save(root / "semseg" / f"{name}.png")
    return root


@pytest.fixture
def folder(tmp_path):
    return write_scenes(tmp_path / "scenes", ["a/0", "a/1", "b/0", "b/1", "b/deep/2"])


def test_a_folder_of_scenes(folder):
    source = open_pairs(folder, P)
    assert len(source) == 5 and source.classes == ("a", "b") and source.name == "scenes" and source.id(4) == "rgb/b/deep/2.jpg"
    sample = source[1]
    assert {k: (tuple(v.shape), v.dtype) for k, v in sample.items()} == {
        "image": ((3, 16, 16), torch.float32), "depth": ((1, 16, 16), torch.float32), "semseg": ((4, 4), torch.int64), "label": ((), torch.int64)
    }  # fmt: skip
    assert source.describe() == {"name": "scenes", "samples": 5, "source": "image files in a folder of the user", "classes": 2, "domains": "rgb, depth, semseg"}
    assert source.take([3, 4]).id(1) == "rgb/b/deep/2.jpg" and source.take([3, 4])[1]["label"] == 1
    assert set(open_pairs(folder, replace(P, domains=("depth",)), labelled=False)[0]) == {"depth"}


def test_names_of_other_data_sets_and_npy_depth(tmp_path):
    root = write_scenes(tmp_path / "x", ["0", "1"], depth=".npy")
    (root / "rgb").rename(root / "images")
    (root / "semseg").rename(root / "annotations")
    source = open_pairs(root, P, labelled=False)
    assert torch.allclose(source[0]["depth"], standardised(P.image.fit(read_depth(root / "depth" / "0.npy"), "bilinear")))


def test_sixteen_bits_and_floats_give_the_same_depth(tmp_path):
    whole = open_pairs(write_scenes(tmp_path / "png", ["0"]), P, labelled=False)[0]["depth"]
    floats = open_pairs(write_scenes(tmp_path / "npy", ["0"], depth=".npy"), P, labelled=False)[0]["depth"]
    assert torch.allclose(whole, floats, atol=1e-4)  # the unit does not matter


def test_a_table_of_scenes(folder, tmp_path):
    with open(folder / "table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "depth", "semseg", "label"])
        for name, label in (("a/0", "x"), ("b/1", "y")):
            writer.writerow([f"rgb/{name}.jpg", f"depth/{name}.png", f"semseg/{name}.png", label])
    source = open_pairs(folder / "table.csv", P)
    assert source.classes == ("x", "y") and torch.equal(source[1]["depth"], open_pairs(folder, P)[3]["depth"])
    with pytest.raises(DataError, match="no column 'depth' with the files of the maps, only path, dept, label.*Did you mean 'dept'"):
        (folder / "t.csv").write_text("path,dept,label\nrgb/a/0.jpg,depth/a/0.png,x\nrgb/b/0.jpg,depth/b/0.png,y\n")
        open_pairs(folder / "t.csv", P)
    with pytest.raises(DataError, match="The picture rgb/b/0.jpg has no semseg in .*t.csv, column semseg"):
        (folder / "t.csv").write_text("path,depth,semseg,label\nrgb/a/0.jpg,depth/a/0.png,semseg/a/0.png,x\nrgb/b/0.jpg,depth/b/0.png,,y\n")
        open_pairs(folder / "t.csv", P).require_files()


def test_tars_of_scenes(folder, tmp_path):
    with tarfile.open(tmp_path / "s-000.tar", "w") as tar:
        for key, name in (("0", "a/0"), ("1", "b/1")):
            for ending, path in (("jpg", f"rgb/{name}.jpg"), ("depth.png", f"depth/{name}.png"), ("semseg.png", f"semseg/{name}.png")):
                content = (folder / path).read_bytes()
                info = tarfile.TarInfo(f"{key}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    source = open_pairs(tmp_path / "s-000.tar", P, labelled=False)
    assert torch.equal(source[1]["semseg"], open_pairs(folder, P)[3]["semseg"]) and source.take([1]).id(0) == source.id(1)
    source.shards.endings = lambda place: ["jpg", "depth.png"]
    with pytest.raises(DataError, match="has no semseg .*only jpg, depth.png"):
        source[0]


def test_training_and_test_folders_through_the_configs(tmp_path):
    write_scenes(tmp_path / "train", ["a/0", "a/1", "b/0", "b/1"])
    write_scenes(tmp_path / "val", ["a/7", "b/8"])
    plain = FinetuneAugment(auto_augment=None, erase_prob=0.0, crop_scale=(0.5, 1.0))
    train, test = LabelledImages(str(tmp_path), augment=plain, per_class=1).build(P)
    assert len(train) == 2 and len(test) == 2 and train[0]["image"].shape == (3, 16, 16) and train.name == tmp_path.name
    source = UnlabelledImages(str(tmp_path)).build(P)
    assert len(source) == 4 and source.held_out is not None and set(source[0]) == {"image", "depth", "semseg"}
    assert next(iter(batches(source, 3, 0, 0, 1, 0)))["semseg"].shape == (3, 4, 4)
    with pytest.raises(ConfigError, match="go with the picture through crop, mirror image and shift only"):
        LabelledImages(str(tmp_path)).build(P)


@pytest.mark.parametrize("augment", [PretrainAugment(crop_scale=(0.2, 0.6)), PretrainAugment(crop_scale=None, flip=True)], ids=["crop", "flip"])
def test_all_maps_go_the_same_way(augment, tmp_path):
    """Picture, depth and classes show the same ramp; after any crop and mirror image they still do."""
    rows = np.linspace(0, 1, 64)[None].repeat(64, 0)
    raw = {"rgb": (np.stack([rows] * 3, 2) * 255).astype(np.uint8), "depth": rows, "semseg": (rows * 6.99).astype(np.uint8)}
    transform = augment.build(replace(P, semseg_stride=1))
    for seed in range(20):
        with seeded(seed):
            found = transform(raw)
        grey = found["image"][:1]
        assert (found["depth"] - standardised(grey)).abs().mean() < 0.05
        assert (found["semseg"] - (grey[0] * 6.99)).abs().max() < 1.25 and set(found["semseg"].unique().tolist()) <= set(range(7))


def test_a_shift_fills_labels_with_pixels_that_count_for_nothing():
    p = replace(P, domains=("rgb", "segmentation"))
    transform = FinetuneAugment(crop_scale=None, flip=False, auto_augment=None, erase_prob=0.0, shift=3).build(p)
    raw = {"rgb": np.full((16, 16, 3), 200, np.uint8), "segmentation": np.ones((16, 16), np.uint8)}
    with seeded(1):
        found = [transform(raw) for _ in range(5)]
    for sample in found:
        outside = sample["segmentation"] == 255
        assert torch.equal(outside, sample["image"][0] == 0) and (sample["segmentation"][~outside] == 1).all()
    assert any((sample["segmentation"] == 255).any() for sample in found)


def test_depth_is_standardised_by_its_middle_values():
    depth = torch.randn(2, 1, 10, 10).exp() * 100
    middle = depth[0].flatten().sort().values[10:90]
    assert torch.allclose(standardised(depth)[0], (depth[0] - middle.mean()) / (middle.var() + 1e-6).sqrt(), atol=1e-4)
    assert torch.allclose(standardised(3 * depth + 7), standardised(depth), atol=1e-3)
    assert standardised(torch.full((1, 4, 4), 5.0)).abs().max() < 1e-2 and standardised(torch.ones(1, 1, 1)).isfinite().all()


@pytest.mark.parametrize(
    ("domain", "content", "words"),
    [
        ("depth", np.full((24, 32), np.nan, np.float32), "768 NaN or infinite pixels out of 768. A depth map must have a value everywhere"),
        ("depth", np.where(np.arange(32) == 3, np.inf, np.ones((24, 32))), "24 NaN or infinite"),
        ("depth", np.ones((12, 16), np.uint8), r"rgb \(.*a/0.jpg\) 24 x 32, depth \(.*a/0\..*\) 12 x 16"),
        ("depth", np.ones((24, 32, 3), np.uint8), "picture of mode 'RGB'; expected a depth map with one number per pixel"),
        ("semseg", np.full((24, 32), 9, np.uint8), r"has the label\(s\) 9, and the classes are 0 to 6"),
        ("semseg", np.full((24, 32), 255, np.uint8), "255 is no class here"),
        ("semseg", np.ones((32, 24), np.uint8), r"semseg \(.*a/0.png\) 32 x 24"),
        ("semseg", np.full((24, 32), 0.5, np.float32), "holds fractions, and a segmentation holds whole class ids"),
        ("semseg", np.zeros((24, 32, 3), np.uint8), "expected a segmentation with one number per pixel"),
    ],
)
def test_what_cannot_be_used_is_named_at_once(domain, content, words, folder):
    place = folder / domain / "a" / "0.png"
    place.unlink()
    if content.dtype == np.uint8:
        Image.fromarray(content).save(place)
    else:
        np.save(place.with_suffix(".npy"), content)
    with pytest.raises(DataError, match=words) as caught:
        UnlabelledImages(str(folder)).build(P)
    assert "a/0." in str(caught.value)
    skipping = UnlabelledImages(str(folder), on_error="skip").build(P)
    assert set(skipping[0]) == {"image", "depth", "semseg"} and skipping.skipped == 1


def test_missing_and_double_maps(folder):
    (folder / "depth" / "b" / "0.png").rename(folder / "depth" / "b" / "0.txt")
    with pytest.raises(DataError, match=r"The picture b/0.jpg has no depth in .*/depth. Add the map .* In all 1 of 5 pictures have none"):
        UnlabelledImages(str(folder)).build(P)
    assert set(UnlabelledImages(str(folder), on_error="skip").build(P)[2]) == {"image", "depth", "semseg"}
    np.save(folder / "depth" / "b" / "1.npy", np.ones((24, 32)))
    (folder / "depth" / "b" / "0.txt").rename(folder / "depth" / "b" / "0.png")
    with pytest.raises(DataError, match="more than one depth for b/1.jpg: 1.npy, 1.png"):
        open_pairs(folder, P).require_files()
    with pytest.raises(DataError, match=r"has no folder rgb or images with the pictures; its folders: a, b"):
        open_pairs(folder / "rgb", P)
    with pytest.raises(DataError, match="has no folder depth"):
        (folder / "depth").rename(folder / "dpt")
        open_pairs(folder, P)


def test_labels_keep_their_numbers(tmp_path):
    Image.fromarray(np.array([[0, 5], [6, 255]], np.uint8)).save(tmp_path / "x.png")
    palette = Image.fromarray(np.array([[0, 5], [6, 2]], np.uint8)).convert("P")
    assert read_labels(tmp_path / "x.png", 7, ignored=True).tolist() == [[[0, 5], [6, 255]]]
    assert read_labels(palette, 256).shape == (1, 2, 2)
    wide = np.array([[300, 2]], np.uint16)
    assert read_labels(wide, 301).tolist() == [[[300, 2]]]
    with pytest.raises(DataError, match=r"-1"):
        read_labels(np.array([[-1, 2]]), 5)
    with pytest.raises(DataError, match="is a list; expected a segmentation"):
        read_labels([[1]], 5)


def test_the_built_in_scenes_have_depth_and_classes():
    image = ImagePreprocess.default(20, channels=1)
    p = PairedPreprocess(image, semseg_classes=3, semseg_stride=2)
    plain, paired = built_in("digits-cluttered", "test", image), built_in("digits-cluttered", "test", p)
    assert torch.equal(plain.images, paired.images)  # the pictures are those of the set without maps
    depth, front = digits.scene_layers("test", digits.SceneConfig(), 1)
    assert set(front.unique().tolist()) == {0, 1, 2} and 0 < depth.min() and depth.max() <= 1
    means = [depth[front == layer].mean() for layer in range(3)]
    assert means[0] > means[1] > means[2]  # wall, digit, pieces
    bright = plain.images[:, 0] / 255
    assert bright[front > 0].mean() > 0.4 > 0.1 > bright[front == 0].mean()
    batch = paired.fetch([0, 7])
    one = paired[7]
    assert all(torch.allclose(batch[key][1].float(), one[key].float(), atol=1e-5) for key in ("image", "depth", "semseg", "label"))
    with pytest.raises(DataError, match="has neither depth nor segmentation"):
        built_in("digits", "test", p)


def test_scenes_of_another_size_and_shifted_ones():
    p = PairedPreprocess(ImagePreprocess.default(12, channels=1), semseg_classes=3, semseg_stride=1)
    train, test = LabelledImages("digits-cluttered", per_class=3, augment=replace(FinetuneAugment.none(), shift=2)).build(p)
    assert train.shift == 2 and test[0]["semseg"].shape == (12, 12)
    batch = next(iter(batches(train, 8, 0, 0, 1, 0)))
    assert batch["depth"].shape == (8, 1, 12, 12) and batch["label"].shape == (8,)
    plain = next(iter(ordered_batches(train, 8)))
    assert torch.equal(plain["image"][0], train[0]["image"])


def test_raw_input_for_a_loaded_model():
    picture, depth, classes = scene(1)
    batch = P({"rgb": [picture, picture], "depth": [depth, depth]})
    assert set(batch) == {"image", "depth"} and batch["depth"].shape == (2, 1, 16, 16)
    assert set(P(picture)) == {"image"} and P({"semseg": classes})["semseg"].shape == (1, 4, 4)
    with pytest.raises(DataError, match="found deph.*Did you mean 'depth'"):
        P({"deph": depth})
    with pytest.raises(DataError, match="one map for each sample"):
        P({"rgb": [picture, picture], "depth": [depth]})
    with pytest.raises(ConfigError, match="semseg_stride that divides"):
        PairedPreprocess(IMAGE, semseg_stride=3)


def test_a_list_of_scenes_to_leave_out(folder, tmp_path):
    (folder / "depth" / "a" / "0.png").write_bytes(b"damaged")
    (tmp_path / "list.txt").write_text("rgb/a/0.jpg\tbad depth\n")
    source = UnlabelledImages(str(folder), exclude=str(tmp_path / "list.txt")).build(P)
    assert len(source) == 4 and source.id(0) == "rgb/a/1.jpg"


def test_a_shift_leaves_no_frame_in_depth():
    """What comes in from the edge is as far away as the edge; 0 would be nearer than anything."""
    columns = torch.arange(4.0).expand(1, 1, 4, 4)
    maps = {"rgb": columns + 1, "depth": columns + 1, "segmentation": columns.int()}
    moved = shift_batch(maps, torch.tensor([[2, 0]]), 2)  # two to the right
    assert {domain: found[0, 0, 0].tolist() for domain, found in moved.items()} == {"rgb": [0, 0, 1, 2], "depth": [1, 1, 1, 2], "segmentation": [255, 255, 0, 1]}
    p = PairedPreprocess(ImagePreprocess.default(20, channels=1), ("depth",))
    transform = replace(FinetuneAugment.none(), shift=2).build(p)
    with seeded(0):
        assert all((transform({"depth": np.full((20, 20), 7.0)})["depth"].abs() < 1e-3).all() for _ in range(5))
