"""Clip samplers, test views and augmentations."""

import numpy as np
import pytest
import torch

from modalities.video.augment import FinetuneAugment, PretrainAugment, multi_scale_crop, resized_crop
from modalities.video.preprocess import VideoPreprocess
from modalities.video.sampling import ClipSampler
from tests.modalities.video.references import moving
from trainer.errors import ConfigError, DataError
from trainer.randomness import seeded

PLAIN = VideoPreprocess(frames=4, stride=2, size=(16, 16), mean=(0.0,) * 3, std=(1.0,) * 3)


def test_dense_clips():
    sampler = ClipSampler(4, 3)
    with seeded(0):
        starts = {int(sampler.random(20)[0]) for _ in range(300)}
    assert starts == set(range(9))  # [0, n - 12 + 1)
    assert sampler.spread(20).tolist() == [[4, 7, 10, 13]]
    assert sampler.spread(20, 3)[:, 0].tolist() == [0, 4, 8]
    assert sampler.spread(5).tolist() == [[0, 3, 3, 3]] and sampler.random(1).tolist() == [0, 0, 0, 0]


def test_segment_clips():
    sampler = ClipSampler(4, 1, "segment")
    assert sampler.spread(40).tolist() == [[5, 15, 25, 35]]
    assert sampler.spread(40, 2).tolist() == [[2, 12, 22, 32], [7, 17, 27, 37]]
    with seeded(0):
        drawn = np.stack([sampler.random(40) for _ in range(200)])
    assert (drawn // 10 == np.arange(4)).all() and all(len(set(column)) > 5 for column in drawn.T)
    assert sampler.spread(2).tolist() == [[0, 0, 1, 1]]


def test_samplers_refuse_nonsense():
    with pytest.raises(ConfigError, match="has no stride"):
        ClipSampler(4, 2, "segment")
    with pytest.raises(ConfigError, match="at least 1"):
        ClipSampler(0, 2)
    with pytest.raises(DataError, match="without frames"):
        ClipSampler(4, 2).random(0)


def test_views_are_clips_times_crops():
    views = PLAIN.views(moving(20, 16, 32), clips=2, crops=3)
    assert views.shape == (6, 3, 4, 16, 16)
    assert not views[0].equal(views[3]) and not views[0].equal(views[2])
    assert views[4].equal(PLAIN.views(moving(20, 16, 32), clips=2, crops=1)[1])  # the middle of three is the centre


def test_multi_scale_crops():
    seen = set()
    with seeded(0):
        for _ in range(2000):
            top, left, height, width = multi_scale_crop(200, 320, (1, 0.875, 0.75, 0.66))
            assert 0 <= top <= 200 - height and 0 <= left <= 320 - width
            seen.add((height, width))
    assert seen == {(h, w) for i, h in enumerate((200, 175, 150, 132)) for j, w in enumerate((200, 175, 150, 132)) if abs(i - j) <= 1}


def test_resized_crops_lie_inside():
    with seeded(0):
        for height, width in ((20, 30), (5, 90), (90, 5)):
            for _ in range(100):
                top, left, h, w = resized_crop(height, width, (0.08, 1.0), (3 / 4, 4 / 3))
                assert 0 <= top <= height - h and 0 <= left <= width - w and h > 0 and w > 0


def still(frames=8):
    """The same noise in every frame."""
    return np.repeat(np.random.default_rng(0).integers(0, 255, (1, 24, 24, 3), "uint8"), frames, 0)


@pytest.mark.parametrize("augment", [FinetuneAugment(), FinetuneAugment(auto_augment=None, erase_prob=1.0), PretrainAugment(), FinetuneAugment.none(), PretrainAugment.none()])
def test_all_frames_of_a_clip_are_changed_alike(augment):
    transform = augment.build(PLAIN)
    for seed in range(4):
        with seeded(seed):
            clips = transform.several(still(), 2)
        frames = clips.unbind(3 - 1)
        same = torch.stack([(frame == frames[0]).float().mean() for frame in frames])
        assert clips.shape == (2, 3, 4, 16, 16) and (same > (0.6 if getattr(augment, "erase_prob", 0) else 0.999)).all()
        with seeded(seed):
            assert transform.several(still(), 2).equal(clips)
    if augment not in (FinetuneAugment.none(), PretrainAugment.none()):
        assert not clips[0].equal(clips[1])


def test_augmentations_refuse_nonsense():
    with pytest.raises(ConfigError, match="timm cannot build"):
        FinetuneAugment(auto_augment="rand-x9").build(PLAIN)
    with pytest.raises(ConfigError, match="crop_scale"):
        FinetuneAugment(crop_scale=(0.5, 0.1))
    with pytest.raises(ConfigError, match="repeats"):
        FinetuneAugment(repeats=0)
    with pytest.raises(ConfigError, match="scales"):
        PretrainAugment(scales=(0.0,))
