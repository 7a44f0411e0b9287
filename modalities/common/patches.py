"""Cutting an input into patches, in one, two or three spatial dimensions.

One order everywhere: patches row-major over the grid (last axis fastest), values of a patch row-major over
the patch with the channel last. Letters: B batch, C channels, L patches, D width.
"""

import math
from collections.abc import Sequence

from timm.layers import resample_patch_embed
from timm.models import adapt_input_conv
from torch import Tensor, nn

from modalities.common.linear import linear
from modalities.common.masking import gather_tokens
from trainer.errors import ModelError, shorten

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def grid_of(input_size: Sequence[int], patch_size: Sequence[int]) -> tuple[int, ...]:
    """How many patches lie along each axis. ModelError when the input is no whole number of patches."""
    if len(input_size) != len(patch_size) or len(input_size) not in _CONVOLUTIONS:
        raise ModelError(
            f"Input size {shorten(tuple(input_size))} and patch size {shorten(tuple(patch_size))} must both have 1, 2 or 3 axes, "
            f"found {len(input_size)} and {len(patch_size)}."
        )
    for size, patch in zip(input_size, patch_size):
        if patch < 1 or size < patch or size % patch:
            fitting = f"{size // patch * patch} or {(size // patch + 1) * patch}" if 0 < patch <= size else f"at least {max(patch, 1)}"
            raise ModelError(
                f"Input size {tuple(input_size)} is not divisible into patches of {tuple(patch_size)}. "
                f"Resize the input (the axis of {size} to {fitting}) or choose another patch size."
            )
    return tuple(size // patch for size, patch in zip(input_size, patch_size))


def patchify(x: Tensor, patch_size: Sequence[int]) -> Tensor:
    """(B, C, *spatial) -> (B, L, prod(patch) * C), each patch vector with the channel last."""
    n = len(patch_size)
    grid = grid_of(x.shape[2:], patch_size)
    split = [side for pair in zip(grid, patch_size) for side in pair]
    x = x.reshape(*x.shape[:2], *split)  # (B, C, g1, p1, g2, p2, ...)
    x = x.permute(0, *range(2, 2 + 2 * n, 2), *range(3, 3 + 2 * n, 2), 1)  # (B, g1, g2, ..., p1, p2, ..., C)
    return x.flatten(n + 1).flatten(1, n)  # (B, L, prod(patch) * C)


def unpatchify(patches: Tensor, patch_size: Sequence[int], grid: Sequence[int], channels: int) -> Tensor:
    """(B, L, prod(patch) * C) -> (B, C, *spatial): the inverse of `patchify`."""
    n, expected = len(grid), (math.prod(grid), math.prod(patch_size) * channels)
    if len(patch_size) != n or tuple(patches.shape[1:]) != expected:
        raise ModelError(
            f"A grid {tuple(grid)} of patches {tuple(patch_size)} with {channels} channels is a (B, {expected[0]}, {expected[1]}) tensor, "
            f"found {tuple(patches.shape)}."
        )
    x = patches.reshape(-1, *grid, *patch_size, channels)  # (B, g1, g2, ..., p1, p2, ..., C)
    pairs = [axis for i in range(n) for axis in (1 + i, 1 + n + i)]
    x = x.permute(0, 2 * n + 1, *pairs)  # (B, C, g1, p1, g2, p2, ...)
    return x.reshape(-1, channels, *(g * p for g, p in zip(grid, patch_size)))  # (B, C, *spatial)


def adapt_patch_embedding(weight: Tensor, in_chans: int, patch_size: Sequence[int]) -> Tensor:
    """The kernel of a patch embedding, (D, C, *patch), for other channels or another patch size.

    Channels as timm does it: one channel gets the sum over the old ones (grey input then acts as if repeated); more get the
    old ones in turn, scaled by old / new, so that the size of the output stays. The patch is resampled by the
    pseudo-inverse of bicubic resizing (FlexiViT, Beyer et al. 2022, arXiv 2212.08013), for two axes only.
    """
    if weight.ndim - 2 != len(patch_size):
        raise ModelError(f"A patch embedding over {weight.ndim - 2} axes cannot take the patch size {tuple(patch_size)}.")
    spatial = weight.shape[2:]
    if in_chans != weight.shape[1]:
        flat = adapt_input_conv(in_chans, weight.flatten(2).unsqueeze(3), base_chans=weight.shape[1])  # (D, C', prod(patch), 1)
        weight = flat.reshape(len(weight), in_chans, *spatial)
    if tuple(patch_size) != tuple(spatial):
        if len(patch_size) != 2:
            raise ModelError(f"Only patches with two axes can be resampled; keep the patch size {tuple(spatial)}, found {tuple(patch_size)}.")
        weight = resample_patch_embed(weight, list(patch_size))
    return weight


class PatchEmbed(nn.Module):
    """One linear map per patch: a convolution whose kernel and stride are the patch (parameters `proj.*`)."""

    def __init__(self, input_size: Sequence[int], patch_size: Sequence[int], in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.input_size = tuple(input_size)
        self.in_chans = in_chans
        self.grid = grid_of(input_size, patch_size)
        self.proj = _CONVOLUTIONS[len(self.grid)](in_chans, embed_dim, tuple(patch_size), tuple(patch_size))

    @property
    def length(self) -> int:
        """Number of patches."""
        return math.prod(self.grid)

    def forward(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        """(B, C, *spatial) -> (B, L, D), or of the patches `ids` (B, K) alone, (B, K, D). ModelError for another shape than the model was built for."""
        self.require(x)
        if ids is None:
            return self.proj(x).flatten(2).transpose(1, 2)
        weight = self.proj.weight.movedim(1, -1).flatten(1)  # (D, V), the channel last, as in a patch
        return linear(gather_tokens(patchify(x, self.proj.kernel_size), ids), weight, self.proj.bias)

    def require(self, x: Tensor) -> None:
        """Raise ModelError unless `x` is what the model was built for."""
        if tuple(x.shape[1:]) != (self.in_chans, *self.input_size):
            raise ModelError(
                f"The model takes inputs of shape (B, {self.in_chans}, {', '.join(map(str, self.input_size))}) "
                f"(channels, then size), found {tuple(x.shape)}. Use the model's own `preprocess`, or build the model for this size."
            )
        if not x.is_floating_point():
            raise ModelError(f"The model takes floating point inputs, normalised as in training, found {x.dtype}. Use the model's own `preprocess`.")
