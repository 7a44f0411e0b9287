"""Layers of an elastic network, of which the first channels alone are a smaller network (POA: Zhang et al. 2024, arXiv 2408.01031).

The active width is read from the input: a layer that gets w channels works with its first w. A linear map of fewer inputs than it
has multiplies them by the ratio, so that its sums keep their size. Checked against alipay/POA@00d9074 (`poa/layers`, mode "order").
Letters: B batch, N tokens, D full width, w active width.
"""

from functools import partial

import numpy as np
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F


class ElasticBlock(Block):
    """timm's pre-norm block of the full width, of which an input (B, N, w) uses the first w channels and w / head_dim heads."""

    def __init__(self, dim: int, head_dim: int, norm_eps: float, **options: float | bool | None) -> None:
        super().__init__(dim, dim // head_dim, norm_layer=partial(nn.LayerNorm, eps=norm_eps), **options)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, w) -> (B, N, w)."""
        width = x.shape[-1]
        attention = linear(self.attn.proj, self._mixed(*self.qkv(first_norm(self.norm1, x))), width)
        x = x + self.drop_path1(_scaled(self.ls1, attention))
        hidden = int(width / self.norm2.normalized_shape[0] * self.mlp.fc1.out_features)
        inner = self.mlp.act(linear(self.mlp.fc1, first_norm(self.norm2, x), hidden))
        return x + self.drop_path2(_scaled(self.ls2, linear(self.mlp.fc2, inner, width)))

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of normed tokens (B, N, w), each (B, w / head_dim, N, head_dim)."""
        layer, width = self.attn.qkv, x.shape[-1]
        weight, bias = first_of_three(layer.weight, width)[:, :width], None if layer.bias is None else first_of_three(layer.bias, width)
        joint = F.linear(x * (layer.in_features / width), weight, bias)
        return joint.unflatten(-1, (3, -1, self.attn.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def linear(layer: nn.Linear, x: Tensor, out: int) -> Tensor:
    """The first `out` outputs of a layer for inputs (..., w), its first w; the inputs are multiplied by full / active."""
    width = x.shape[-1]
    return F.linear(x * (layer.in_features / width), layer.weight[:out, :width], None if layer.bias is None else layer.bias[:out])


def first_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """A LayerNorm over the first w channels, for (..., w)."""
    width = x.shape[-1]
    return F.layer_norm(x, (width,), norm.weight[:width], norm.bias[:width], norm.eps)


def first_of_three(joint: Tensor, width: int) -> Tensor:
    """Of the joint rows of query, key and value (3 * D, ...), the first `width` of each: (3 * width, ...)."""
    return joint.unflatten(0, (3, -1))[:, :width].flatten(0, 1)


def block_indices(full: int, depth: int) -> list[int]:
    """Which of `full` blocks a network of `depth` blocks uses: spread evenly, the first and the last among them."""
    return np.linspace(0, full - 1, depth).astype(np.int64).tolist()


def _scaled(layer: nn.Module, x: Tensor) -> Tensor:
    """Layer scale by its first channels; without one, x itself."""
    return x if isinstance(layer, nn.Identity) else x * layer.gamma[: x.shape[-1]]
