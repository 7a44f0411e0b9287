import re
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from modalities.vision.images import read_image, to_tensor
from modalities.vision.preprocess import ImagePreprocess
from trainer.config import from_dict, to_dict
from trainer.errors import CheckpointError, ConfigError, DataError
from trainer.image_files import EXTENSIONS

PLAIN = ImagePreprocess(size=(2, 2), channels=3, mean=(0.0,) * 3, std=(1.0,) * 3, crop_pct=1.0)
GREY = ImagePreprocess(size=(2, 2), channels=1, mean=(0.0,), std=(1.0,), crop_pct=1.0)


def noise(height, width, channels=3, seed=0):
    values = np.random.RandomState(seed).randint(0, 256, (height, width, channels)).astype(np.uint8)
    return Image.fromarray(values if channels == 3 else values[:, :, 0])


def pixel(path, channels=3, at=(0, 0)):
    return [round(v, 4) for v in to_tensor(read_image(path, channels))[:, at[0], at[1]].tolist()]


# --- the right pixels from every kind of file ---


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bit_grey_is_scaled_by_its_full_range(tmp_path, ending, channels):
    values = np.array([[0, 32768], [65535, 257]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{ending}")
    read = read_image(tmp_path / f"a.{ending}", channels)
    assert read.shape == (channels, 2, 2)
    torch.testing.assert_close(read[0], torch.tensor([[0, 0.5], [1, 257 / 65535]]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [">u2", "<u2", np.int32])
def test_big_endian_and_32_bit_storage_of_16_bit_grey(tmp_path, kind):
    Image.fromarray(np.array([[0, 32768], [65535, 257]]).astype(kind)).save(tmp_path / "a.tif")
    assert pixel(tmp_path / "a.tif", 1, (0, 1)) == [0.5]
    assert pixel(tmp_path / "a.tif", 1, (1, 0)) == [1.0]


def test_integers_of_unknown_range_are_refused(tmp_path):
    Image.fromarray(np.array([[-5, 70000]], dtype=np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"-5 to 70,000.*16-bit"):
        read_image(tmp_path / "a.tif", 1)


def test_float_tiff_keeps_its_values_and_its_range_is_checked(tmp_path):
    Image.fromarray(np.array([[0.25, 1.0]], dtype=np.float32)).save(tmp_path / "a.tif")
    assert pixel(tmp_path / "a.tif", 1) == [0.25]
    Image.fromarray(np.array([[0.25, 200.0]], dtype=np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(DataError, match="b.tif holds floats from 0.25 to 200; expected 0..1"):
        read_image(tmp_path / "b.tif", 1)


def test_white_is_zero_tiff_is_inverted(tmp_path):
    Image.fromarray(np.array([[0, 65535]], dtype=np.uint16)).save(tmp_path / "a.tif", tiffinfo={262: 0})
    assert pixel(tmp_path / "a.tif", 1, (0, 0)) == [1.0]
    assert pixel(tmp_path / "a.tif", 1, (0, 1)) == [0.0]


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (4, 2), "black")
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[274] = 6  # to be turned clockwise: the top left corner becomes the top right one
    image.save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png", 3).size == (2, 4)
    assert pixel(tmp_path / "a.png", at=(0, 1)) == [1, 0, 0]
    assert pixel(tmp_path / "a.png", at=(0, 0)) == [0, 0, 0]


HALF_RED = [1.0, 127 / 255, 127 / 255]


@pytest.mark.parametrize("ending", ["png", "webp"])
def test_transparency_is_put_on_white(tmp_path, ending):
    Image.new("RGBA", (2, 2), (255, 0, 0, 128)).save(tmp_path / f"a.{ending}", lossless=True)
    assert pixel(tmp_path / f"a.{ending}") == pytest.approx(HALF_RED, abs=1e-3)


def test_palette_with_transparency(tmp_path):
    image = Image.new("P", (2, 2), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 1), 1)
    image.save(tmp_path / "a.png", transparency=bytes([128, 255]))
    assert pixel(tmp_path / "a.png") == pytest.approx(HALF_RED, abs=1e-3)
    assert pixel(tmp_path / "a.png", at=(1, 1)) == [0, 1, 0]
    image.save(tmp_path / "b.png")
    assert pixel(tmp_path / "b.png") == [1, 0, 0]


def test_grey_with_alpha_and_grey_with_a_transparent_value(tmp_path):
    Image.new("LA", (2, 2), (0, 128)).save(tmp_path / "a.png")
    assert pixel(tmp_path / "a.png", 1) == pytest.approx([127 / 255], abs=1e-3)
    image = Image.new("L", (2, 2), 7)
    image.putpixel((1, 1), 100)
    image.save(tmp_path / "b.png", transparency=7)
    assert pixel(tmp_path / "b.png", 1) == [1.0]
    assert pixel(tmp_path / "b.png", 1, (1, 1)) == [round(100 / 255, 4)]


def test_one_bit_cmyk_gif_and_grey_files(tmp_path):
    image = Image.new("1", (2, 2), 0)
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png")
    assert pixel(tmp_path / "a.png", 1) == [0] and pixel(tmp_path / "a.png", 1, (0, 1)) == [1]
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert pixel(tmp_path / "a.jpg") == pytest.approx([1, 0, 0], abs=0.02)
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("blue", "red")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixel(tmp_path / "a.gif") == [0, 0, 1]  # the first frame
    frames[0].save(tmp_path / "b.jpg", "MPO", save_all=True, append_images=frames[1:])  # as phones write
    assert pixel(tmp_path / "b.jpg") == pytest.approx([0, 0, 1], abs=0.02)
    Image.new("L", (2, 2), 51).save(tmp_path / "a.bmp")
    assert pixel(tmp_path / "a.bmp") == [0.2, 0.2, 0.2]
    Image.new("RGB", (2, 2), (255, 0, 0)).save(tmp_path / "b.png")
    assert pixel(tmp_path / "b.png", 1) == pytest.approx([0.299], abs=2e-3)  # ITU-R 601 luma


# --- files that are not what they seem ---


def bomb(path):
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b""))


def test_bad_files_are_named_and_explained(tmp_path):
    path = tmp_path / "x.jpg"
    noise(60, 60).save(path, "JPEG")
    whole = path.read_bytes()
    cases = {
        whole[: len(whole) // 2]: "truncated or damaged",
        whole[:2] + b"\xff\x00\x00": "begins like an image but",
        b"": "is empty",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n": "git-LFS pointer.*git lfs pull",
        b"\n<!DOCTYPE html><html>404</html>": "HTML page",
        b"just some notes\n": "text file.*just some notes",
        b"\x00\x00\x00\x18ftypheic": "HEIC",
        bytes(range(256)): "not an image",
    }
    for content, message in cases.items():
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"(?s)x.jpg.*{message}"):
            read_image(path, 3)
    bomb(path)
    with pytest.raises(DataError, match="x.jpg claims to be enormous"):
        read_image(path, 3)
    with pytest.raises(DataError, match="no file .*nothing.png"):
        read_image(tmp_path / "nothing.png", 3)
    with pytest.raises(DataError, match="is a folder"):
        read_image(tmp_path, 3)


def test_damaged_files_never_raise_anything_but_data_error(tmp_path):
    random = np.random.RandomState(0)
    for ending in ("jpg", "png", "webp", "bmp", "gif"):
        path = tmp_path / f"x.{ending}"
        noise(20, 30).save(path)
        whole = bytearray(path.read_bytes())
        for _ in range(60):
            damaged = bytearray(whole)
            damaged[random.randint(min(len(whole), 80))] = random.randint(256)
            path.write_bytes(damaged[: random.randint(1, len(whole) + 1)])
            try:
                read_image(path, 3)
            except DataError as error:
                assert str(path) in str(error)


# --- the transform ---


@pytest.mark.parametrize("size", [(224, 224), (96, 96), (384, 384), (64, 128)])
@pytest.mark.parametrize("picture", [(300, 417), (417, 300), (50, 61), (224, 224)])
def test_equals_timms_evaluation_transform(size, picture):
    ours = ImagePreprocess.default(size)
    image = noise(*picture)
    theirs = create_transform((3, *size), interpolation="bicubic", mean=ours.mean, std=ours.std, crop_pct=ours.crop_pct)(image)
    if size[0] == size[1]:
        torch.testing.assert_close(ours.transform(image), theirs, atol=1e-6, rtol=0)
    else:  # timm rounds the longer side differently when the target is not square
        assert ours.transform(image).shape == theirs.shape


def test_default_follows_the_papers_crop_rule():
    assert [ImagePreprocess.default(s).crop_pct for s in (20, 63, 64, 224, 225, 448)] == [1, 1, 0.875, 0.875, 1, 1]
    assert ImagePreprocess.default(224).mean == (0.485, 0.456, 0.406)
    assert ImagePreprocess.default(28, channels=1).mean == (0.5,)


def test_all_kinds_of_input_give_the_same_numbers(tmp_path):
    image = noise(40, 50)
    p = ImagePreprocess.default(32)
    expected = p(image)["image"]
    assert expected.shape == (1, 3, 32, 32) and expected.dtype == torch.float32
    image.save(tmp_path / "a.png")
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for raw in (tmp_path / "a.png", str(tmp_path / "a.png"), array, tensor, [image], array[None], tensor[None]):
        torch.testing.assert_close(p(raw)["image"], expected, atol=0, rtol=0)
    # floats are resized without clipping and rounding to 8 bits in between: near, not equal
    for raw in (array / 255, tensor.float() / 255, (array.astype(np.float64) / 255)[None]):
        torch.testing.assert_close(p(raw)["image"], expected, atol=6 / 255 / 0.22, rtol=0)
    batch = p([image, noise(90, 33), tmp_path / "a.png", noise(64, 64, 1)])["image"]
    assert batch.shape == (4, 3, 32, 32)
    torch.testing.assert_close(batch[2:3], expected)


def test_arrays_of_other_types_and_channels():
    grey = np.array([[0, 32768], [65535, 0]], dtype=np.uint16)
    torch.testing.assert_close(GREY(grey)["image"][0, 0], torch.tensor([[0, 0.5], [1, 0]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(PLAIN(grey)["image"], GREY(grey)["image"].expand(1, 3, 2, 2))
    torch.testing.assert_close(GREY(np.eye(2, dtype=bool))["image"][0, 0], torch.eye(2))
    red = torch.tensor([1.0, 0, 0]).view(3, 1, 1).expand(3, 2, 2)
    torch.testing.assert_close(GREY(red)["image"], torch.full((1, 1, 2, 2), 0.299), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (np.full((4, 4), 200.0), "floats from 200 to 200; expected 0..1. Divide"),
        (torch.randn(3, 4, 4).clamp(-2, 0.5) - 1, "normalised already"),
        (np.array([[0.5, np.nan]]), "1 NaN or infinite pixels out of 2"),
        (torch.rand(4, 4, 3), "permute"),
        (np.random.rand(3, 4, 5), "transpose"),
        (np.zeros((4, 4, 4), dtype=np.uint8), "transparency"),
        (np.zeros((9, 8, 8), dtype=np.uint8), r"\(B, H, W, 1\)"),
        (np.zeros((4, 4), dtype=np.int64), "type int64.*holds 0 to 0"),
        (np.zeros((0, 4), dtype=np.uint8), r"shape \(0, 4, 1\)"),
        ([], "list is empty"),
        (3.5, "is a float"),
        ([np.zeros((4, 4), dtype=np.uint8), None], "image 1 of the batch is a NoneType"),
    ],
)
def test_wrong_input_is_explained(raw, message):
    with pytest.raises(DataError, match=message):
        PLAIN(raw)


def test_extreme_pictures():
    assert ImagePreprocess.default(224)(noise(1, 20000))["image"].shape == (1, 3, 224, 224)
    assert ImagePreprocess.default(224)(noise(1, 1))["image"].shape == (1, 3, 224, 224)
    # bicubic overshoots at edges; what comes out stays within the range of a picture
    step = torch.zeros(1, 8, 8)
    step[:, :, 4:] = 1
    out = ImagePreprocess(size=(30, 30), channels=1, mean=(0.0,), std=(1.0,), crop_pct=1.0)(step)["image"]
    assert out.min() == 0 and out.max() == 1


def test_denormalise_reverses_normalise():
    p = ImagePreprocess.default(16)
    pixels = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(p.denormalise(p.normalise(pixels)), pixels)


def test_config_is_checked_and_survives_storage(tmp_path):
    p = ImagePreprocess.default((64, 32), channels=1)
    assert from_dict(ImagePreprocess, to_dict(p)) == p
    p.save(tmp_path)
    assert ImagePreprocess.load(tmp_path) == p
    for changes in (dict(channels=4), dict(mean=(0.5,)), dict(std=(0.1, 0.0, 0.1)), dict(crop_pct=1.5), dict(size=(0, 4))):
        with pytest.raises(ConfigError, match="preprocess"):
            ImagePreprocess(**changes)


def test_read_formats():
    assert set(EXTENSIONS) == {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


def test_unusual_pictures_are_warned_about_with_their_numbers(caplog):
    p = ImagePreprocess.default(32)
    cases = [
        (np.eye(40, dtype=np.uint8), r"nearly black: its brightest pixel is 0\.0039"),
        (np.random.rand(40, 40) / 255, "nearly black"),
        (np.full((40, 40), 4095, dtype=np.uint16), r"brightest pixel is 0\.0625"),
        (noise(7, 40), "7 x 40 pixels and is enlarged to 32 x 32"),
        (noise(40, 900), "40 x 900 pixels; what lies beyond 20:1"),
    ]
    for raw, words in cases:
        caplog.clear()
        p(raw)
        (record,) = caplog.records
        assert re.search(words, record.getMessage())
    caplog.clear()
    p([noise(4, 4), noise(40, 40), noise(5, 5), noise(6, 6)])
    (record,) = caplog.records
    assert "image 0 of the batch has only 4 x 4" in record.getMessage() and "2 more" in record.getMessage()
    caplog.clear()
    p([noise(40, 40), np.zeros((40, 40), np.uint8), noise(8, 32)])  # an all black picture may be one
    assert not caplog.records


def test_tensors_without_plain_values():
    half = torch.rand(3, 8, 8).bfloat16()
    torch.testing.assert_close(PLAIN(half)["image"], PLAIN(half.float())["image"])
    for raw in (torch.rand(3, 8, 8).to_sparse(), torch.empty(3, 8, 8, device="meta")):
        with pytest.raises(DataError, match="without plain values"):
            PLAIN(raw)
    with pytest.raises(DataError, match="empty: 0 x 5"):
        PLAIN(Image.new("RGB", (0, 5)))
    with pytest.raises(DataError, match=r"int32.*holds 3 to 200: use .astype\('uint8'\)"):
        PLAIN(np.array([[3, 200]], dtype=np.int32))


def test_adapting_to_another_input():
    p = replace(ImagePreprocess.default(64), mean=(0.1, 0.2, 0.3), std=(0.2, 0.2, 0.5))
    grey = p.adapted((1, 64, 64))
    assert grey.mean == pytest.approx((0.2,)) and grey.std == pytest.approx((0.3,)) and grey.crop_pct == p.crop_pct
    assert p.adapted((3, 64, 64)) == p and p.adapted((3, 32, 48)).size == (32, 48)
    assert p.adapted((5, 64, 64)) is None and p.adapted((3, 64)) is None
    p.require_shape((3, 64, 64), "here")
    with pytest.raises(CheckpointError, match=r"here: its preprocessing makes images of 3 channel\(s\) and \(64, 64\)"):
        p.require_shape((1, 64, 64), "here")
