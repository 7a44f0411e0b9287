"""An approximation of masked-token optimisation (Choi et al., ECCV 2024, arXiv 2404.08330).

NOT the paper's method: its code was not released and its formulas were not at hand. The abstract asks for mask tokens that can be told
from visible ones from the first layer on, and for less attention to them while they hold nothing. These three terms pull that way; they
are ours, and the paper's numbers are not claimed for them. They change training only, never what a model computes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from modalities.common.masked_autoencoder import MaskedAutoencoder, Reconstruction
from modalities.common.terms import Term, require_term
from trainer.errors import ConfigError
from trainer.objective import Batch


@dataclass(frozen=True)
class TokenOptimisationConfig:
    """How the tokens of hidden patches are kept apart from those of visible ones in the decoder."""

    weight: float = 0.0
    """Of the three terms together, beside the reconstruction's. 0: off."""
    margin: float = 0.0
    """Cosine between a mask token with its position and a visible token, before the first decoder block, above which it costs."""
    attention: float = 1.0
    """Weight of the attention that visible tokens pay to mask tokens in early decoder blocks."""
    blocks: int = 2
    """So many decoder blocks from the first are early; the weight of block i is 2 to the power of -i."""
    norm: float = 0.01
    """Weight of the squared length of the mask token, the mean over its channels."""

    def __post_init__(self) -> None:
        require_term(self, "mto_approx", "weight")
        if not -1 <= self.margin < 1 or self.attention < 0 or self.norm < 0 or self.blocks < 1:
            raise ConfigError(
                f"mto_approx needs margin from -1 up to but not 1, attention and norm of at least 0 and blocks of at least 1, "
                f"found {self.margin}, {self.attention}, {self.norm} and {self.blocks}."
            )


class TokenOptimisation(Term):
    """Singularity of mask tokens + attention to them + their length.

    Early decoder blocks are run once more to see their attention, so training costs that much more.
    """

    def __init__(self, config: TokenOptimisationConfig, model: MaskedAutoencoder) -> None:
        super().__init__(config.weight)
        if config.blocks > model.config.decoder_depth:
            raise ConfigError(f"mto_approx.blocks={config.blocks}, and the decoder has {model.config.decoder_depth} block(s). Ask for at most as many.")
        self.config = config

    def forward(self, model: MaskedAutoencoder, batch: Batch, out: Reconstruction) -> Tensor:
        x = model.decoder_input(out.latent, out.masking)  # (B, P+L, E)
        hidden = torch.ones_like(x[..., 0])  # (B, P+L), 1 = hidden
        hidden[:, : out.latent.shape[1]] = 0  # a class token is visible
        total = self.singularity(x, hidden) + self.config.norm * model.mask_token.float().square().mean()
        if not self.config.attention:
            return total
        mass = x.new_zeros(())
        for i, block in enumerate(model.decoder_blocks[: self.config.blocks]):
            mass = mass + 0.5**i * attention_to(block, x, hidden)
            if i + 1 < self.config.blocks:
                x = block(x)
        return total + self.config.attention * mass

    def singularity(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Mean over (hidden, visible) pairs of how far their cosine is above the margin. `x` (B, N, E), `hidden` (B, N)."""
        directions = F.normalize(x.float(), dim=-1)
        above = (directions @ directions.transpose(1, 2) - self.config.margin).clamp(min=0)  # (B, N, N)
        pairs = hidden[:, :, None] * (1 - hidden[:, None, :])
        return (above * pairs).sum() / pairs.sum()


def attention_to(block: torch.nn.Module, x: Tensor, hidden: Tensor) -> Tensor:
    """The share of attention, from 0 to 1, that the visible tokens pay to the hidden ones in one of timm's blocks: mean over heads and visible tokens.

    `x` (B, N, E): what goes into the block; `hidden` (B, N), 1 = hidden.
    """
    attn = block.attn
    qkv = attn.qkv(block.norm1(x)).unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, heads, N, d)
    scores = attn.q_norm(qkv[0]) @ attn.k_norm(qkv[1]).transpose(-2, -1) * attn.scale
    mass = (scores.softmax(dim=-1) * hidden[:, None, None, :]).sum(dim=-1)  # (B, heads, N)
    visible = 1 - hidden[:, None, :]
    return (mass * visible).sum() / (visible.sum() * attn.num_heads)
