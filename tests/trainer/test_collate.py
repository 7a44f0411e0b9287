import pytest
import torch

from trainer.buckets import Bucketed
from trainer.collate import Pack, Pad, stack
from trainer.data import Stream, ordered_batches
from trainer.errors import ConfigError, DataError
from trainer.mixture import Mixture, MixtureConfig


class Ragged:
    """Series (1, T) of length 1 to 50."""

    collate = Pad(("series",))

    def __init__(self, samples=200):
        self.lengths = torch.randint(1, 51, (samples,), generator=torch.Generator().manual_seed(0)).tolist()

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, index):
        return {"series": torch.full((1, self.lengths[index]), float(index)), "label": torch.tensor(index)}


def test_padding_with_a_mask():
    batch = Pad(("x", "y"), value=-1, multiple=4)([{"x": torch.ones(2, n), "y": torch.ones(3, dtype=torch.long), "n": n} for n in (3, 5)])
    assert batch["x"].shape == batch["x_mask"].shape == (2, 2, 8) and batch["x_mask"].sum((1, 2)).tolist() == [6, 10]
    assert batch["x"][0, 0].tolist() == [1, 1, 1, -1, -1, -1, -1, -1]
    assert batch["y"].shape == (2, 3) and batch["y_mask"].all() and batch["n"].tolist() == [3, 5]


def test_packing():
    batch = Pack(("x",))([{"x": torch.full((n, 2), n), "n": n} for n in (3, 0, 5)])
    offsets = batch["x_offsets"].tolist()
    assert offsets == [0, 3, 3, 8] and batch["x"].shape == (8, 2)
    assert all((batch["x"][a:b] == n).all() for a, b, n in zip(offsets, offsets[1:], batch["n"]))


@pytest.mark.parametrize(
    "collate, samples, message",
    [
        (stack, [{"x": torch.ones(2)}, {"x": torch.ones(3)}], r"differ in 'x': shape \(2,\) and shape \(3,\)"),
        (stack, [{"x": torch.ones(2)}, {"y": torch.ones(2)}], "differ in 'x': missing and shape"),
        (stack, [{"x": object()}], "do not make up a batch"),
        (Pad(("x",)), [{"x": torch.ones(2)}, {"x": torch.ones(2, 2)}], "1 and 2 axes"),
        (Pack(("x",)), [{"x": torch.ones(2, 2)}, {"x": torch.ones(2, 3)}], "only along its first axis"),
        (Pack(("z",)), [{"x": torch.ones(2, 2)}], "no tensor 'z', only x"),
    ],
)
def test_samples_that_do_not_fit(collate, samples, message):
    with pytest.raises(DataError, match=message):
        collate(samples)


def padding(source, **options):
    batches = list(Stream(source, 10, 0, 60).batches(0, workers=0))
    return 1 - torch.cat([b["series_mask"].flatten() for b in batches]).float().mean().item()


def test_buckets_save_padding_and_keep_the_epochs():
    source = Ragged()
    bucketed = Bucketed(source, source.lengths, batch_size=10)
    assert padding(source) > 0.4 and padding(bucketed) < 0.1
    assert [b["series"].shape[0] for b in ordered_batches(bucketed, 150)] == [150, 50]
    shapes = [(length % 3, length % 2) for length in source.lengths]
    order = Bucketed(source, shapes, batch_size=10, window=20).order(0, 0)
    assert sum(len({shapes[i] for i in order[b : b + 10]}) for b in range(0, 200, 10)) <= 20 + 5


def test_buckets_refuse_what_they_cannot_sort():
    with pytest.raises(ConfigError, match="200 samples"):
        Bucketed(Ragged(), [1, 2], 10)
    with pytest.raises(ConfigError, match="no epochs"):
        Bucketed(Mixture({"a": Ragged()}, MixtureConfig("resampled")), range(200), 10)
