"""Where a vision transformer looks: the attention of its class token, as in DINO's pictures (Caron et al. 2021, arXiv 2104.14294, figure 1)."""

import math

import torch
from timm.layers.attention import Attention
from torch import Tensor

from modalities.common.model import Model
from trainer.errors import ModelError
from trainer.evaluation import evaluating
from trainer.objective import Batch


@torch.no_grad()
def attention_maps(model: Model, batch: Batch, layer: int = -1) -> Tensor:
    """Shares of attention that each head of a block pays to each patch, (B, heads, *grid): those of a map sum to what is not paid to the class token.

    They are the class token's; of a model without one, the mean over all patches. `layer` counts the blocks, negative from the end.
    ModelError for a model that is no vision transformer with joint query, key and value.
    """
    blocks = getattr(model, "blocks", None)
    block = list(blocks)[layer] if blocks is not None and -len(blocks) <= layer < len(blocks) else None
    if block is None or not isinstance(getattr(block, "attn", None), Attention):
        raise ModelError(f"Attention is drawn for vision transformers with a block {layer}; this {type(model).__name__} has {len(blocks or ())} blocks.")
    seen: list[Tensor] = []
    hook = block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        with evaluating(model):
            model.tokens(batch)
    finally:
        hook.remove()
    attention, x = block.attn, block.norm1(seen[0])  # (B, N, D)
    q, k, _ = attention.qkv(x).unflatten(-1, (3, -1, attention.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
    shares = (attention.q_norm(q) @ attention.k_norm(k).transpose(-2, -1) * attention.scale).float().softmax(dim=-1)  # (B, heads, N, N)
    grid = model.config.grid
    prefix = shares.shape[-1] - math.prod(grid)
    paid = shares[:, :, 0] if prefix else shares.mean(dim=2)  # (B, heads, N)
    return paid[:, :, prefix:].unflatten(2, grid)
