"""Micro-batches give the gradient of the whole batch."""

import pytest
import torch

from modalities.common.reconstruction import MaskedReconstruction
from modalities.vision.models.mae import MAE, MAEConfig
from modalities.vision.objectives.mae import MAEObjectiveConfig
from tests.trainer.toy import CONFIG, CountedFit, Fit, Line, lines
from trainer.callback import Callback
from trainer.config import replace
from trainer.errors import ConfigError, TrainingError
from trainer.logs import MetricsFile
from trainer.objective import Losses
from trainer.trainer import Trainer

# plain descent: Adam would divide the rounding of a gradient that is truly zero (of the keys' bias) by itself
SGD = {"optim.name": "sgd", "optim.betas": None, "optim.lr": 1e-2, "steps": 6, "log_every": 1, "save_every": 100}
SMALL = {"input_size": (16, 16), "patch_size": (4, 4), "embed_dim": 32, "depth": 2, "num_heads": 2}
DECODER = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}


class Images(Line):
    def __getitem__(self, index):
        return {"image": torch.randn(3, 16, 16) + index / 50}


class Gradients(Callback):
    """The gradient of each step as one vector, before it is clipped."""

    def __init__(self):
        self.seen = []

    def after_backward(self, trainer):
        self.seen.append(torch.cat([p.grad.flatten() for p in trainer.parameters]))


class HalfSeen(CountedFit):
    """Counts only samples of the first half of the source, often none in a micro-batch; then its loss is 0."""

    seen = 25

    def forward(self, batch):
        seen = batch["index"] < self.seen
        error = (self.outlet(self.blocks(self.inlet(batch["x"])))[:, 0] - batch["y"]).square()
        return Losses((error * seen).sum() / seen.sum().clamp(min=1), count=seen.sum())


def mae():
    return MaskedReconstruction(MAE(MAEConfig(**SMALL, **DECODER)), MAEObjectiveConfig())


def plain():
    return Fit(dropout=0.0)


def flat(objective):
    return torch.cat([p.detach().flatten() for p in objective.parameters()])


def train(folder, make, source, **changes):
    torch.manual_seed(0)
    folder.mkdir()
    gradients, objective = Gradients(), make()
    before = flat(objective)
    trainer = Trainer(objective, source, replace(CONFIG, {**SGD, **changes}), folder, [MetricsFile(), gradients])
    trainer.fit()
    after = flat(objective)
    assert not before.equal(after)
    return lines(folder), gradients.seen, after


def require_equal(whole, cut):
    for a, b in zip(whole[0], cut[0], strict=True):
        for name in {"loss", "grad_norm", "largest"} & a.keys():
            assert b[name] == pytest.approx(a[name], rel=1e-6, abs=1e-12)
    for a, b in zip(whole[1], cut[1], strict=True):
        assert (a - b).norm() <= 1e-6 * a.norm()
    assert (whole[2] - cut[2]).abs().max() < 1e-6


@pytest.mark.parametrize("batch, accumulate", [(16, 4), (7, 4), (5, 3)])
@pytest.mark.parametrize("make, source", [(mae, Images()), (CountedFit, Line()), (plain, Line())], ids=["mae", "counted", "plain"])
def test_micro_batches_equal_the_whole_batch(tmp_path, make, source, batch, accumulate):
    whole = train(tmp_path / "whole", make, source, batch_size=batch)
    require_equal(whole, train(tmp_path / "cut", make, source, batch_size=batch, accumulate=accumulate))


def test_a_micro_batch_that_counts_nothing(tmp_path):
    whole = train(tmp_path / "whole", HalfSeen, Line(), batch_size=6)
    require_equal(whole, train(tmp_path / "cut", HalfSeen, Line(), batch_size=6, accumulate=6))


def test_a_batch_that_counts_nothing_is_no_bad_step(tmp_path):
    class Never(HalfSeen):
        seen = 0

    torch.manual_seed(0)
    for accumulate in (1, 3):
        gradients = Gradients()
        folder = tmp_path / str(accumulate)
        folder.mkdir()
        Trainer(Never(), Line(), replace(CONFIG, {**SGD, "accumulate": accumulate}), folder, [MetricsFile(), gradients]).fit()
        assert not any(g.any() for g in gradients.seen)
        assert all(line["loss"] == line["grad_norm"] == 0 and "skipped" not in line for line in lines(folder))


class Changeable(Fit):
    """Returns something else for a micro-batch with an odd first sample."""

    def __init__(self, **other):
        super().__init__(dropout=0.0)
        self.other = other

    def forward(self, batch):
        loss = super().forward(batch).loss
        return Losses(loss, **self.other) if batch["index"][0] % 2 else Losses(loss)


@pytest.mark.parametrize("other", [{"count": 3}, {"parts": {"extra": torch.ones(())}}], ids=["count", "parts"])
def test_micro_batches_must_agree(tmp_path, other):
    with pytest.raises(TrainingError, match="same parts, and all a count or none"):
        train(tmp_path / "a", lambda: Changeable(**other), Line(), accumulate=8)


def test_more_micro_batches_than_samples(tmp_path):
    with pytest.raises(ConfigError, match=r"batch_size=3 cannot be shared by 1 processes x train.accumulate=4.*at least 4"):
        train(tmp_path / "a", plain, Line(), batch_size=3, accumulate=4)
