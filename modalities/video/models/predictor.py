"""The predictor of InternVideo-Next, which fills in what its encoder did not see, and the heads around it (Wang et al. 2026, arXiv 2512.01342, section 3).

The authors take the last five layers of ModernBERT-large (Warner et al. 2024, arXiv 2412.13663), with its weights. Ours by default: five plain
transformer blocks of random weights. Letters: B batch, K visible patches, L patches, P class tokens, D width of the encoder, W of the predictor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.video.models.internvideo_next import InternVideoNextConfig, init_linear, resized_table, space_time_table
from trainer.errors import CheckpointError, ConfigError

BERT_LAYERS = 28
"""Layers of ModernBERT-large, whose number decides which are local."""


@dataclass(frozen=True)
class PredictorConfig:
    """The predictor's layers. The defaults are those of the paper but for the kind of the layers."""

    kind: Literal["transformer", "modernbert"] = "transformer"
    """transformer: pre-norm blocks with position table alone. modernbert: the last layers of ModernBERT, with rotary positions over the sequence and
    attention that is global in every third layer and local in the others."""
    width: int = 1024
    """Width of the layers; a multiple of num_heads."""
    depth: int = 5
    """Number of layers."""
    num_heads: int = 16
    """Attention heads per layer."""
    mlp_width: int = 2624
    """Hidden width of a layer's MLP (gated in ModernBERT)."""
    weights: str = ""
    """modernbert only: folder with a ModernBERT, or its id on the Hub (answerdotai/ModernBERT-large), whose last layers are the start. Empty: random."""

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.num_heads, self.mlp_width) < 1 or self.width % self.num_heads:
            raise ConfigError(f"predictor.width must be a multiple of num_heads, and all sizes at least 1; found {self}.")
        if self.weights and self.kind != "modernbert":
            raise ConfigError(f"predictor.weights={self.weights!r} is for kind='modernbert'; found kind={self.kind!r}.")
        if self.kind == "modernbert" and self.depth > BERT_LAYERS:
            raise ConfigError(f"predictor.depth may be at most {BERT_LAYERS} with kind='modernbert', found {self.depth}.")

    def build(self) -> nn.Module:
        """The layers: (B, N, W) -> (B, N, W)."""
        return Blocks(self) if self.kind == "transformer" else BertLayers(self)


class Head(nn.Module):
    """Linear, GELU, Linear, norm; between encoder, predictor and targets. With `unit` the vectors get length 1."""

    def __init__(self, width: int, out: int, unit: bool = True) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, out))
        self.norm, self.unit = nn.LayerNorm(out, eps=1e-5), unit
        for layer in (self.head[0], self.head[2]):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., out)."""
        x = self.norm(self.head(x))
        return F.normalize(x.float(), dim=-1) if self.unit else x


class Blocks(nn.Module):
    """Pre-norm transformer blocks (timm's)."""

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        ratio = config.mlp_width / config.width
        self.blocks = nn.Sequential(*(Block(config.width, config.num_heads, ratio, qkv_bias=True) for _ in range(config.depth)))
        self.blocks.apply(init_linear)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        return self.blocks(x)


class BertLayers(nn.Module):
    """The last layers of a ModernBERT. They keep their numbers, which say which of them attend locally (64 tokens to either side)."""

    def __init__(self, config: PredictorConfig) -> None:
        super().__init__()
        from transformers import ModernBertConfig, ModernBertModel

        if config.weights:
            try:
                model = ModernBertModel.from_pretrained(config.weights, use_safetensors=True)
            except (OSError, ValueError, RuntimeError) as error:
                raise CheckpointError(f"predictor.weights={config.weights!r} cannot be read as a ModernBERT: {str(error).splitlines()[0]}") from error
            found = model.config.hidden_size, model.config.num_attention_heads, model.config.intermediate_size
            if found != (config.width, config.num_heads, config.mlp_width) or model.config.num_hidden_layers < config.depth:
                raise ConfigError(f"{config.weights} has width, heads and mlp_width {found} and {model.config.num_hidden_layers} layers; the predictor is {config}.")
        else:
            model = ModernBertModel(
                ModernBertConfig(
                    vocab_size=8, hidden_size=config.width, num_attention_heads=config.num_heads, intermediate_size=config.mlp_width,
                    num_hidden_layers=BERT_LAYERS, pad_token_id=0, bos_token_id=0, eos_token_id=0, cls_token_id=0, sep_token_id=0,
                )
            )  # fmt: skip
        self.config, self.rotary = model.config, model.rotary_emb
        self.layers = model.layers[-config.depth :]

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width), places counted from 0."""
        from transformers.masking_utils import create_bidirectional_mask, create_bidirectional_sliding_window_mask

        places = torch.arange(x.shape[1], device=x.device)[None]
        makers = {"full_attention": create_bidirectional_mask, "sliding_attention": create_bidirectional_sliding_window_mask}
        masks = {kind: make(config=self.config, inputs_embeds=x, attention_mask=None) for kind, make in makers.items()}
        for layer in self.layers:
            kind = layer.attention_type
            x = layer(x, attention_mask=masks[kind], position_embeddings=self.rotary(x, places, kind))
        return x


class Predictor(nn.Module):
    """What the encoder saw, put back in its places, to what stands in every place.

    A learned token stands where nothing was seen; all get a table of positions of their own, trained from the encoder's first one.
    """

    def __init__(self, encoder: InternVideoNextConfig, config: PredictorConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.mask_token = nn.Parameter(torch.empty(1, 1, encoder.embed_dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.pos_embed = nn.Parameter(space_time_table(encoder.embed_dim, encoder.grid, encoder.class_tokens))
        self.inlet = Head(encoder.embed_dim, config.width, unit=False)
        self.layers = config.build()

    def forward(self, tokens: Tensor, visible: Tensor, grid: Sequence[int]) -> Tensor:
        """(B, P+K, D) of the encoder and the places (B, K) of the patches among them -> (B, L, W) for all patches of `grid`."""
        prefix = self.encoder.class_tokens
        table = resized_table(self.pos_embed, self.encoder.grid, grid, prefix)
        seen = tokens[:, prefix:]
        places = visible[:, :, None].expand_as(seen)
        patches = self.mask_token.to(seen.dtype).expand(len(seen), table.shape[1] - prefix, -1).scatter(1, places, seen)
        x = torch.cat([tokens[:, :prefix], patches], dim=1) + table
        return self.layers(self.inlet(x))[:, prefix:]

    def no_weight_decay(self) -> set[str]:
        return {"pos_embed", "mask_token"}


def alignment(found: Tensor, wanted: Tensor) -> Tensor:
    """2 - 2 cos between vectors of length 1 and wanted ones of any length, the mean over all but the last axis."""
    return (2 - 2 * (found * F.normalize(wanted.float(), dim=-1)).sum(-1)).mean()
