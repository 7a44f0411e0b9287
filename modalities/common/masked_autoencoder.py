"""The masked auto-encoder (He et al. 2021, arXiv 2111.06377) over a ViT encoder, in any number of dimensions.

Computes what facebookresearch/mae `models_mae.py` computes (checked against its outputs). The steps are
separate methods, so that a relative (another masking, another decoder order) replaces only what differs.
Letters: B batch, C channels, L patches, K visible patches, P 1 with a class token and 0 without,
D encoder width, E decoder width, V values per patch.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modalities.common.linear import Linear
from modalities.common.loading import Change, Rule
from modalities.common.masking import Masking, gather_tokens, keep_count, mask_from_noise
from modalities.common.model import Model
from modalities.common.vit import ViTConfig, ViTEncoder, adapted_table, init_linear
from trainer.errors import ModelError
from trainer.objective import Batch
from trainer.randomness import draws_on_device


@dataclass(frozen=True)
class MaskedAutoencoderConfig(ViTConfig):
    """A ViT encoder and the light decoder that reconstructs the hidden patches."""

    decoder_embed_dim: int = 512
    """Width of the decoder; a multiple of decoder_num_heads."""
    decoder_depth: int = 8
    """Number of decoder blocks. Paper: 8 (table 1a); one block fine-tunes almost as well."""
    decoder_num_heads: int = 16
    """Attention heads per decoder block."""
    decoder_mlp_ratio: float = 4.0
    """Hidden width of a decoder block's MLP, relative to decoder_embed_dim."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_positive("decoder_embed_dim", "decoder_depth", "decoder_mlp_ratio")
        self._require_heads("decoder_embed_dim", "decoder_num_heads")


@dataclass(frozen=True)
class Reconstruction:
    """What a forward pass in training gives."""

    latent: Tensor
    """(B, P+K, D) encoder output after the final norm; visible patches in the order of `masking.ids_keep`."""
    prediction: Tensor
    """(B, L, V) predicted patches in raster order, visible ones included; or (B, M, V), the hidden ones alone, in the order of
    `masking.ids_hidden`."""
    masking: Masking
    """Which patches were hidden."""


class MaskedAutoencoder(ViTEncoder):
    """Encoder over the visible patches only, decoder over all of them.

    `tokens` and `embed` see every patch and do not use the decoder.
    """

    config_class = MaskedAutoencoderConfig
    parts = {"decoder_": "decoder", "mask_token": "decoder", "": "encoder"}

    def __init__(self, config: MaskedAutoencoderConfig) -> None:
        super().__init__(config)
        width = config.decoder_embed_dim
        self.patch_values = math.prod(config.patch_size) * config.in_chans
        """Values of one patch, all channels."""
        self.decoder_embed = init_linear(Linear(config.embed_dim, width))
        self.mask_token = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02))
        self.decoder_pos_embed = self.new_positions(width)
        self.decoder_blocks = self.new_blocks(width, config.decoder_depth, config.decoder_num_heads, config.decoder_mlp_ratio)
        self.decoder_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.decoder_pred = self._new_prediction()

    def _new_prediction(self) -> Linear:
        return init_linear(Linear(self.config.decoder_embed_dim, self.patch_values))

    @classmethod
    def change_from(
        cls, source: type[Model], old: MaskedAutoencoderConfig, new: MaskedAutoencoderConfig, new_head: bool = False
    ) -> Change:
        """The encoder's changes and the decoder's table; a patch of other values needs a new last layer."""
        change = super().change_from(source, old, new, new_head)
        rules: tuple[Rule, ...] = ()
        if (old.in_chans, old.patch_size) != (new.in_chans, new.patch_size):
            rules = (Rule(r"decoder_pred\..*", "patches hold other values than those that it predicted"),)
        return Change({**change.adapted, **adapted_table("decoder_pos_embed", old, new)}, new=rules, unused=rules)

    def init_new(self, names: set[str]) -> None:
        self.decoder_pred = self._new_prediction()

    @property
    def noise_length(self) -> int:
        """How many random numbers decide the mask of a sample: one for each patch, unless patches are hidden together."""
        return self.patch_embed.length

    def visible_count(self, mask_ratio: float) -> int:
        """How many patches stay visible. ModelError when none does."""
        return keep_count(self.patch_embed.length, mask_ratio)

    def mask(self, noise: Tensor, mask_ratio: float) -> Masking:
        """The masking that noise (B, noise_length) gives: small values stay visible."""
        return mask_from_noise(noise, self.visible_count(mask_ratio))

    def draw_masking(self, x: Tensor, noise: Tensor | None, mask_ratio: float, keys: Tensor | None = None) -> Masking:
        """Choose the visible patches of an input (B, C, *input_size) at random.

        `noise` (B, noise_length) replaces the random draw. With `keys` (B,), those of the trainer's batches, the draw depends on
        them alone: the masks are the same however the batch is shared among processes.
        """
        expected = (x.shape[0], self.noise_length)
        if noise is None:
            noise = torch.rand(expected, device=x.device) if keys is None else draws_on_device(keys, expected[1])
        elif tuple(noise.shape) != expected:
            raise ModelError(f"Masking noise must be (samples, patches) = {expected}, found {tuple(noise.shape)}.")
        return self.mask(noise, mask_ratio)

    def encode(self, x: Tensor, masking: Masking) -> Tensor:
        """(B, C, *input_size) -> (B, P+K, D): only the visible patches are embedded and go through the blocks."""
        return self.norm(self.blocks(self.prepend_class_token(self.embed_patches(x, masking.ids_keep))))

    def decode(self, latent: Tensor, masking: Masking, everywhere: bool = True) -> Tensor:
        """(B, P+K, D) -> (B, L, V): mask tokens fill the gaps, everything gets its decoder position.

        Attention does not look at the order of the tokens, so the hidden patches simply come last; the prediction is brought into raster
        order. Without `everywhere` it is that of the hidden patches alone, (B, M, V), in the order of `masking.ids_hidden`: what no loss
        looks at is not computed.
        """
        x, hidden = self.decoder_embed(latent), masking.ids_hidden  # (B, P+K, E), (B, M)
        first, positions = self.decoder_pos_embed[:, : self.prefix], self.decoder_pos_embed[0, self.prefix :]
        visible = torch.cat([first.expand(len(x), -1, -1), positions[masking.ids_keep]], dim=1)  # (B, P+K, E)
        x = torch.cat([x + visible, self.mask_token + positions[hidden]], dim=1)  # (B, P+L, E)
        *blocks, final = self.decoder_blocks
        for block in blocks:
            x = block(x)
        x = final(x)[:, self.prefix :] if everywhere else final(x, last=hidden.shape[1])
        x = self.decoder_pred(self.decoder_norm(x))
        return gather_tokens(x, masking.ids_restore) if everywhere else x

    def forward(self, batch: Batch, noise: Tensor | None = None, mask_ratio: float = 0.75, everywhere: bool = True) -> Reconstruction:
        """Hide `mask_ratio` of the patches and predict all of them, or only the hidden ones (see `decode`).

        `noise` (B, noise_length): small values stay visible.
        """
        x = self.input(batch)
        masking = self.draw_masking(x, noise, mask_ratio, batch.get("sample_key"))
        latent = self.encode(x, masking)
        return Reconstruction(latent, self.decode(latent, masking, everywhere), masking)
