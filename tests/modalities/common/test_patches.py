"""Patches in one, two and three dimensions."""

import math

import pytest
import torch
from timm.models import adapt_input_conv
from torch.nn import functional as F

from modalities.common.patches import PatchEmbed, adapt_patch_embedding, grid_of, patchify, unpatchify
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


def test_one_channel_acts_as_if_the_grey_picture_were_repeated():
    embed, grey = PatchEmbed((8, 8), (4, 4), 3, 6), PatchEmbed((8, 8), (4, 4), 1, 6)
    grey.proj.weight.data = adapt_patch_embedding(embed.proj.weight.data, 1, (4, 4))
    grey.proj.bias = embed.proj.bias
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(grey(x), embed(x.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("channels", [2, 3, 5, 7])
def test_more_channels_are_the_old_ones_in_turn_of_the_same_total(channels):
    weight = torch.rand(6, 3, 4, 4)
    new = adapt_patch_embedding(weight, channels, (4, 4))
    assert new.shape == (6, channels, 4, 4)
    for c in range(channels):
        torch.testing.assert_close(new[:, c], weight[:, c % 3] * 3 / channels)
    torch.testing.assert_close(new, adapt_input_conv(channels, weight.clone()))  # as timm has it


def test_channels_over_one_and_three_axes_and_from_other_numbers():
    for shape in ((6, 2, 8), (6, 4, 2, 3, 5)):
        weight = torch.rand(shape)
        assert adapt_patch_embedding(weight, 1, shape[2:]).squeeze(1).allclose(weight.sum(1))
        assert adapt_patch_embedding(weight, shape[1], shape[2:]) is weight
        assert adapt_patch_embedding(weight, 9, shape[2:]).shape == (6, 9, *shape[2:])


def test_another_patch_size_sees_the_resized_picture_alike():
    weight = torch.rand(6, 3, 4, 4)
    larger = adapt_patch_embedding(weight, 3, (8, 8))
    patch = torch.rand(1, 3, 4, 4)
    enlarged = F.interpolate(patch, scale_factor=2, mode="bicubic", antialias=True, align_corners=False)
    wanted = (weight * patch).sum((1, 2, 3))
    torch.testing.assert_close((larger * enlarged).sum((1, 2, 3)), wanted, atol=1e-3, rtol=1e-3)


def test_patches_that_cannot_be_resampled():
    with pytest.raises(ModelError, match="two axes"):
        adapt_patch_embedding(torch.rand(6, 1, 4), 1, (8,))
    with pytest.raises(ModelError, match="over 2 axes"):
        adapt_patch_embedding(torch.rand(6, 1, 4, 4), 1, (8,))
