"""Generated series: the same whenever they are drawn, of the kinds they claim to be, in the keys of a batch."""

import numpy as np
import pytest
import torch

from modalities.time_series.frequency import TOKENS
from modalities.time_series.synthetic import kernels
from modalities.time_series.synthetic.coarser import FACTORS, coarse_tokens, some_coarser
from modalities.time_series.synthetic.corpus import PRIORS, Mix, block, ts_mixup
from modalities.time_series.synthetic.draws import Paths
from modalities.time_series.synthetic.structural import smoothing
from modalities.time_series.synthetic.windows import BLOCK, SyntheticData, window_block
from trainer.config import replace
from trainer.data import Stream
from trainer.errors import ConfigError

LENGTH = 64
CHEAP = Mix(kernel_synth=0)


@pytest.mark.parametrize("name", PRIORS)
def test_priors_give_finite_series_that_follow_from_the_seed_alone(name):
    first, again = (PRIORS[name](np.random.default_rng(1), 24, LENGTH) for _ in range(2))
    assert first.values.shape == (24, LENGTH) and first.values.dtype == np.float32 and first.token.shape == (24,)
    assert np.isfinite(first.values).all() and (first.values.std(1) > 0).mean() > 0.7
    np.testing.assert_array_equal(first.values, again.values)
    other = PRIORS[name](np.random.default_rng(2), 24, LENGTH)
    assert not np.array_equal(first.values, other.values)
    assert len(np.unique(first.values, axis=0)) > 12  # the rows differ
    assert PRIORS[name](np.random.default_rng(1), 1, LENGTH).values.shape == (1, LENGTH)


def test_polynomials_of_kernels_are_the_kernels_joined_point_by_point():
    points = 40
    x = np.linspace(0, 1, points)
    away = np.abs(x[:, None] - x)
    known = kernels.bank(points)
    assert len(known) == 33
    periodic, linear, smooth = known[0](), known[23](), known[24]()  # period 24, offset 10, length 0.1
    dense = np.exp(-2 * np.sin(np.pi * away / (24 / points)) ** 2), 100 + np.outer(x, x), np.exp(-0.5 * (away / 0.1) ** 2)
    joined = kernels.multiplied(kernels.added(kernels.multiplied(periodic, linear), smooth), linear)
    expected = (dense[0] * dense[1] + dense[2]) * dense[1]
    np.testing.assert_allclose(kernels.covariance(joined), expected, rtol=1e-12)
    found = kernels.factor(expected.copy())
    np.testing.assert_allclose(found @ found.T, expected, atol=1e-3 * expected.max())


def test_paths_of_a_kernel_have_its_covariance(monkeypatch):
    monkeypatch.setattr(kernels, "GRID", 16)
    monkeypatch.setattr(kernels, "PER_KERNEL", 20000)
    matrix = kernels.covariance(kernels.random_kernel(np.random.default_rng(5), 16))
    paths = kernels.kernel_synth(np.random.default_rng(5), 20000, 16).values  # draws the same kernel first
    np.testing.assert_allclose(np.cov(paths.T), matrix, atol=0.06 * matrix.max())


def test_seasons_come_back_after_their_period():
    paths = smoothing(np.random.default_rng(0), 400, 240)
    monthly = paths.values[paths.token == 10]
    centred = monthly - monthly.mean(1, keepdims=True)

    def correlation(lag):
        return np.median((centred[:, lag:] * centred[:, :-lag]).mean(1) / centred.var(1))

    assert correlation(12) > 0.7 and correlation(12) > correlation(6) + 0.3


def test_mixup_is_a_convex_sum_of_series_of_mean_size_one():
    values = np.array([[1.0, 3.0, 2.0], [30.0, 10.0, 20.0]], np.float32)
    mixed = ts_mixup(np.random.default_rng(0), values, 50)
    share = mixed @ np.linalg.pinv(values / 2 / np.array([[1], [10]]))
    np.testing.assert_allclose(share.sum(1), 1, atol=1e-5)
    assert (share > -1e-5).all()


def test_samples_do_not_depend_on_what_is_asked_together():
    windows = SyntheticData(CHEAP, samples=2000, validation=100).build(48, 12)
    batch = windows.fetch([5, BLOCK + 3, 7, 5])
    window_block.cache_clear()
    block.cache_clear()
    for row, index in enumerate((5, BLOCK + 3, 7, 5)):
        for name, value in windows[index].items():
            torch.testing.assert_close(batch[name][row], value, rtol=0, atol=0)
    other = SyntheticData(CHEAP, seed=1).build(48, 12)
    assert not torch.equal(other[5]["series"], windows[5]["series"])
    assert len(windows.held_out) == 100 and not torch.equal(windows.held_out[5]["series"], windows[5]["series"])
    with pytest.raises(IndexError):
        windows.held_out[100]


def test_batches_are_as_the_modality_has_them_and_run_on_without_end():
    windows = SyntheticData(CHEAP, samples=100, gaps=0.5).build(48, 12)
    first, second = list(Stream(windows, 80, 0, 2).batches(0))
    assert first["sample_index"].tolist() == list(range(80)) and second["sample_index"].tolist() == list(range(80, 160))
    shapes = {"series": (80, 1, 48), "observed": (80, 1, 48), "target": (80, 1, 12), "target_observed": (80, 1, 12), "frequency": (80,)}
    for name, shape in shapes.items():
        assert first[name].shape == shape
    assert (first["series"][~first["observed"]] == 0).all() and (first["target"][~first["target_observed"]] == 0).all()
    lengths = first["observed"].long().argmax(2)
    assert first["observed"].any(2).all() and (lengths == 0).any() and (lengths > 20).any()
    assert (first["frequency"] == 0).any() and (first["frequency"] > 0).any()


def test_down_sampled_series_are_means_at_the_interval_they_then_have():
    values = np.arange(2 * 60, dtype=np.float32).reshape(2, 60)
    found, begin = some_coarser(np.random.default_rng(0), 1.0, Paths(np.tile(values, (50, 1)), np.tile([TOKENS["ME"], TOKENS["YE"]], 50)), 15)
    assert (begin[1::2] == 0).all() and (found.values[1::2] == values[1]).all() and (found.token[1::2] == TOKENS["YE"]).all()  # nothing is longer than years
    assert set(found.token[::2]) == {TOKENS["QE"]} and (begin[::2] == 40).all()  # 12 months would leave 5 points
    np.testing.assert_allclose(found.values[0, 40:], values[0].reshape(20, 3).mean(1))
    assert not found.values[0, :40].any()
    untold, begin = some_coarser(np.random.default_rng(0), 0.5, Paths.untimed(np.tile(values, (50, 1))), 15)
    assert set(begin) == {0, 30, 40, 45} and 20 < (begin > 0).sum() < 80 and not untold.token.any()
    assert coarse_tokens()[TOKENS["15min"], FACTORS.index(4)] == TOKENS["h"] and coarse_tokens()[TOKENS["s"], FACTORS.index(60)] == TOKENS["min"]


def test_windows_of_down_sampled_series_keep_their_horizon_and_the_others_stay_as_they_are():
    data = SyntheticData(CHEAP, shortest=8, near=0.0, short=0.0, gaps=0.0)
    plain, coarse = (window_block(each, 0, 0, 48, 12) for each in (data, replace(data, {"coarser": 0.5})))
    first = coarse["observed"].argmax(2)[:, 0]
    assert set(first) == {0, 30, 40} and coarse["observed"][:, :, -8:].all() and coarse["target_observed"].mean() > 0.9
    kept = first == 0
    assert all((plain[name][kept] == coarse[name][kept]).all() for name in plain) and 0.4 < kept.mean() < 0.8


def test_impossible_options_are_refused():
    with pytest.raises(ConfigError, match="weights"):
        Mix(**{name: 0 for name in Mix().weights()})
    with pytest.raises(ConfigError, match="share"):
        SyntheticData(gaps=1.5)
    with pytest.raises(ConfigError, match="shortest"):
        SyntheticData().build(8, 4)
