"""The built-in set: the class is the motion, and one frame says nothing of it."""

import pytest
import torch

from modalities.common.evaluation import probes
from modalities.video.motion import CLASSES, MotionConfig, clips
from trainer.errors import ConfigError

CONFIG = MotionConfig(samples=2000, test_samples=1000)


def test_clips_are_balanced_and_the_same_each_time():
    train, labels = clips("train", CONFIG)
    assert train.shape == (2000, 8, 1, 16, 16) and train.dtype == torch.uint8 and labels.bincount().tolist() == [200] * len(CLASSES)
    again, _ = clips.__wrapped__("train", CONFIG)
    assert again.equal(train) and not clips("test", CONFIG)[0][:10].equal(train[:10])


def test_the_motion_is_the_class():
    """Without noise and clutter, the next frame of a single mover is this one, rolled, where only it is seen."""
    config = MotionConfig(samples=40, test_samples=10, noise=0.0, clutter=0.0, speeds=(1.0, 2.0))
    videos, labels = clips("train", config)
    rolls = {0: (0, 1), 1: (0, 2), 2: (0, -1), 3: (0, -2), 4: (-1, 0), 5: (-2, 0), 6: (1, 0), 7: (2, 0)}
    for video, label in zip(videos[:, :, 0].int(), labels.tolist()):
        if label > 7:
            continue
        still = video.min(dim=0).values  # what never moves away
        rolled = torch.roll(video[0], rolls[label], dims=(0, 1))
        error = (torch.maximum(rolled, still) - video[1]).abs().float().mean()
        others = [(torch.maximum(torch.roll(video[0], roll, dims=(0, 1)), still) - video[1]).abs().float().mean() for key, roll in rolls.items() if key != label]
        assert error <= min(others)


@pytest.mark.parametrize("frame", [0, 4])
def test_one_frame_cannot_give_the_answer(frame):
    """Logistic regression and nearest neighbours on 2,000 labelled single frames stay at chance (10 % of 1,000: a deviation of 0.95)."""
    (train, known), (test, asked) = clips("train", CONFIG), clips("test", CONFIG)
    found = probes((train[:, frame].flatten(1).float().numpy() / 255, known.numpy()), (test[:, frame].flatten(1).float().numpy() / 255, asked.numpy()), ("knn",))
    assert 0.06 < found["knn"] < 0.14
    means = torch.stack([train[known == k, frame].float().mean(0) for k in range(len(CLASSES))])
    nearest = torch.cdist(test[:, frame].flatten(1).float(), means.flatten(1)).argmin(1)
    assert 0.06 < (nearest == asked).float().mean() < 0.14


def test_impossible_drawings_are_refused():
    for wrong in ({"canvas": 2}, {"speeds": (2.0, 1.0)}, {"speeds": (1.0, 9.0)}, {"noise": -1.0}, {"samples": 3}):
        with pytest.raises(ConfigError, match="motion"):
            MotionConfig(**wrong)
