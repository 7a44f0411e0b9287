"""The built-in set: the class is the motion, and one frame says nothing of it."""

import pytest
import torch

from modalities.common.evaluation import probes
from modalities.video.motion import CLASSES, MotionConfig, _turns, clips
from trainer.errors import ConfigError

CONFIG = MotionConfig(samples=2000, test_samples=1000)


def test_clips_are_balanced_and_the_same_each_time():
    train, labels = clips("train", CONFIG)
    assert train.shape == (2000, 8, 1, 16, 16) and train.dtype == torch.uint8 and labels.bincount().tolist() == [250] * len(CLASSES)
    again, _ = clips.__wrapped__("train", CONFIG)
    assert again.equal(train) and not clips("test", CONFIG)[0][:10].equal(train[:10])


def test_the_motion_is_the_class():
    """Without noise and clutter the bright disc is the brightest place: where it is seen, its angle grows as its class says."""
    config = MotionConfig(samples=400, test_samples=10, noise=0.0, clutter=0.0)
    videos, labels = clips("train", config)
    bright = (videos[:, :, 0].float() / 255 - 0.6).clamp(min=0)  # (N, T, S, S): the dim one is below
    places = torch.arange(16) + 0.5 - 8
    weight = bright.sum(dim=(2, 3))
    angle = torch.atan2((bright.sum(3) * places).sum(2) / weight, (bright.sum(2) * places).sum(2) / weight)
    turns = (angle.diff(dim=1) + torch.pi) % (2 * torch.pi) - torch.pi  # radians per frame, clockwise
    first, last, mean = turns[:, 0], turns[:, -1], turns.mean(dim=1)
    slow, fast = 0.3, 0.6
    assert mean[labels == 0] == pytest.approx(slow, abs=0.06) and mean[labels == 2] == pytest.approx(-slow, abs=0.06)
    assert mean[labels == 1] == pytest.approx(fast, abs=0.11) and mean[labels == 3] == pytest.approx(-fast, abs=0.11)
    assert (first[labels == 4] > 0.4).all() and (last[labels == 4] < -0.4).all() and (first[labels == 5] < -0.4).all() and (last[labels == 5] > 0.4).all()


def test_the_last_two_classes_are_pairs():
    labels = torch.arange(8).repeat(50)
    turns = _turns(labels, CONFIG, torch.Generator().manual_seed(0))  # (N, T, disc)
    same, mirrored = (turns[..., 0] - turns[..., 1]).abs().amax(dim=1) < 1e-6, (turns[..., 0] + turns[..., 1]).abs().amax(dim=1) < 1e-6
    assert same.equal(labels == 6) and mirrored.equal(labels == 7)


@pytest.mark.parametrize("frame", [0, 4])
def test_one_frame_cannot_give_the_answer(frame):
    """Logistic regression and nearest neighbours on 2,000 labelled single frames stay at chance (12.5 % of 1,000: a deviation of 1.05)."""
    (train, known), (test, asked) = clips("train", CONFIG), clips("test", CONFIG)
    found = probes((train[:, frame].flatten(1).float().numpy() / 255, known.numpy()), (test[:, frame].flatten(1).float().numpy() / 255, asked.numpy()), ("knn",))
    assert 0.08 < found["knn"] < 0.17
    means = torch.stack([train[known == k, frame].float().mean(0) for k in range(len(CLASSES))])
    nearest = torch.cdist(test[:, frame].flatten(1).float(), means.flatten(1)).argmin(1)
    assert 0.08 < (nearest == asked).float().mean() < 0.17


def test_impossible_drawings_are_refused():
    for wrong in ({"canvas": 2}, {"speeds": (0.6, 0.3)}, {"speeds": (0.3, 2.0)}, {"orbit": (4.0, 9.0)}, {"frames": 2}, {"noise": -1.0}, {"samples": 3}):
        with pytest.raises(ConfigError, match="motion"):
            MotionConfig(**wrong)
