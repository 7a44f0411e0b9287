"""The video encoder of InternVideo-Next (Wang et al. 2026, arXiv 2512.01342): a ViT with RMS norms on space-time patches.

Computes what OpenGVLab/InternVideo@3965eef `InternVideo_next.py:InternVideo2` computes (its path without fused kernels), checked against
its outputs; parameter names are the official ones. Letters: B batch, C channels, T frames, G grid (frames, rows, columns of patches),
L patches, K visible patches, P class tokens, D width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from timm.layers import DropPath, LayerScale, Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.loading import Adaptation, Change
from modalities.common.masking import gather_tokens
from modalities.common.model import Model
from modalities.common.patches import adapt_patch_embedding, grid_of, patchify
from modalities.common.positions import sincos_1d, sincos_table
from modalities.video.preprocess import VideoPreprocess
from trainer.errors import ConfigError, DataError, ModelError
from trainer.objective import Batch

EPS = 1e-6
"""Epsilon of the RMS norms, fixed in the official code."""
POOL_EPS = 1e-5
"""Epsilon of the layer norms of the attention pooling."""
POOL = "clip_projector"
"""The official name of the attention pooling."""


@dataclass(frozen=True)
class InternVideoNextConfig:
    """Architecture of the encoder. The defaults are the released base model."""

    input_size: tuple[int, int, int] = (16, 224, 224)
    """Frames, height and width of a clip."""
    patch_size: tuple[int, int, int] = (1, 14, 14)
    """Frames, height and width of a patch; each must divide the input size."""
    in_chans: int = 3
    """Input channels."""
    embed_dim: int = 768
    """Width of the tokens; a multiple of num_heads, of pool_heads and of 16 (the position table has quarters of sines and cosines)."""
    depth: int = 12
    """Number of blocks."""
    num_heads: int = 12
    """Attention heads per block."""
    mlp_ratio: float = 4.0
    """Hidden width of a block's MLP is int(embed_dim * mlp_ratio)."""
    qkv_bias: bool = False
    """Bias of the joint query-key-value layer."""
    qk_norm: bool = True
    """RMS norm of queries and keys over the whole width, before it is split into heads."""
    layer_scale: float | None = 1e-5
    """First value of the factor on each branch of a block. Null: no such factor."""
    class_tokens: int = 4
    """Learned tokens before the patches."""
    pool_heads: int = 16
    """Attention heads of the pooling."""
    pool_dim: int = 768
    """Width of the pooled feature (`projected`)."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last block; it grows linearly from 0 at the first."""

    def __post_init__(self) -> None:
        grid_of(self.input_size, self.patch_size)
        for name in ("in_chans", "embed_dim", "depth", "num_heads", "mlp_ratio", "pool_heads", "pool_dim"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, found {getattr(self, name)}.")
        for name in ("num_heads", "pool_heads"):
            if self.embed_dim % getattr(self, name):
                raise ConfigError(f"embed_dim={self.embed_dim} cannot be split into {name}={getattr(self, name)} equal heads. Choose a divisor of it.")
        if self.embed_dim % 16:
            raise ConfigError(f"embed_dim must be a multiple of 16 for the position table of time, rows and columns, found {self.embed_dim}.")
        if self.class_tokens < 0 or not 0 <= self.drop_path < 1:
            raise ConfigError(f"class_tokens may not be negative and drop_path is in 0..1, found {self.class_tokens} and {self.drop_path}.")
        if self.layer_scale is not None and not self.layer_scale > 0:
            raise ConfigError(f"layer_scale must be above 0, or null for none, found {self.layer_scale}.")

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of patches along time, height and width."""
        return grid_of(self.input_size, self.patch_size)


class Attention(nn.Module):
    """Self-attention; queries and keys are normed over the whole width (all heads together)."""

    def __init__(self, config: InternVideoNextConfig) -> None:
        super().__init__()
        width = config.embed_dim
        self.heads = config.num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        self.q_norm = nn.RMSNorm(width, EPS) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(width, EPS) if config.qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k, v = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in (self.q_norm(q), self.k_norm(k), v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm block with a learned factor on each branch."""

    def __init__(self, config: InternVideoNextConfig, drop_path: float) -> None:
        super().__init__()
        width = config.embed_dim

        def scale() -> nn.Module:
            return nn.Identity() if config.layer_scale is None else LayerScale(width, config.layer_scale)

        self.norm1, self.attn, self.ls1 = nn.RMSNorm(width, EPS), Attention(config), scale()
        self.norm2, self.mlp, self.ls2 = nn.RMSNorm(width, EPS), Mlp(width, int(width * config.mlp_ratio)), scale()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


class CrossAttention(nn.Module):
    """Attention of a query over tokens; the three biases are parameters of their own, as in the checkpoints."""

    def __init__(self, width: int, heads: int, out: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.q_bias, self.k_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) for _ in range(3))
        self.proj = nn.Linear(width, out)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, Q, D), (B, N, D), (B, N, D) -> (B, Q, out)."""
        projected = (F.linear(x, layer.weight, bias) for x, layer, bias in ((q, self.q, self.q_bias), (k, self.k, self.k_bias), (v, self.v, self.v_bias)))
        q, k, v = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in projected)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class AttentionPooling(nn.Module):
    """One vector per clip: the mean of ALL tokens, class tokens too, asks all tokens. Query, keys and values have norms of their own."""

    def __init__(self, width: int, heads: int, out: int) -> None:
        super().__init__()
        self.norm1_q, self.norm1_k, self.norm1_v = (nn.LayerNorm(width, eps=POOL_EPS) for _ in range(3))
        self.cross_attn = CrossAttention(width, heads, out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, out)."""
        return self.cross_attn(self.norm1_q(x.mean(1, keepdim=True)), self.norm1_k(x), self.norm1_v(x)).squeeze(1)


class PatchEmbed(nn.Module):
    """Patches to tokens: RMS norm of a patch's values, a linear map (stored as a convolution), RMS norm."""

    def __init__(self, config: InternVideoNextConfig) -> None:
        super().__init__()
        self.patch_size, self.in_chans = config.patch_size, config.in_chans
        self.proj = nn.Conv3d(config.in_chans, config.embed_dim, config.patch_size, config.patch_size)
        self.norm = nn.RMSNorm(config.embed_dim, EPS)
        self.norm_before = nn.RMSNorm(math.prod(config.patch_size) * config.in_chans, EPS)

    def forward(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, L, D); patches in the order time, row, column. The values of a patch have the channel last."""
        if video.ndim != 5 or video.shape[1] != self.in_chans or not video.is_floating_point():
            raise ModelError(
                f"The model takes float videos of shape (B, {self.in_chans}, frames, height, width), normalised as in training, "
                f"found {video.dtype} {tuple(video.shape)}. Use the model's own `preprocess`."
            )
        patches = self.norm_before(patchify(video, self.patch_size))
        weight = self.proj.weight.permute(0, 2, 3, 4, 1).flatten(1)  # the channel last, as in the patches
        return self.norm(F.linear(patches, weight, self.proj.bias))


class InternVideoNext(Model):
    """Input `video` (B, C, T, H, W) float: RGB in 0..1, normalised by the ImageNet mean and deviation or as `preprocess` says.

    `tokens` gives the patch tokens of the last block (B, L, D), which has no norm after it; `embed` their mean (B, D), `projected` the
    attention pooling (B, pool_dim). Clips of another length or size are taken as they are when whole patches fill them: the position table is
    interpolated to them, in time linearly and in space by cubics, as the official code does between its stages.
    """

    system = "video/internvideo-next"
    config_class = InternVideoNextConfig
    input_key = "video"
    parts = {f"{POOL}.": "attention pooling", "": "encoder"}

    def __init__(self, config: InternVideoNextConfig) -> None:
        super().__init__(config)
        width = config.embed_dim
        self.prefix = config.class_tokens
        """Tokens before the patches."""
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.empty(1, config.class_tokens, width))
        self.pos_embed = nn.Parameter(space_time_table(width, config.grid, config.class_tokens))
        rates = torch.linspace(0, config.drop_path, config.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)
        self.clip_projector = AttentionPooling(width, config.pool_heads, config.pool_dim)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.apply(init_linear)
        with torch.no_grad():
            for number, block in enumerate(self.blocks, 1):
                for layer in (block.attn.proj, block.mlp.fc2):
                    layer.weight.div_(math.sqrt(2 * number))

    def input(self, batch: Batch) -> Tensor:
        """The clips of the batch. DataError when it has none."""
        if self.input_key not in batch:
            raise DataError(f"{type(self).__name__} reads batch[{self.input_key!r}]; this batch holds: {', '.join(batch) or 'nothing'}.")
        return batch[self.input_key]

    def input_shape(self) -> tuple[int, ...]:
        return (self.config.in_chans, *self.config.input_size)

    def default_preprocess(self) -> VideoPreprocess | None:
        """ImageNet's statistics for RGB, -1..1 for grey; other channels have no usual ones."""
        return VideoPreprocess.usual(self.config.input_size, self.config.in_chans)

    def size_multiple(self) -> tuple[int, ...]:
        return self.config.patch_size

    def grid(self, video: Tensor) -> tuple[int, ...]:
        """Patches of a clip along time, height and width."""
        return grid_of(video.shape[2:], self.config.patch_size)

    def encode(self, video: Tensor, visible: Tensor | None = None, layers: Sequence[int] = ()) -> tuple[Tensor, list[Tensor]]:
        """All tokens (B, P+L, D) of clips (B, C, T, H, W), class tokens first, and those after each of the blocks numbered in `layers`.

        With `visible` (B, K), indices of patches, only those go through the blocks: (B, P+K, D).
        """
        table = resized_table(self.pos_embed, self.config.grid, self.grid(video), self.prefix)
        patches = self.patch_embed(video) + table[:, self.prefix :]
        if visible is not None:
            patches = gather_tokens(patches, visible)
        tokens = (self.cls_token + table[:, : self.prefix]).expand(len(video), -1, -1)
        x, found = torch.cat([tokens.to(patches.dtype), patches], dim=1), {}
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in layers:
                found[number] = x
        return x, [found[number] for number in layers]

    def tokens(self, batch: Batch) -> Tensor:
        """Patch tokens, (B, L, D)."""
        return self.encode(self.input(batch))[0][:, self.prefix :]

    def embed(self, batch: Batch) -> Tensor:
        """The mean of the patch tokens, (B, D)."""
        return self.tokens(batch).mean(dim=1)

    def projected(self, batch: Batch) -> Tensor:
        """The attention pooling over all tokens, (B, pool_dim)."""
        return self.clip_projector(self.encode(self.input(batch))[0])

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        """features (B, D), the mean of the patch tokens; tokens (B, L, D); projected (B, pool_dim), the attention pooling."""
        x = self.encode(self.input(batch))[0]
        tokens = x[:, self.prefix :]
        return {"features": tokens.mean(dim=1), "tokens": tokens, "projected": self.clip_projector(x)}

    def no_weight_decay(self) -> set[str]:
        return {"pos_embed", "cls_token"}

    def layer_ids(self) -> dict[str, int]:
        """Depth of each parameter for layer decay: 0 embeddings, i+1 block i, depth+1 the rest (BEiT's rule)."""
        return {name: self._layer_id(name) for name, _ in self.named_parameters()}

    def _layer_id(self, name: str) -> int:
        if name in ("cls_token", "pos_embed") or name.startswith("patch_embed."):
            return 0
        return int(name.split(".")[1]) + 1 if name.startswith("blocks.") else self.config.depth + 1

    @classmethod
    def change_from(cls, source: type[Model], old: InternVideoNextConfig, new: InternVideoNextConfig, new_head: bool = False) -> Change:
        """Another grid resizes the position table; other channels adapt the patch embedding and the norm before it."""
        adapted: dict[str, Adaptation] = {}
        if old.grid != new.grid:
            how = f"position table interpolated from {old.grid} to {new.grid} patches"
            adapted["pos_embed"] = Adaptation(how, lambda table: resized_table(table, old.grid, new.grid, old.class_tokens))
        if old.in_chans != new.in_chans and old.patch_size == new.patch_size:
            how = f"{old.in_chans} to {new.in_chans} channels"
            adapted["patch_embed.proj.weight"] = Adaptation(how, lambda weight: adapt_patch_embedding(weight, new.in_chans, new.patch_size))
            adapted["patch_embed.norm_before.weight"] = Adaptation(f"{how}: the mean over the channels", lambda weight: _spread(weight, old.in_chans, new.in_chans))
        return Change(adapted)


def space_time_table(width: int, grid: Sequence[int], prefix: int) -> Tensor:
    """The first position table, (1, P+L, width): zero rows, then [code of the frame, width / 4 | code of column and row, 3/4 width (as MAE)]."""
    if torch.get_default_device().type == "meta":
        return torch.empty(1, prefix + math.prod(grid), width)  # a skeleton: the values come from a file
    time = sincos_1d(width // 4, torch.arange(grid[0])).float()  # (T, width/4)
    space = sincos_table(width // 4 * 3, grid[1:], "column-first", 0)[0]  # (H*W, 3/4 width)
    table = torch.cat([time.repeat_interleave(len(space), 0), space.repeat(grid[0], 1)], dim=1)
    return torch.cat([torch.zeros(prefix, width), table])[None]


def resized_table(table: Tensor, old: Sequence[int], new: Sequence[int], prefix: int) -> Tensor:
    """A table (1, P+L, D) of the grid `old` for the grid `new`: linear in time, then bicubic in space; the prefix rows stay.

    Differentiable: a trained table learns from clips of every size.
    """
    old, new = tuple(old), tuple(new)
    if old == new:
        return table
    rows = table[:, prefix:].float().unflatten(1, old)  # (1, T, H, W, D)
    if old[0] != new[0]:
        lines = rows.flatten(2).transpose(1, 2)  # (1, H*W*D, T)
        rows = F.interpolate(lines, size=new[0], mode="linear").transpose(1, 2).unflatten(2, rows.shape[2:])
    if old[1:] != new[1:]:
        rows = F.interpolate(rows[0].permute(0, 3, 1, 2), size=new[1:], mode="bicubic").permute(0, 2, 3, 1)[None]
    return torch.cat([table[:, :prefix], rows.flatten(1, 3).to(table.dtype)], dim=1)


def init_linear(module: nn.Module) -> None:
    """Truncated normal weights of deviation 0.02, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _spread(weight: Tensor, old: int, new: int) -> Tensor:
    """A norm over (values of a patch, channel last) for another number of channels: each gets the mean."""
    return weight.view(-1, old).mean(1, keepdim=True).expand(-1, new).reshape(-1)
