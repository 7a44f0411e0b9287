import gzip
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from trainer.decoders import DECODERS, Limits, decode, ending_of
from trainer.errors import DataError, MissingDependencyError

WHERE = "train-3.tar: 00012 (x)"


def npy(values, allow_pickle=False):
    file = io.BytesIO()
    np.save(file, values, allow_pickle=allow_pickle)
    return file.getvalue()


def npz(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def png(size=(3, 2), mode="RGB", ending="PNG"):
    file = io.BytesIO()
    Image.new(mode, size, 7).save(file, ending)
    return file.getvalue()


@pytest.mark.parametrize("ending, kind", [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"), ("tif", "TIFF"), ("bmp", "BMP"), ("gif", "GIF")])
def test_images(ending, kind):
    picture = decode(f"a.{ending}", png(ending=kind), WHERE)
    assert picture.size == (3, 2) and np.asarray(picture).max() <= 10


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "u1", "<i8", "?", "<c8"])
def test_arrays_come_back_whole_writable_and_in_native_order(dtype):
    values = np.asfortranarray(np.arange(12).reshape(3, 4).astype(dtype))
    back = decode("x.npy", npy(values), WHERE)
    np.testing.assert_array_equal(back, values)
    assert back.flags.writeable and back.dtype.isnative
    assert decode("x.npy", npy(np.float32(3)), WHERE) == 3 and decode("x.npy", npy(np.zeros((0, 4))), WHERE).shape == (0, 4)


def test_text_classes_json_and_npz():
    assert decode("x.txt", "caf\u00e9".encode(), WHERE) == "caf\u00e9"
    assert decode("x.cls", b" 12\n", WHERE) == 12
    assert decode("x.json", b'{"a": [1, {"b": null}]}', WHERE) == {"a": [1, {"b": None}]}
    arrays = decode("x.npz", npz(a=np.arange(3), b=np.eye(2)), WHERE)
    assert arrays["a"].tolist() == [0, 1, 2] and arrays["b"].shape == (2, 2)


def header(shape, descr="<f4", extra=b""):
    """An npy header that claims a shape, and `extra` bytes after it."""
    text = str({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text + b"\n" + extra


@pytest.mark.parametrize(
    "name, data, words",
    [
        ("x.npy", npy(np.array([{}], dtype=object), allow_pickle=True), "pickle can run any program"),
        ("x.npy", header((2**40,)), r"claims the shape .* at most"),
        ("x.npy", header((10, 10)), "400 bytes, but 0 follow"),
        ("x.npy", header((-1, 4)), "impossible header"),
        ("x.npy", header((True,), extra=b"0123"), "impossible header"),
        ("x.npy", header((4,), "V0"), "impossible header"),
        ("x.npy", npy(np.arange(4))[:-3], "cut off or damaged"),
        ("x.npy", npy(np.arange(4)) + b"0", "cut off or damaged"),
        ("x.npy", b"", "damaged or no npy"),
        ("x.npy", b"\x93NUMPY\x09\x00", "unknown version"),
        ("x.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "claims a header of"),
        ("x.npz", npz(a=np.array([{}], dtype=object)), r"\[a.npy\] holds Python objects"),
        ("x.npz", b"PK\x03\x04", "damaged or no npz"),
        ("x.cls", b"seven", "number of a class"),
        ("x.cls", b"9" * 5000, "number of a class"),
        ("x.cls", b"\xc2\xb2", "number of a class"),
        ("x.txt", b"\xff\xfe", "not UTF-8"),
        ("x.json", b"[" * 100_000, "more than 50 deep"),
        ("x.json", b"[" * 60 + b"]" * 60, "more than 50 deep"),
        ("x.json", b"{", "damaged or no json"),
        ("x.png", png()[:-26], "truncated or damaged"),
        ("x.png", b"<html>", "is an HTML page"),
        ("x.pkl", b"", "nothing here reads the ending 'pkl'"),
        ("x.jpgg", b"", "Did you mean 'jpg'"),
        ("noending/", b"", "member without ending"),
    ],
)
def test_what_is_wrong_is_named_and_explained(name, data, words):
    with pytest.raises(DataError, match=words) as caught:
        decode(name, data, WHERE)
    assert str(caught.value).startswith(WHERE)


def test_bombs_are_refused_before_they_go_off():
    small = Limits(decoded=10_000, text=100, encoded=2**20, arrays=3)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(1_000_000))
    for name, data in {
        "x.npz": packed.getvalue(),
        "y.npz": npz(**{f"a{i}": np.zeros(1) for i in range(4)}),
        "x.npy": npy(np.zeros(10_000)),
        "x.nii.gz": gzip.compress(bytes(1_000_000)),
        "x.json": json.dumps(["x" * 200]).encode(),
        "x.txt": bytes(2**20 + 1),
    }.items():
        with pytest.raises(DataError, match="at most|more than"):
            decode(name, data, WHERE, limits=small)


def test_unknown_endings_are_bytes_only_when_asked():
    assert decode("x.pyd", b"abc", WHERE, raw=("pyd",)) == b"abc"
    assert decode("x.jpg", b"abc", WHERE, raw={"jpg"}) == b"abc"
    with pytest.raises(DataError, match="ask for this ending as raw"):
        decode("x.pyd", b"abc", WHERE, raw=("pkl",))


def test_endings():
    assert [ending_of(n) for n in ("a.b/x.seg.PNG", "x.nii.gz", "nii.gz", "x.gz", "cls")] == ["png", "nii.gz", "nii.gz", "gz", "cls"]
    assert {"jpg", "npy", "npz", "json", "txt", "cls", "wav", "flac", "ogg", "mp3", "mp4", "nii", "nii.gz"} <= set(DECODERS)


@pytest.mark.parametrize("ending, data", [("wav", b"RIFF"), ("mp4", b"\0\0\0\x18ftypisom"), ("nii", b"\x5c\x01")])
def test_a_missing_library_is_named(ending, data, monkeypatch):
    for name in ("soundfile", "av", "nibabel"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        decode(ending, data, WHERE)


def test_sound():
    soundfile = pytest.importorskip("soundfile")
    for kind, ending in {"WAV": "wav", "FLAC": "flac", "OGG": "ogg", "MP3": "mp3"}.items():
        file = io.BytesIO()
        soundfile.write(file, np.zeros((4000, 2), np.float32), 8000, format=kind)
        sound = decode(ending, file.getvalue(), WHERE)
        assert sound.samples.shape == (2, 4000) and sound.samples.dtype == np.float32 and sound.rate == 8000
        with pytest.raises(DataError, match="claims 4,000 samples"):
            decode(ending, file.getvalue(), WHERE, limits=Limits(decoded=1000))
        with pytest.raises(DataError):
            decode(ending, file.getvalue()[:40], WHERE)


def test_volumes():
    nibabel = pytest.importorskip("nibabel")
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        data = kind(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.diag([2, 2, 3, 1])).to_bytes()
        for ending, content in {"nii": data, "nii.gz": gzip.compress(data)}.items():
            volume = decode(ending, content, WHERE)
            assert volume.values.shape == (2, 3, 4) and volume.values[1, 2, 3] == 23 and volume.affine[2, 2] == 3
        for damaged in (data[:-1], data[:200]):
            with pytest.raises(DataError):
                decode("nii", damaged, WHERE)
        with pytest.raises(DataError, match="at most 90 bytes"):
            decode("nii", data, WHERE, limits=Limits(decoded=90))


def test_video():
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for i in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((24, 32, 3), 40 * i, np.uint8), format="rgb24")))
        container.mux(stream.encode())
    video = decode("mp4", file.getvalue(), WHERE)
    assert video.frames.shape == (5, 24, 32, 3) and video.rate == 10 and video.frames[4].mean() > 150
    with pytest.raises(DataError, match="longer than 5,000 bytes"):
        decode("mp4", file.getvalue(), WHERE, limits=Limits(decoded=5000))
    with pytest.raises(DataError, match="no video that is read here"):
        decode("mp4", b"#EXTM3U\n/etc/passwd\n", WHERE)


def test_a_header_that_python_cannot_tokenise():
    with pytest.raises(DataError, match="damaged or no npy"):
        decode("x.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4(\n", WHERE)
