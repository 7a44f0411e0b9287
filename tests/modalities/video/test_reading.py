"""Reading videos from files and other places, and what is wrong with them."""

import struct
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from modalities.video.clips import as_clips
from modalities.video.preprocess import VideoPreprocess
from modalities.video.sampling import ClipSampler
from tests.modalities.video.references import moving, write_video
from trainer.errors import DataError
from trainer.video_files import VideoFile, matroska_end

PLAIN = VideoPreprocess(frames=4, stride=2, size=(16, 16), mean=(0.0,) * 3, std=(1.0,) * 3)


def grounds(frames):
    """The number of each frame of `moving`, told by its ground (lower left corner)."""
    return [round(float(frame[-2, 1].mean()) / 8) for frame in frames]


@pytest.mark.parametrize("ending", [".mp4", ".webm", ".avi", ".mkv", ".mov"])
@pytest.mark.parametrize("from_bytes", [False, True])
def test_any_frame_of_any_container(ending, from_bytes, tmp_path):
    pytest.importorskip("av")
    path = write_video(tmp_path / f"a{ending}", moving())
    with VideoFile(path.read_bytes() if from_bytes else path) as video:
        assert video.count == 20 and round(video.rate) == 10
        assert grounds(video.frames([0, 1, 7, 19])) == [0, 1, 7, 19]
        assert grounds(video.frames([3])) == [3]  # back again
        assert grounds(video.frames(range(20))) == list(range(20))
        assert video.frames([5]).shape == (1, 24, 32, 3)


def test_frames_are_counted_not_timed(tmp_path):
    pytest.importorskip("av")
    times = np.cumsum([1, 1, 5, 1, 9, 1, 1, 3, 1, 1, 2, 7]).tolist()
    path = write_video(tmp_path / "variable.mp4", moving(12), times=times)
    with VideoFile(path) as video:
        assert video.count == 12 and grounds(video.frames([0, 4, 5, 11])) == [0, 4, 5, 11]


def test_b_frames_are_shown_in_their_order(tmp_path):
    pytest.importorskip("av")
    with VideoFile(write_video(tmp_path / "b.mp4", moving(30), gop=30)) as video:
        assert grounds(video.frames([1, 2, 3, 17, 28])) == [1, 2, 3, 17, 28]


@pytest.mark.parametrize("ending", [".mp4", ".webm", ".avi", ".mkv"])
def test_frames_that_are_passed_over_change_nothing(ending, tmp_path):
    """Frames that no other one is made of are not decoded when they are not asked for; the others are the same to the bit."""
    av = pytest.importorskip("av")
    path = write_video(tmp_path / f"a{ending}", moving(40), gop=20)
    with av.open(str(path)) as container:
        plain = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    with VideoFile(path) as video:
        for wanted in (range(0, 40, 4), [1, 2, 3], [5, 18, 19, 20, 21, 39], [39], range(40)):
            assert (video.frames(wanted) == plain[list(wanted)]).all()


def test_one_frame_and_a_clip_longer_than_the_file(tmp_path):
    pytest.importorskip("av")
    one = write_video(tmp_path / "one.mp4", moving(1))
    assert PLAIN(str(one))["video"].shape == (1, 3, 4, 16, 16)
    short = as_clips(write_video(tmp_path / "short.mp4", moving(6)), lambda n: ClipSampler(4, 2).spread(n), 3)[0]
    assert grounds(short.permute(0, 2, 3, 1).numpy()) == [0, 2, 4, 4]  # the last frame that the stride reaches repeats


def test_sound_alone(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        for packet in (*stream.encode(frame), *stream.encode()):
            container.mux(packet)
    with pytest.raises(DataError, match=r"sound.mp4 has no video in it, only sound"):
        PLAIN(str(path))


@pytest.mark.parametrize(("ending", "words"), [(".avi", "none.avi has no frames"), (".mkv", "none.mkv is a damaged or cut off matroska file")])
def test_no_frames(ending, words, tmp_path):
    """A header that promises a video, and not one frame."""
    av = pytest.importorskip("av")
    path = tmp_path / f"none{ending}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        container.start_encoding()
    with pytest.raises(DataError, match=words):
        PLAIN(str(path))


def test_cut_off_files(tmp_path):
    pytest.importorskip("av")
    content = write_video(tmp_path / "a.mp4", moving(60)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 2 // 3])  # the index lay at the end
    with pytest.raises(DataError, match="cut.mp4 is a damaged or cut off mp4"):
        PLAIN(str(tmp_path / "cut.mp4"))
    avi = write_video(tmp_path / "a.avi", moving(60)).read_bytes()
    (tmp_path / "cut.avi").write_bytes(avi[: len(avi) // 2])
    with pytest.raises(DataError, match="cut.avi is cut off: [0-9]+ of 60 frames"):
        PLAIN(str(tmp_path / "cut.avi"))


def test_a_cut_off_webm_says_how_long_it_was(tmp_path):
    """Unless it is a recording that goes on: what is there of it is used."""
    pytest.importorskip("av")
    whole = write_video(tmp_path / "a.webm", moving(60)).read_bytes()
    cut = bytearray(whole[: len(whole) // 2])
    (tmp_path / "cut.webm").write_bytes(cut)
    with pytest.raises(DataError, match=rf"cut.webm is cut off: {len(cut):,} of {len(whole):,} bytes are there, [0-9]+ frames"):
        PLAIN(str(tmp_path / "cut.webm"))
    assert matroska_end(whole) == len(whole) and matroska_end(whole[:40]) is None and matroska_end(b"") is None
    place = cut.find(b"\x18\x53\x80\x67") + 4
    cut[place : place + 8] = b"\x01" + b"\xff" * 7
    assert matroska_end(bytes(cut)) is None
    (tmp_path / "going.webm").write_bytes(cut)
    with VideoFile(tmp_path / "going.webm") as video:
        assert 10 < video.count < 60 and grounds(video.frames([0, 9])) == [0, 9]


def test_an_avi_with_times_at_which_nothing_is_shown(tmp_path):
    pytest.importorskip("av")
    times = np.cumsum([0, 1, 5, 1, 9, 1, 1, 3, 1, 1, 2, 7]).tolist()
    path = write_video(tmp_path / "variable.avi", moving(12), times=times)
    with VideoFile(path) as video:
        assert video.count == 12 and grounds(video.frames([0, 4, 5, 11])) == [0, 4, 5, 11]
    content = path.read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: content.rfind(b"idx1") - 100])
    with pytest.raises(DataError, match="cut.avi is cut off: [0-9]+ of [0-9]+ frames"):
        PLAIN(str(tmp_path / "cut.avi"))


def test_frames_in_another_order_without_times(tmp_path):
    """H.264 in an avi, which has no times of showing: the frames are counted from the beginning."""
    av = pytest.importorskip("av")
    path = write_video(tmp_path / "b.avi", moving(30), gop=10, codec="libx264")
    with av.open(str(path)) as container:
        plain = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    with VideoFile(path) as video:
        for wanted in (range(30), [3], [29], [1, 12, 13]):
            assert (video.frames(wanted) == plain[list(wanted)]).all()


def test_a_decoder_that_does_not_know_the_order_starts_anew(tmp_path, monkeypatch):
    """Opened quickly, it may give frames in a wrong order: that is seen, and the file is opened again in the thorough way."""
    pytest.importorskip("av")
    path, shown, tried = write_video(tmp_path / "b.mp4", moving(30), gop=30), VideoFile._shown, []

    def confused(self, wanted):
        frames = list(shown(self, wanted))
        tried.append(self._quick)
        return iter([frames[i ^ 1] if i ^ 1 < len(frames) else frames[i] for i in range(len(frames))] if self._quick else frames)

    monkeypatch.setattr(VideoFile, "_shown", confused)
    with VideoFile(path) as video:
        assert grounds(video.frames([1, 2, 3, 17, 28])) == [1, 2, 3, 17, 28]
        assert grounds(video.frames([5])) == [5]
    assert tried[0] and not any(tried[1:])


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), -1), ((0, -1, 1, 0), 1), ((-1, 0, 0, -1), 2)])
def test_a_video_of_a_camera_that_was_turned_is_upright(matrix, turns, tmp_path):
    """As players show it: the matrix (0, 1, -1, 0) of a phone that was held upright turns its frames clockwise."""
    pytest.importorskip("av")
    content = bytearray(write_video(tmp_path / "a.mp4", moving(6)).read_bytes())
    with VideoFile(bytes(content)) as video:
        plain = video.frames(range(6))
    place = content.find(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    with VideoFile(bytes(content)) as video:
        assert (video.frames(range(6)) == np.rot90(plain, turns, axes=(1, 2))).all()


def test_another_size_in_the_middle(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = {}
        out = container.add_stream("mjpeg", rate=10)
        out.width, out.height, out.pix_fmt = 32, 24, "yuvj420p"
        for i in range(8):
            size = (32, 24) if i < 4 else (48, 40)
            if size not in streams:
                codec = av.CodecContext.create("mjpeg", "w")
                codec.width, codec.height, codec.pix_fmt, codec.time_base = *size, "yuvj420p", Fraction(1, 10)
                streams[size] = codec
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 100, np.uint8), format="rgb24").reformat(format="yuvj420p")
            frame.pts = i
            for packet in streams[size].encode(frame):
                packet.stream, packet.pts, packet.dts = out, i * 100, i * 100
                container.mux(packet)
    with pytest.raises(DataError, match="changes its size from 32 x 24 to 48 x 40 pixels at frame 4"), VideoFile(path) as video:
        video.frames(range(8))


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty: it has 0 bytes"), (b"#EXTM3U\n/etc/passwd\n", "is no video that is read here"), (b"\0\0\0\x18ftypisom" + bytes(200), "damaged or cut off mp4")],
)
def test_what_is_no_video(content, words, tmp_path):
    pytest.importorskip("av")
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"x.mp4 {words}|x.mp4 is a {words}"):
        PLAIN(str(path))
    with pytest.raises(DataError, match="There is no file"):
        PLAIN(str(tmp_path / "missing.mp4"))


def test_folders_of_frames_arrays_and_tensors_are_the_same_video(tmp_path):
    frames = moving(12)
    folder = tmp_path / "frames"
    folder.mkdir()
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"img_{i}.png")  # img_10 comes after img_9
    np.save(tmp_path / "a.npy", frames)
    wanted = PLAIN(frames)["video"]
    assert wanted.shape == (1, 3, 4, 16, 16) and wanted.max() > 0.9
    for raw in (str(folder), tmp_path / "a.npy", [frames], frames[None], torch.from_numpy(frames).permute(0, 3, 1, 2), frames.astype(np.float32) / 255):
        assert PLAIN(raw)["video"].allclose(wanted, atol=1 / 254)
    grey = VideoPreprocess(frames=4, stride=2, size=(16, 16), channels=1, mean=(0.0,), std=(1.0,))
    assert grey(frames)["video"].shape == (1, 1, 4, 16, 16) and grey(frames[..., 0])["video"].shape == (1, 1, 4, 16, 16)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ([], "There is no video"),
        (np.zeros((4, 3, 8, 8), np.uint8), r"looks like \(T, C, H, W\)"),
        (np.zeros((0, 8, 8, 3), np.uint8), "has the shape"),
        (np.zeros((4, 8, 8), np.int64), "has the type int64"),
        (np.full((4, 8, 8), 2.0), "floats from 2 to 2"),
        (np.full((4, 8, 8), np.nan, np.float32), "floats from nan"),
        (7, "is a int"),
    ],
)
def test_wrong_arrays(raw, words):
    with pytest.raises(DataError, match=words):
        PLAIN(raw)


def test_damaged_folders_and_arrays(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no frames"):
        PLAIN(str(tmp_path / "empty"))
    np.save(tmp_path / "a.npy", moving(4))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-10])
    with pytest.raises(DataError, match="empty or damaged"):
        PLAIN(str(tmp_path / "cut.npy"))
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for i, size in enumerate([(8, 8), (8, 8), (9, 8), (8, 8)]):
        Image.new("RGB", size).save(mixed / f"{i}.png")
    with pytest.raises(DataError, match="2.png has 8 x 9 pixels and an earlier frame 8 x 8"):
        VideoPreprocess(frames=4, stride=1, size=(8, 8))(str(mixed))
