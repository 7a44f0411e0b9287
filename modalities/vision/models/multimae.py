"""MultiMAE: masked auto-encoding of colour, depth and classes at once (Bachmann et al. 2022, arXiv 2204.01678).

Computes what EPFL-VILAB/MultiMAE@66910f5 `multimae.py:MultiMAE` with `SpatialOutputAdapter` computes (checked against its
outputs); written from a description of it. Letters: B batch, L patches of one domain, N of all, K visible ones,
G global tokens, D encoder width, E decoder width, P and Q the sides of a patch in a domain's own map.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.loading import Adaptation, Change, Rule
from modalities.common.masking import Masking, gather_tokens
from modalities.common.model import Model
from modalities.common.vit import init_linear
from modalities.vision.models.multi_input import (
    INPUTS,
    MultiInputConfig,
    MultiInputEncoder,
    adapted_map,
    init_split,
    position_map,
    require_domains,
    resized_map,
    split_transformer,
)
from trainer.errors import ConfigError, ModelError
from trainer.objective import Batch

OUTPUTS = ("rgb", "depth", "semseg", "norm_rgb")
"""What can be predicted; norm_rgb is the picture with each patch normalised by its own mean and deviation."""
OWN = {"rgb": "rgb", "depth": "depth", "semseg": "semseg", "norm_rgb": "rgb"}
"""Output -> the domain whose patches it predicts."""


@dataclass(frozen=True)
class MultiMAEConfig(MultiInputConfig):
    """The encoder, and one small decoder for each output. The defaults are the paper's base model."""

    out_domains: tuple[str, ...] = OUTPUTS
    """What is predicted: rgb, depth, semseg, norm_rgb. It need not be an input."""
    context_domains: tuple[str, ...] | None = None
    """Inputs that the decoders have a learned embedding for, perhaps none. Null: all inputs."""
    decoder_dim: int = 256
    """Width of the decoders; a multiple of decoder_num_heads."""
    decoder_depth: int = 2
    """Blocks of self-attention in a decoder, after its cross-attention. 0: none."""
    decoder_num_heads: int = 8
    """Attention heads in a decoder."""
    decoder_mlp_ratio: float = 4.0
    """Hidden width of a decoder's MLPs, relative to decoder_dim."""
    use_task_queries: bool = True
    """Ask for an output with the tokens of its own domain (hidden ones as mask tokens). False: with mask tokens only."""
    use_xattn: bool = True
    """Let the queries look at the visible tokens of all inputs. False: they go straight into the blocks of self-attention, and know of their own domain only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_domains("out_domains", self.out_domains, OUTPUTS)
        if self.context_domains:
            require_domains("context_domains", self.context_domains, INPUTS)
        self._require_positive("decoder_dim", "decoder_mlp_ratio")
        self._require_heads("decoder_dim", "decoder_num_heads")
        if self.decoder_depth < 0:
            raise ConfigError(f"decoder_depth must be at least 0, found {self.decoder_depth}.")
        if not self.use_xattn and not self.decoder_depth:
            raise ConfigError("use_xattn=False needs decoder_depth of at least 1: without either no patch would know of another.")

    def out_channels(self, output: str) -> int:
        """Channels of a predicted map; of semseg the logits of its classes."""
        return self.semseg_classes if output == "semseg" else self.channels(OWN[output])


@dataclass(frozen=True)
class MultiReconstruction:
    """What a forward pass in training gives."""

    latent: Tensor
    """(B, K+G, D) encoder output; visible patches in the order of `masking.ids_keep`, then the global tokens."""
    predictions: dict[str, Tensor]
    """Output -> map (B, channels, height, width); semseg as logits, at its own resolution."""
    masking: Masking
    """Which patches of the whole sequence were hidden."""
    masks: dict[str, Tensor] = field(default_factory=dict)
    """Input -> (B, h, w) over its patches, 1 = hidden."""


class CrossAttention(nn.Module):
    """Queries (B, L, E) look at a context (B, M, E)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = init_linear(nn.Linear(width, width))
        self.kv = nn.Linear(width, 2 * width)
        self.proj = init_linear(nn.Linear(width, width))
        init_split(self.kv, 2)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q = self.q(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, L, E/heads)
        k, v = self.kv(context).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, M, E/heads)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class SpatialOutput(nn.Module):
    """The decoder of one output: its patches ask the visible tokens of all inputs."""

    def __init__(self, config: MultiMAEConfig, output: str) -> None:
        super().__init__()
        width = config.decoder_dim
        self.domain, self.patch, self.channels = OWN[output], config.patch_of(OWN[output]), config.out_channels(output)
        self.use_task_queries, self.use_xattn = config.use_task_queries, config.use_xattn
        known = config.in_domains if config.context_domains is None else config.context_domains
        self.task_embeddings = nn.ParameterDict({d: nn.Parameter(torch.zeros(1, 1, width)) for d in known})
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        for token in (self.mask_token, *self.task_embeddings.values()):
            nn.init.trunc_normal_(token, std=0.02)
        self.pos_emb = position_map(width, config.grid)
        self.proj_context = init_linear(nn.Linear(config.embed_dim, width))
        if config.use_xattn:
            self.decoder = CrossAttention(width, config.decoder_num_heads)
            self.query_norm, self.context_norm, self.out_norm = (nn.LayerNorm(width, eps=config.norm_eps) for _ in range(3))
            self.mlp = Mlp(width, int(width * config.decoder_mlp_ratio))
            init_linear(self.mlp.fc1), init_linear(self.mlp.fc2)
        heads, ratio = config.decoder_num_heads, config.decoder_mlp_ratio
        self.decoder_transformer = split_transformer(config, width, config.decoder_depth, heads, ratio) if config.decoder_depth else nn.Identity()
        self.out_proj = self.new_prediction(config)

    def new_prediction(self, config: MultiMAEConfig) -> nn.Linear:
        return init_linear(nn.Linear(config.decoder_dim, self.channels * self.patch[0] * self.patch[1]))

    def forward(self, latent: Tensor, masking: Masking, domains: tuple[str, ...], grid: tuple[int, int]) -> Tensor:
        """(B, K+G, D) -> (B, channels, h*P, w*Q). `domains`: the inputs that make up the sequence, each with a grid of patches (h, w)."""
        x = self.proj_context(latent)  # (B, K+G, E)
        visible, rest = x.split([masking.ids_keep.shape[1], x.shape[1] - masking.ids_keep.shape[1]], dim=1)
        hidden = masking.ids_restore.shape[1] - visible.shape[1]
        fill = self.mask_token.to(x.dtype).expand(x.shape[0], hidden, -1)
        position = resized_map(self.pos_emb, grid, "bilinear").flatten(2).transpose(1, 2)  # (1, L, E)
        marks = [position + self.task_embeddings[d] if d in self.task_embeddings else position for d in domains]
        x = gather_tokens(torch.cat([visible, fill], dim=1), masking.ids_restore) + torch.cat(marks, dim=1)  # (B, N, E) in the order of the inputs
        queries = self._queries(x, position, domains)  # (B, L, E)
        if self.use_xattn:
            context = torch.cat([gather_tokens(x, masking.ids_keep), rest], dim=1)  # (B, K+G, E)
            queries = self.decoder(self.query_norm(queries), self.context_norm(context))  # no shortcut around this
            queries = queries + self.mlp(self.out_norm(queries))
        x = self.out_proj(self.decoder_transformer(queries)).unflatten(2, (self.channels, *self.patch)).unflatten(1, grid)  # (B, h, w, C, P, Q)
        return x.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    def _queries(self, x: Tensor, position: Tensor, domains: tuple[str, ...]) -> Tensor:
        """What is asked for, (B, L, E): the own domain's part of the sequence (B, N, E), or mask tokens at every position."""
        length = position.shape[1]
        if self.use_task_queries and self.domain in domains:
            start = domains.index(self.domain) * length
            return x[:, start : start + length]
        queries = self.mask_token + position
        if self.domain in self.task_embeddings:
            queries = queries + self.task_embeddings[self.domain]
        return queries.to(x.dtype).expand(x.shape[0], -1, -1)


class MultiMAE(MultiInputEncoder):
    """Encoder over a few visible patches of all inputs, and a decoder for each output.

    Reads `image`, `depth`, `semseg` as `MultiInputEncoder` says; a batch may hold any of them. `tokens` and `embed` see every patch of
    what is there and do not use the decoders; `cross_predict` fills in whatever is not.
    """

    system = "vision/multimae"
    config_class = MultiMAEConfig
    needs_all_inputs = False

    def __init__(self, config: MultiMAEConfig) -> None:
        super().__init__(config)
        self.output_adapters = nn.ModuleDict({output: SpatialOutput(config, output) for output in config.out_domains})

    def decode(self, latent: Tensor, masking: Masking, domains: tuple[str, ...], grid: tuple[int, int]) -> dict[str, Tensor]:
        """(B, K+G, D) -> output -> map. Classes are predicted in full precision, also under autocast."""
        found = {}
        for output, adapter in self.output_adapters.items():
            exact = output == "semseg"
            with torch.autocast(latent.device.type, enabled=False) if exact else nullcontext():
                found[output] = adapter(latent.float() if exact else latent, masking, domains, grid)
        return found

    def forward(self, batch: Batch, masking: Masking | None = None) -> MultiReconstruction:
        """Encode the visible patches and predict every output. `masking` is over the patches of all inputs in their order; None: all are visible."""
        inputs = self.inputs(batch)
        domains = tuple(inputs)
        grid = self.grid_in(domains[0], inputs[domains[0]])
        x = self.embed_inputs(inputs)  # (B, N, D)
        if masking is None:
            masking = everything(x)
        elif masking.ids_restore.shape != x.shape[:2]:
            raise ModelError(f"A masking of these inputs is over {tuple(x.shape[:2])} (samples, patches), found {tuple(masking.ids_restore.shape)}.")
        latent = self.encode(gather_tokens(x, masking.ids_keep))
        parts = masking.mask.unflatten(1, (len(domains), *grid)).unbind(1)
        return MultiReconstruction(latent, self.decode(latent, masking, domains, grid), masking, dict(zip(domains, parts)))

    @torch.no_grad()
    def cross_predict(self, batch: Batch) -> dict[str, Tensor]:
        """Every output from what the batch holds, all of it visible: from the picture alone, say, its depth and its classes."""
        return self(batch).predictions

    @classmethod
    def change_from(cls, source: type[Model], old: MultiMAEConfig, new: MultiMAEConfig, new_head: bool = False) -> Change:
        """The encoder's changes, the decoders' position maps, and new last layers where a patch holds other values."""
        change = super().change_from(source, old, new, new_head)
        adapted: dict[str, Adaptation] = dict(change.adapted)
        fresh, unused = list(change.new), list(change.unused)
        for output in (o for o in new.out_domains if o in old.out_domains):
            if old.grid != new.grid:
                adapted[f"output_adapters.{output}.pos_emb"] = adapted_map(old.grid, new.grid, "bilinear")
            if (old.out_channels(output), old.patch_of(OWN[output])) != (new.out_channels(output), new.patch_of(OWN[output])):
                rule = Rule(rf"output_adapters\.{output}\.out_proj\..*", "patches hold other values than those that it predicted")
                fresh.append(rule), unused.append(rule)
        lost = [o for o in old.out_domains if o not in new.out_domains]
        unused += [Rule(rf"output_adapters\.{output}\..*", "this output was not asked for") for output in lost]
        if old.context_domains is None and new.context_domains is None:
            gone = [d for d in old.in_domains if d not in new.in_domains]
            unused += [Rule(rf"output_adapters\..*\.task_embeddings\.{d}", "this input was not asked for") for d in gone]
        return Change(adapted, tuple(fresh), tuple(unused))

    def init_new(self, names: set[str]) -> None:
        """New inputs and last layers start as in a new model."""
        super().init_new(names)
        for output in sorted({name.split(".")[1] for name in names if name.startswith("output_adapters.")}):
            self.output_adapters[output].out_proj = self.output_adapters[output].new_prediction(self.config)


def everything(x: Tensor) -> Masking:
    """The masking of tokens (B, N, D) that hides nothing."""
    ids = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)
    return Masking(ids, ids, torch.zeros(ids.shape, device=x.device))
