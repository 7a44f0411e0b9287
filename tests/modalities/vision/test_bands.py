"""Pictures with up to 13 channels: what is read, what is measured, what is refused, and a whole run of them."""

import itertools
import logging
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from modalities.common.run import run
from modalities.vision.augment import FinetuneAugment, PretrainAugment
from modalities.vision.bands import as_bands
from modalities.vision.data import LabelledImages, UnlabelledImages
from modalities.vision.finetune import default_recipe
from modalities.vision.images import read_image
from modalities.vision.multicrop import MultiCropAugment
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.tasks import predict, write_example
from modalities.vision.tiff import tiff_pixels
from tests.modalities.vision.test_paired import write_scenes
from tests.small import TRAIN, recipe
from trainer.config import replace
from trainer.errors import ConfigError, DataError
from zoo.cards import snippet
from zoo.cli import main

SENTINEL = ImagePreprocess.default((16, 16), 13)


def scene(seed=0, channels=13, shape=(20, 24), dtype=np.uint16):
    """Numbers that fill a small part of their range, each channel about another value; the last one never changes."""
    made = np.random.default_rng(seed).integers(0, 200, (*shape, channels)) + 100 * np.arange(channels)
    made[..., -1] = 7
    return made.astype(dtype)


def tif(path, array, planar=False, deflated=False, predictor=1, rows=None, tile=None, order="<"):
    """Write the first and only page as GDAL would: in strips of so many rows, or in square tiles."""
    height, width, samples = array.shape
    step = (tile, tile) if tile else (rows or height, width)
    planes = [array[..., i : i + 1] for i in range(samples)] if planar else [array]
    parts = []
    for plane in planes:
        for top, left in itertools.product(range(0, height, step[0]), range(0, width, step[1])):
            part = plane[top : top + step[0], left : left + step[1]]
            if tile:
                part = np.pad(part, [(0, tile - part.shape[0]), (0, tile - part.shape[1]), (0, 0)])
            if predictor == 2:
                part = np.diff(part, axis=1, prepend=np.zeros_like(part[:, :1]))
            data = part.astype(part.dtype.newbyteorder(order)).tobytes()
            parts.append(zlib.compress(data) if deflated else data)
    form = {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    places, counts = ((324, 325) if tile else (273, 279))
    tags = {
        256: [width], 257: [height], 258: [8 * array.itemsize] * samples, 259: [8 if deflated else 1], places: [0] * len(parts), 277: [samples],
        counts: [len(part) for part in parts], 284: [2 if planar else 1], 317: [predictor], 339: [form] * samples,
    }  # fmt: skip
    tags |= {322: [tile], 323: [tile]} if tile else {278: [step[0]]}
    end = 8 + 2 + 12 * len(tags) + 4
    extra = sum(4 * len(values) for values in tags.values() if len(values) > 1)
    tags[places] = [end + extra + sum(map(len, parts[:i])) for i in range(len(parts))]
    entries, far = b"", b""
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        entries += struct.pack(f"{order}HHI", tag, 4, len(values)) + (packed if len(values) == 1 else struct.pack(f"{order}I", end + len(far)))
        far += packed if len(values) > 1 else b""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    path.write_bytes(head + entries + bytes(4) + far + b"".join(parts))
    return path


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize(
    "options", [{}, {"planar": True}, {"deflated": True, "rows": 7}, {"tile": 16}, {"tile": 16, "planar": True, "deflated": True}, {"order": ">", "predictor": 2, "deflated": True}]
)
def test_tifs_of_many_bands(tmp_path, options):
    array = scene()
    path = tif(tmp_path / "a.tif", array, **options)
    np.testing.assert_array_equal(tiff_pixels(path.read_bytes(), "a"), array)
    torch.testing.assert_close(as_bands(path, 13), torch.from_numpy(array.astype(np.float32) / 65535).permute(2, 0, 1))


def test_what_else_holds_channels(tmp_path):
    """Arrays with channels last or first, of every type; grey pages; RGBA as four channels; and the same of contents and tensors."""
    array = scene(channels=5, dtype=np.uint8)
    wanted = torch.from_numpy(array.astype(np.float32) / 255).permute(2, 0, 1)
    for i, values in enumerate((array, array.transpose(2, 0, 1), (array.astype(np.uint32) * 257).astype(np.uint16), array.astype(np.float32) / 255)):
        np.save(tmp_path / f"{i}.npy", values)
        for raw in (tmp_path / f"{i}.npy", (tmp_path / f"{i}.npy").read_bytes(), values):
            torch.testing.assert_close(as_bands(raw, 5), wanted)
    torch.testing.assert_close(as_bands(wanted, 5), wanted)
    pages = [Image.fromarray(array[..., i].astype(np.uint16) * 257) for i in range(5)]
    pages[0].save(tmp_path / "p.tif", save_all=True, append_images=pages[1:])
    torch.testing.assert_close(as_bands(tmp_path / "p.tif", 5), wanted)
    Image.fromarray(array[..., :4].copy()).save(tmp_path / "a.png")
    torch.testing.assert_close(as_bands(tmp_path / "a.png", 4), wanted[:4])


def test_arrays_of_one_and_three_channels_are_pictures_too(tmp_path):
    array = scene(channels=3)
    np.save(tmp_path / "a.npy", array.transpose(2, 0, 1))
    torch.testing.assert_close(read_image(tmp_path / "a.npy", 3), torch.from_numpy(array.astype(np.float32) / 65535).permute(2, 0, 1))
    assert read_image(tmp_path / "a.npy", 1).shape == (1, 20, 24)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (scene(channels=12), r"a\.npy has 12 channel\(s\) .* the model reads 13.*set its in_chans to 12"),
        (scene().astype(np.int16), r"a\.npy has the type int16.*use \.astype\('uint16'\)"),
        (scene().astype(np.float32), r"a\.npy holds floats from 1 to .*expected 0\.\.1"),
        (np.full((4, 4, 13), np.nan, np.float32), r"a\.npy holds 208 NaN"),
        (np.zeros((2, 4, 4, 13), np.uint8), r"a\.npy has the shape \(2, 4, 4, 13\)"),
    ],
)
def test_what_is_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=message):
        as_bands(tmp_path / "a.npy", 13)


def test_tifs_that_are_refused(tmp_path):
    content = tif(tmp_path / "a.tif", scene()).read_bytes()
    with pytest.raises(DataError, match=r"a\.tif is a truncated or damaged tif"):
        (tmp_path / "a.tif").write_bytes(content[:-100])
        as_bands(tmp_path / "a.tif", 13)
    with pytest.raises(DataError, match=r"a\.tif stores 13 samples per pixel of 16 bits with compression 5"):
        (tmp_path / "a.tif").write_bytes(content.replace(struct.pack("<HHII", 259, 4, 1, 1), struct.pack("<HHII", 259, 4, 1, 5)))
        as_bands(tmp_path / "a.tif", 13)
    for cut in range(0, 400, 7):
        with pytest.raises(DataError, match="cut"):
            as_bands(content[:cut], 13, "cut")


def test_random_changes_keep_precision_and_colours_are_refused():
    torch.manual_seed(0)
    whole = FinetuneAugment(auto_augment=None, shift=2, erase_prob=1.0).build(SENTINEL)(scene())
    assert whole.shape == (13, 16, 16) and len(whole[0].unique()) > 100
    assert FinetuneAugment(auto_augment=None, one_draw=True, erase_prob=0.0).build(SENTINEL)(scene()).shape == (13, 16, 16)
    assert PretrainAugment().build(SENTINEL)(scene()).shape == (13, 16, 16)
    for augment in (FinetuneAugment(), FinetuneAugment(auto_augment=None, color_jitter=0.4), MultiCropAugment()):
        with pytest.raises(ConfigError, match="13"):
            augment.build(SENTINEL)


def test_pictures_show_three_channels():
    assert SENTINEL.denormalise(torch.zeros(2, 13, 4, 4)).shape == (2, 3, 4, 4)
    assert ImagePreprocess.default((4, 4), 2).denormalise(torch.zeros(2, 2, 4, 4)).unique().tolist() == [0.5]
    assert SENTINEL.adapted((13, 32, 32)).size == (32, 32) and SENTINEL.adapted((3, 32, 32)) is None
    with pytest.raises(ConfigError, match="up to 13"):
        ImagePreprocess.default(16, 14)


def test_a_run_of_thirteen_channels(tmp_path, caplog):
    """Pre-trained, fine-tuned and asked, with the statistics of the data in every export; a file that differs is named."""
    for label, i in itertools.product("ab", range(6)):
        (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "data" / label / f"{i}.npy", scene(i + 10 * (label == "b")))
    with caplog.at_level(logging.INFO, logger="zoo"):
        run(recipe(tmp_path / "data", **{"model.in_chans": 13, "train.steps": 2, "train.pictures": 1}), tmp_path / "run")
    assert "Mean and deviation of 13 channels, measured on 12 of 12 images" in caplog.text and "1 channel(s) never change" in caplog.text
    assert len(list((tmp_path / "run" / "pictures").glob("*.png"))) >= 2
    model = zoo.from_pretrained(tmp_path / "run")
    means = np.mean([scene(i + 10 * b) for b in (0, 1) for i in range(6)], axis=(0, 1, 2)) / 65535
    assert model.preprocess.mean == pytest.approx(tuple(means), rel=0.02) and model.preprocess.std[-1] == 1
    tuned = replace(default_recipe(str(tmp_path / "run"), data=str(tmp_path / "data")), {**TRAIN, "train.steps": 2, "train.pictures": 1, "train.schedule.warmup": 0.0})
    run(tuned, tmp_path / "tuned")
    assert list((tmp_path / "tuned" / "pictures").glob("*.png"))
    classifier = zoo.from_pretrained(tmp_path / "tuned")
    assert classifier.preprocess == model.preprocess
    assert "0.npy" in predict(classifier, [tmp_path / "data" / "a" / "0.npy"], None)
    assert 'preprocess(["image.npy"])' in snippet(model)
    assert model.preprocess(write_example(model, tmp_path))["image"].shape == (1, 13, 16, 16)
    predict(model, [tmp_path / "data" / "a" / "0.npy"], tmp_path / "sheet.png")
    np.save(tmp_path / "data" / "b" / "5.npy", scene(channels=4))
    with pytest.raises(DataError, match=r"b/5\.npy has 4 channel"):
        UnlabelledImages(str(tmp_path / "data")).build(SENTINEL)
    with pytest.raises(DataError, match=r"There are no images in .*12 x \.npy"):
        LabelledImages(str(tmp_path / "data")).build(ImagePreprocess.default(16, 3))


def test_bands_are_shown_checked_and_packed(tmp_path, capsys, monkeypatch):
    """Arrays with channels last and first and tifs are pictures for `zoo data` and `zoo pack` too; arrays of videos stay videos."""
    monkeypatch.chdir(tmp_path)
    for label, i in itertools.product("ab", range(3)):
        (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "data" / label / f"{i}.npy", scene(i) if i else scene(i).transpose(2, 0, 1))
    tif(tmp_path / "data" / "a" / "9.tif", scene(9))
    assert main(["data", "show", "data"]) == 0
    said = capsys.readouterr().out
    assert "data: vision, folder of class folders, 7 samples" in said and "6 npy of 13 channels, 1 TIFF of 13 channels" in said and "shape 20 x 24" in said
    assert len(np.unique(pixels("data-samples.png").reshape(-1, 3), axis=0)) > 500
    assert main(["data", "check", "data"]) == 0 and main(["pack", "data", "--to", "tars", "--in-order"]) == 0
    assert main(["data", "check", "tars"]) == 0 and "7 of 7 samples are fine: 6 npy of 13" in capsys.readouterr().out
    plain, packed = (LabelledImages(path).build_plain(SENTINEL)[0] for path in ("data", "tars"))
    assert packed.classes == ("a", "b") and all(torch.equal(packed[i]["image"], plain[i]["image"]) for i in range(len(plain)))
    np.save(tmp_path / "data" / "b" / "2.npy", np.full((4, 4, 13), np.nan, np.float32))
    assert main(["data", "check", "data"]) == 1 and "b/2.npy holds 208 NaN" in capsys.readouterr().out
    np.save(tmp_path / "data" / "b" / "2.npy", np.zeros((16, 20, 24), np.uint8))
    assert main(["data", "check", "data"]) == 1 and "2.npy has the shape (16, 20, 24), which is no picture" in capsys.readouterr().out
    for name in ("a/0", "a/1", "b/0", "b/1"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "clips" / f"{name}.npy", np.zeros((16, 20, 24), np.uint8))
    assert main(["data", "show", "clips"]) == 0 and "clips: video, folder of class folders" in capsys.readouterr().out


def test_beside_other_pictures_arrays_are_not_read(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "data" / "a.png")
    np.save(tmp_path / "data" / "features.npy", np.zeros(7))
    assert main(["data", "check", "data"]) == 0 and "1 of 1 samples are fine: 1 PNG RGB" in capsys.readouterr().out


def test_bands_with_maps_by_the_commands(tmp_path, capsys, monkeypatch):
    """MultiMAE on 13 channels, depth and classes; fine-tuned on two inputs, and segmenting, also from tars."""
    monkeypatch.chdir(tmp_path)
    root = write_scenes(tmp_path / "scenes", [f"{c}/{i}" for c in "ab" for i in range(6)])
    for i, path in enumerate(sorted((root / "rgb").rglob("*.jpg"))):
        np.save(path.with_suffix(".npy"), scene(i, shape=(24, 32)))
        path.unlink()
    assert main(["data", "show", "scenes"]) == 0
    said = capsys.readouterr().out
    assert "folder of images with depth and semseg, 12 samples" in said and "12 npy of 13 channels + depth + semseg" in said
    assert len(np.unique(pixels("scenes-samples.png").reshape(-1, 3), axis=0)) > 500
    assert main(["pack", "scenes", "--to", "tars"]) == 0 and main(["data", "check", "tars"]) == 0
    assert "12 of 12 samples are fine: 12 npy of 13 channels + depth + semseg" in capsys.readouterr().out
    small = ["--model.embed_dim", "16", "--model.depth", "1", "--model.num_heads", "2", "--model.decoder_dim", "16", "--model.decoder_depth", "0",
             "--model.decoder_num_heads", "2", "--model.semseg_classes", "7", "--model.input_size", "16", "16", "--model.in_chans", "13"]  # fmt: skip
    quick = ["--train.steps", "2", "--train.batch_size", "4", "--train.pictures", "1", "--train.workers", "0"]
    assert main(["pretrain", "vision/multimae-tiny", "--data.path", "tars", "--to", "pre", *small, *quick]) == 0
    model = zoo.from_pretrained("pre")
    assert len(model.preprocess.image.mean) == 13 and model.preprocess.image.std[-1] == 1
    pictures = ["--inputs", "rgb", "depth", "--data.augment.auto_augment", "None", "--data.augment.erase_prob", "0"]
    assert main(["finetune", "pre", "--data.path", "scenes", "--to", "cls", *pictures, *quick]) == 0
    classifier = zoo.from_pretrained("cls")
    example = write_example(classifier, tmp_path)
    assert classifier(classifier.preprocess(example)).shape == (1, 2) and "image.npy" in snippet(classifier, "cls")
    segment = ["--task", "segmentation", "--data.class_names", *"0123456", "--data.test_fraction", "0.3"]
    assert main(["finetune", "pre", "--data.path", "tars", "--to", "seg", "--inputs", "rgb", *segment, *quick]) == 0
    assert main(["evaluate", "seg", "--data", "scenes"]) == 0 and "mean IoU" in capsys.readouterr().out
    assert main(["predict", "seg", "scenes/rgb/a/0.npy", "--to", "s.png"]) == 0 and pixels("s-0.png").shape == (24, 32)
    assert main(["predict", "pre", "scenes/rgb/a/0.npy", "--to", "p.png"]) == 0
    assert all(pixels(path).std() > 5 for path in ("s.png", "p.png", *tmp_path.glob("*/pictures/*.png")))
