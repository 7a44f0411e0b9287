"""Patches in one, two and three dimensions."""

import math

import pytest
import torch

from modalities.common.patches import PatchEmbed, grid_of, patchify, unpatchify
from trainer.errors import ModelError

CASES = [((12,), (3,)), ((6, 8), (3, 2)), ((4, 6, 8), (2, 3, 4))]


@pytest.mark.parametrize(("size", "patch"), CASES)
def test_round_trip(size, patch):
    x = torch.randn(2, 3, *size)
    patches = patchify(x, patch)
    grid = grid_of(size, patch)
    assert patches.shape == (2, math.prod(grid), math.prod(patch) * 3)
    assert torch.equal(unpatchify(patches, patch, grid, 3), x)


@pytest.mark.parametrize(("size", "patch"), CASES)
def test_patches_are_row_major_with_the_channel_last(size, patch):
    x = torch.randn(1, 2, *size)
    second = x[0, :, *(slice(0, p) for p in patch[:-1]), patch[-1] : 2 * patch[-1]]  # one step along the last axis
    expected = second.permute(*range(1, x.ndim - 1), 0).flatten()
    assert torch.equal(patchify(x, patch)[0, 1], expected)


@pytest.mark.parametrize(("size", "patch"), CASES)
def test_embedding_is_one_linear_map_per_patch(size, patch):
    torch.manual_seed(0)
    embed = PatchEmbed(size, patch, in_chans=2, embed_dim=5)
    x = torch.randn(3, 2, *size)
    kernel = embed.proj.weight.movedim(1, -1).flatten(1)  # channel last, as the patch vectors
    torch.testing.assert_close(embed(x), patchify(x, patch) @ kernel.T + embed.proj.bias, atol=1e-5, rtol=0)
    assert embed.length == math.prod(grid_of(size, patch))


def test_a_size_that_is_no_multiple_says_which_sizes_fit():
    with pytest.raises(ModelError, match=r"\(30, 32\).*the axis of 30 to 24 or 32"):
        grid_of((30, 32), (8, 8))
    with pytest.raises(ModelError, match="at least 8"):
        grid_of((4, 8), (8, 8))
    with pytest.raises(ModelError, match="1, 2 or 3 axes"):
        grid_of((8, 8), (4,))


def test_wrong_inputs_show_both_shapes():
    embed = PatchEmbed((8, 8), (4, 4), in_chans=3, embed_dim=4)
    for shape in [(2, 1, 8, 8), (2, 3, 8, 12), (3, 8, 8)]:
        with pytest.raises(ModelError, match=rf"\(B, 3, 8, 8\).*found \({', '.join(map(str, shape))}\)"):
            embed(torch.zeros(shape))
    with pytest.raises(ModelError, match=r"\(B, 4, 48\).*found \(1, 4, 47\)"):
        unpatchify(torch.zeros(1, 4, 47), (4, 4), (2, 2), 3)
