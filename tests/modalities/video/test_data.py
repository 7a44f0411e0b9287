"""Sets of videos: folders, tables, tars, parts; several clips of a file; packing, checking, showing."""

import numpy as np
import pytest
import torch
from PIL import Image

from modalities.common.sources import Augmented
from modalities.video.augment import FinetuneAugment, PretrainAugment
from modalities.video.data import LabelledVideos, PretrainClips, SeveralClips, UnlabelledVideos, preprocess_for, raw_parts
from modalities.video.preprocess import VideoPreprocess
from modalities.video.sources import VideoShards, open_videos
from tests.modalities.video.references import moving, write_video
from trainer.data import Stream
from trainer.errors import ConfigError, DataError
from trainer.video_files import VideoFile
from zoo.cli import main

PLAIN = VideoPreprocess(frames=4, stride=2, size=(16, 16))


@pytest.fixture
def arrays(tmp_path):
    """Two classes of .npy videos of several lengths."""
    for name, rows in (("left", (8, 20, 9)), ("right", (12, 1, 30))):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i, frames in enumerate(rows):
            np.save(tmp_path / "set" / name / f"{i}.npy", moving(frames))
    return tmp_path / "set"


def test_class_folders_of_files_and_of_frames(arrays):
    folder = arrays / "right" / "as-frames"
    folder.mkdir()
    for i, frame in enumerate(moving(9)):
        Image.fromarray(frame).save(folder / f"{i}.jpg")
    source = open_videos(arrays, PLAIN)
    assert source.classes == ("left", "right") and source.labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert [source.id(i) for i in (0, 6)] == ["left/0.npy", "right/as-frames"]
    assert all(source[i]["video"].shape == (3, 4, 16, 16) for i in range(7))


def test_a_folder_without_videos_is_told(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"There are no videos in .*Found 1 x .jpg"):
        open_videos(tmp_path, PLAIN, labelled=False)
    with pytest.raises(DataError, match="does not exist"):
        open_videos(tmp_path / "no", PLAIN)
    with pytest.raises(DataError, match="Did you mean 'motion'"):
        UnlabelledVideos("motoin").build(PLAIN)


def test_tables(arrays):
    (arrays / "t.csv").write_text("path,label\nleft/0.npy,a\nright/2.npy,b\n")
    source = open_videos(arrays / "t.csv", PLAIN)
    assert source.classes == ("a", "b") and source[1]["video"].shape == (3, 4, 16, 16) and source.describe()["source"].startswith("video files")


def test_parts_splits_and_subsets(arrays, tmp_path):
    train, test = LabelledVideos(str(arrays), test_fraction=0.3).build(PLAIN)
    assert (len(train), len(test), train.rows) == (4, 2, 2) and train.held_out is test and sorted(test.labels.tolist()) == [0, 1]
    (tmp_path / "whole").mkdir()
    arrays.rename(tmp_path / "whole" / "train")
    (tmp_path / "whole" / "val").mkdir()
    np.save(tmp_path / "whole" / "val" / "x.npy", moving(9))
    source = UnlabelledVideos(str(tmp_path / "whole")).build(PLAIN)
    assert len(source) == 6 and len(source.held_out) == 1 and source.labels is None


def test_several_clips_of_a_file_are_rows_of_their_own(arrays, monkeypatch):
    source = UnlabelledVideos(str(arrays), clips=3).build(PLAIN)
    assert isinstance(source, SeveralClips)
    (first, second) = Stream(source, 4, seed=0, steps=2).batches(0, workers=0)
    assert first["video"].shape == (12, 3, 4, 16, 16) and first["sample_key"].shape == (12,) and len(set(first["sample_key"].tolist())) == 12
    again = next(Stream(source, 4, seed=0, steps=2).batches(1, workers=0))
    assert again["video"].equal(second["video"]) and again["sample_key"].equal(second["sample_key"])
    labelled = LabelledVideos(str(arrays), augment=FinetuneAugment(repeats=2)).build(PLAIN)[0]
    batch = next(Stream(labelled, 2, seed=0, steps=1).batches(0, workers=0))
    assert batch["video"].shape[0] == 4 and batch["label"][0] == batch["label"][1]
    assert isinstance(LabelledVideos(str(arrays), augment=FinetuneAugment.none()).build(PLAIN)[0], Augmented)


@pytest.mark.parametrize("clips", [1, 2])
def test_what_workers_hand_over_as_pixels_becomes_the_same_batch(clips, arrays):
    np.save(arrays / "left" / "float.npy", moving(30).astype(np.float32) / 255)
    source = UnlabelledVideos(str(arrays), clips=clips).build(PLAIN)
    assert isinstance(source, PretrainClips) and source.compact()[0][0]["video"].dtype in (torch.uint8, torch.float32)
    plain = Augmented(source.source, source.augment) if clips == 1 else SeveralClips(source.source, source.augment, clips)
    for fast, slow in zip(Stream(source, 7, seed=0, steps=2).batches(0, workers=0), Stream(plain, 7, seed=0, steps=2).batches(0, workers=0)):
        assert fast["video"].allclose(slow["video"], atol=1e-5) and fast["sample_key"].equal(slow["sample_key"]) and fast["sample_index"].equal(slow["sample_index"])


def test_damaged_files_stop_or_are_skipped_or_left_out(arrays, tmp_path):
    (arrays / "left" / "1.npy").write_bytes(b"broken")
    with pytest.raises(DataError, match="1.npy is damaged"):
        UnlabelledVideos(str(arrays)).build(PLAIN)
    tolerant = UnlabelledVideos(str(arrays), on_error="skip", augment=PretrainAugment.none()).build(PLAIN)
    assert all(tolerant[i]["video"].shape == (3, 4, 16, 16) for i in range(6))
    assert main(["data", "check", str(arrays), "--to", str(tmp_path / "list.txt")]) == 1
    assert (tmp_path / "list.txt").read_text().splitlines()[1].startswith("left/1.npy\t")
    assert len(UnlabelledVideos(str(arrays), exclude=str(tmp_path / "list.txt")).build(PLAIN)) == 5


def test_packed_arrays_are_the_same_samples(arrays, tmp_path, capsys):
    assert main(["pack", str(arrays), "--to", str(tmp_path / "tars"), "--samples_per_shard", "4", "--in_order"]) == 0
    packed, plain = VideoShards(str(tmp_path / "tars"), PLAIN), open_videos(arrays, PLAIN)
    assert packed.classes == plain.classes and packed.labels.equal(plain.labels)
    assert all(packed[i]["video"].equal(plain[i]["video"]) for i in range(6))
    assert main(["data", "show", str(tmp_path / "tars"), "--to", str(tmp_path / "sheet.png")]) == 0
    said = capsys.readouterr().out
    assert "video, tar shards, 6 samples" in said and "6 npy uint8" in said and "shape 1 to 30" in said and (tmp_path / "sheet.png").exists()


def test_packing_encodes_again_for_fast_seeking(tmp_path, capsys):
    pytest.importorskip("av")
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        write_video(tmp_path / "set" / name / "x.webm", moving(40, 48, 64), gop=40)
    folder = tmp_path / "set" / "b" / "frames"
    folder.mkdir()
    for i, frame in enumerate(moving(5)):
        Image.fromarray(frame).save(folder / f"{i}.png")
    assert main(["pack", str(tmp_path / "set"), "--to", str(tmp_path / "tars"), "--resize", "32", "--modality", "video"]) == 0
    source = VideoShards(str(tmp_path / "tars"), PLAIN)
    assert source.labels.bincount().tolist() == [1, 2]
    with VideoFile(source.item(source.labels.tolist().index(0))) as video:
        frames = video.frames([0, 5, 39])
        assert video.count == 40 and frames.shape[1:3] == (32, 42) and len(video._keys) == 3
        assert [round(float(f[-2, 1].mean()) / 8) for f in frames] == [0, 5, 8]
    again = tmp_path / "again"
    assert main(["pack", str(tmp_path / "set"), "--to", str(again), "--resize", "32", "--modality", "video"]) == 0
    assert (again / "shard-00000.tar").read_bytes() == (tmp_path / "tars" / "shard-00000.tar").read_bytes()
    assert main(["data", "check", str(tmp_path / "tars")]) == 0 and "3 mp4 h264" in capsys.readouterr().out


def test_pictures_cannot_be_resized_by_packing(tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert main(["pack", str(tmp_path), "--to", str(tmp_path / "t"), "--resize", "32"]) == 1
    assert "resize=32 is for videos" in capsys.readouterr().err


def test_the_modality_of_data_is_found(arrays, tmp_path):
    from zoo.data import _parts

    assert _parts(str(arrays), None)[""].modality == "video" and raw_parts(str(arrays))[""].classes == ("left", "right")
    (tmp_path / "p").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "p" / "a.png")
    assert _parts(str(tmp_path / "p"), None)[""].modality == "vision"


def test_the_built_in_set_by_its_config():
    data = UnlabelledVideos("motion", augment=PretrainAugment.none())
    preprocess = preprocess_for(data, (8, 16, 16), 1)
    source = data.build(preprocess)
    batch = source.fetch([0, 1])
    assert batch["video"].shape == (2, 1, 8, 16, 16) and abs(float(source.fetch(range(500))["video"].mean())) < 0.1
    assert source[1]["video"].equal(batch["video"][1]) and preprocess(source.item(1))["video"][0].equal(batch["video"][1])
    assert preprocess_for(data, (8, 16, 16), 3).mean == preprocess.mean * 3


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: UnlabelledVideos().build(PLAIN), "Say which videos"),
        (lambda: UnlabelledVideos("motion").build(PLAIN), "augment must be off"),
        (lambda: UnlabelledVideos("motion", clips=2), "clips"),
        (lambda: UnlabelledVideos("x", motion=__import__("modalities.video.motion", fromlist=["x"]).MotionConfig(seed=1)), "changes only the built-in set"),
        (lambda: LabelledVideos("x", test_fraction=1.0), "test_fraction"),
        (lambda: LabelledVideos("x", per_class=0), "per_class"),
        (lambda: LabelledVideos("motion", on_error="skip"), "built in"),
        (lambda: preprocess_for(UnlabelledVideos("motion"), (8, 32, 32), 1), "the model reads"),
        (lambda: preprocess_for(UnlabelledVideos("x"), (8, 32, 32), 2), "1 channel"),
        (lambda: raw_parts("motion"), "consists of no files"),
    ],
)
def test_configs_that_contradict_themselves(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


