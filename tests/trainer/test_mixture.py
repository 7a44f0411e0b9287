import numpy as np
import pytest
import torch

from trainer.data import Stream, sample_id
from trainer.errors import ConfigError, DataError
from trainer.mixture import Mixture, MixtureConfig
from trainer.randomness import draws


class Part:
    def __init__(self, samples, width=2):
        self.samples, self.width = samples, width

    def __len__(self):
        return self.samples

    def __getitem__(self, index):
        return {"x": torch.full((self.width,), float(index)), "noise": torch.rand(())}


class Fast(Part):
    in_memory = True

    def fetch(self, indices, keys=None):
        noise = torch.zeros(len(indices)) if keys is None else torch.from_numpy(draws(keys, 1)[:, 0]).float()
        return {"x": torch.tensor(indices).float()[:, None].expand(-1, self.width), "noise": noise}


def shares(mixture, start, stop, total):
    seen = [np.array(list(mixture.counts(0, total, at).values())) for at in (start, stop)]
    return ((seen[1] - seen[0]) / (stop - start)).round(2).tolist()


def test_weights_temperature_and_a_schedule_decide_the_shares():
    parts = {"web": Part(9000), "books": Part(1000)}
    total = 100_000
    assert shares(Mixture(parts, MixtureConfig("resampled")), 0, total, total) == [0.9, 0.1]
    assert shares(Mixture(parts, MixtureConfig("resampled", (1, 3))), 0, total, total) == [0.25, 0.75]
    assert shares(Mixture(parts, MixtureConfig("resampled", temperature=2)), 0, total, total) == [0.75, 0.25]
    late = Mixture(parts, MixtureConfig("resampled", (1, 0), late_weights=(0, 1), late_from=0.8))
    assert [shares(late, a, a + 10_000, total)[1] for a in range(0, total, 10_000)] == pytest.approx([0.0] * 8 + [0.25, 0.75], abs=0.02)


def test_an_exact_epoch_holds_all_and_is_mixed_throughout():
    mixture = Mixture({"a": Part(600), "b": Part(60)})
    order = mixture.order(3, 0)[0:660]
    assert sorted(order.tolist()) == list(range(660))
    assert all(2 <= (order[i : i + 220] >= 600).sum() <= 40 for i in (0, 220, 440)) and (order != mixture.order(3, 1)[0:660]).any()
    assert mixture.counts(3, 10**6, 1320 + 660) == {"a": 1800, "b": 180}


def test_names_and_facts():
    mixture = Mixture({"a": Part(3), "b": Part(2)})
    assert [sample_id(mixture, i) for i in (2, 3)] == ["a:2", "b:0"]
    assert mixture.describe()["parts"] == {"a": {"samples": 3}, "b": {"samples": 2}} and not mixture.in_memory and not hasattr(mixture, "fetch")
    assert Stream(mixture, 5, 0, 4).counts(2) == {"seen/a": 6, "seen/b": 4}


@pytest.mark.parametrize("parts", [{"a": Fast(5), "b": Fast(4)}, {"a": Fast(5), "b": Part(4)}])
def test_sources_that_give_whole_batches(parts):
    mixture = Mixture(parts)
    batch = next(Stream(mixture, 9, 1, 1).batches(0))
    indices = Stream(mixture, 9, 1, 1).positions.pairs(0, 9)[1]
    assert batch["x"][:, 0].tolist() == [float(mixture.place(i)[1]) for i in indices]
    assert len(set(batch["noise"].tolist())) == 9
    again = torch.cat([b["noise"] for b in Stream(mixture, 3, 1, 3).batches(0)])
    assert again.equal(batch["noise"]), "random numbers belong to the sample, not to the batch"


def test_parts_that_do_not_fit_together():
    batches = Stream(Mixture({"a": Part(5), "b": Part(5, width=3)}), 10, 0, 1).batches(0, workers=0)
    with pytest.raises(DataError, match=r"differ in 'x': shape \(2,\) and shape \(3,\)"):
        next(batches)
    with pytest.raises(DataError, match=r"a, b give samples that do not fit .* x \(2,\)"):
        Mixture({"a": Fast(5), "b": Fast(5, width=3)}).fetch(list(range(10)))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: MixtureConfig(weights=(1, 2)), "are for mode=resampled"),
        (lambda: MixtureConfig("resampled", (1, -1)), "at least 0"),
        (lambda: MixtureConfig("resampled", (0, 0)), "not all 0"),
        (lambda: MixtureConfig("resampled", temperature=0), "temperature above 0"),
        (lambda: Mixture({"a": Part(1)}, MixtureConfig("resampled", (1, 2))), "2 number.s. for 1 sources: a"),
        (lambda: Mixture({}), "at least one source"),
        (lambda: Mixture({"a": Mixture({"b": Part(1)}, MixtureConfig("resampled"))}), "a is a resampled mixture"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
    with pytest.raises(DataError, match="b of the mixture is empty"):
        Mixture({"b": Part(0)})
