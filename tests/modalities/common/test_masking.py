"""Random masking."""

import pytest
import torch

from modalities.common.masking import gather_tokens, keep_count, mask_from_noise
from trainer.errors import ModelError


def test_keep_count_rounds_down():
    assert keep_count(196, 0.75) == 49
    assert keep_count(16, 0.6) == 6
    assert keep_count(10, 0.0) == 10
    assert keep_count(196, 0.9) == 19


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan")])
def test_a_ratio_outside_the_range_is_refused(ratio):
    with pytest.raises(ModelError, match=f"at least 0 and below 1, found {ratio}"):
        keep_count(16, ratio)


def test_a_ratio_that_hides_everything_is_refused():
    with pytest.raises(ModelError, match="none of the 16 patches visible. Lower it to at most 0.9375"):
        keep_count(16, 0.95)


def test_small_noise_is_kept_in_its_order():
    masking = mask_from_noise(torch.tensor([[0.9, 0.1, 0.5, 0.3]]), keep=2)
    assert masking.ids_keep.tolist() == [[1, 3]]
    assert masking.mask.tolist() == [[1, 0, 1, 0]]
    assert masking.mask.dtype == torch.float32


def test_restore_undoes_the_shuffle():
    x, noise = torch.randn(3, 10, 4), torch.rand(3, 10)
    masking = mask_from_noise(noise, keep=4)
    removed = torch.argsort(noise, dim=1)[:, 4:]
    sequence = torch.cat([gather_tokens(x, masking.ids_keep), gather_tokens(x, removed)], dim=1)
    assert torch.equal(gather_tokens(sequence, masking.ids_restore), x)
    assert masking.mask.sum(1).tolist() == [6, 6, 6]


def test_equal_noise_keeps_the_first_patches():
    assert mask_from_noise(torch.zeros(2, 6), keep=3).ids_keep.tolist() == [[0, 1, 2], [0, 1, 2]]
