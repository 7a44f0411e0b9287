"""One vision transformer over several aligned pictures of a scene: colour, depth, classes (Bachmann et al. 2022, arXiv 2204.01678).

What MultiMAE's pre-training and its fine-tuning share. Every input ("domain") has its own patch embedding, and nothing else
tells the encoder what a token is. There is no norm after the last block. Parameter names are those of the official code.
Letters: B batch, C channels, L patches of one domain, N patches of all domains, G global tokens, D width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.loading import Adaptation, Change, Rule
from modalities.common.model import Model
from modalities.common.patches import adapt_patch_embedding, grid_of
from modalities.common.positions import sincos_table
from modalities.common.preprocess import Preprocess
from modalities.common.vit import Checked, transformer
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.preprocess_paired import KEYS, PairedPreprocess
from trainer.errors import CheckpointError, ConfigError, DataError, ModelError, did_you_mean, shorten
from trainer.objective import Batch

INPUTS = ("rgb", "depth", "semseg")
"""Domains that the encoder can read."""
EXAMPLES = {"rgb": "image.png", "depth": "depth.png", "semseg": "semseg.png"}
"""Domain -> the file that snippets read."""


@dataclass(frozen=True)
class MultiInputConfig(Checked):
    """Architecture of the encoder. The defaults are the paper's base model."""

    in_domains: tuple[str, ...] = INPUTS
    """Inputs, in the order of their tokens: rgb (a picture, in_chans channels), depth (one channel), semseg (class ids)."""
    input_size: int | tuple[int, int] = (224, 224)
    """Height and width of the pictures, which the position tables are made for. One number stands for both. Pictures of other
    sizes are taken as well; the tables are then interpolated on the way."""
    patch_size: int | tuple[int, int] = (16, 16)
    """Height and width of a patch in pixels of the picture. One number stands for both."""
    in_chans: int = 3
    """Channels of rgb."""
    semseg_classes: int = 133
    """Classes of semseg. Paper: the 133 of COCO panoptic."""
    semseg_stride: int = 4
    """Pixels of the picture along each side of one pixel of semseg; it divides patch_size."""
    dim_class_emb: int = 64
    """Width of the embedding of a class id."""
    embed_dim: int = 768
    """Width of the tokens; a multiple of num_heads."""
    depth: int = 12
    """Number of blocks."""
    num_heads: int = 12
    """Attention heads per block."""
    mlp_ratio: float = 4.0
    """Hidden width of a block's MLP is int(embed_dim * mlp_ratio)."""
    num_global_tokens: int = 1
    """Learned tokens without position, after all patches."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last block; it grows linearly from 0 at the first."""

    qkv_bias: ClassVar[bool] = True
    norm_eps: ClassVar[float] = 1e-6
    activation: ClassVar[str] = "gelu"
    layer_scale: ClassVar[None] = None

    def __post_init__(self) -> None:
        for name in ("input_size", "patch_size"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value, value) if isinstance(value, int) else tuple(value))
        grid_of(self.input_size, self.patch_size)
        require_domains("in_domains", self.in_domains, INPUTS)
        self._require_positive("in_chans", "embed_dim", "depth", "mlp_ratio", "semseg_classes", "semseg_stride", "dim_class_emb")
        self._require_heads("embed_dim", "num_heads")
        if any(side % self.semseg_stride for side in self.patch_size):
            raise ConfigError(f"semseg_stride must divide the patch size {self.patch_size}, found {self.semseg_stride}.")
        if self.num_global_tokens < 0 or not 0 <= self.drop_path < 1:
            raise ConfigError(f"num_global_tokens must be at least 0 and drop_path in 0..1, found {self.num_global_tokens} and {self.drop_path}.")

    @property
    def grid(self) -> tuple[int, int]:
        """Number of patches along each axis; the same for every domain."""
        return grid_of(self.input_size, self.patch_size)

    def channels(self, domain: str) -> int:
        """Channels of what a domain's patch embedding sees."""
        return {"rgb": self.in_chans, "depth": 1, "semseg": self.dim_class_emb}[domain]

    def patch_of(self, domain: str) -> tuple[int, int]:
        """Size of a patch in pixels of the domain's own map."""
        stride = self.semseg_stride if domain == "semseg" else 1
        return self.patch_size[0] // stride, self.patch_size[1] // stride


def require_domains(field: str, found: Sequence[str], known: Sequence[str]) -> None:
    """Raise ConfigError unless `found` are different names out of `known`, at least one."""
    strange = next((domain for domain in found if domain not in known), None)
    if strange is not None:
        raise ConfigError(f"{field} has {shorten(strange)}; known are {', '.join(known)}.{did_you_mean(str(strange), known)}")
    if not found or len(set(found)) < len(found):
        raise ConfigError(f"{field} must name at least one of {', '.join(known)}, none of them twice; found {tuple(found)}.")


def position_map(width: int, grid: tuple[int, int]) -> nn.Parameter:
    """The frozen sine-cosine table of MultiMAE, (1, width, h, w): rows first."""
    table = sincos_table(width, grid, "row-first", prefix=0)  # (1, L, width)
    return nn.Parameter(table.transpose(1, 2).unflatten(2, grid).contiguous(), requires_grad=False)


def resized_map(table: Tensor, grid: Sequence[int], mode: str) -> Tensor:
    """A position map (1, D, h, w) for another grid; unchanged for its own."""
    if tuple(table.shape[2:]) == tuple(grid):
        return table
    return F.interpolate(table.float(), size=tuple(grid), mode=mode, align_corners=False).to(table.dtype)


def init_split(layer: nn.Linear, parts: int) -> None:
    """Xavier uniform for a layer that stands for `parts` matrices side by side (query, key, value), each on its own."""
    outputs, inputs = layer.weight.shape
    bound = math.sqrt(6 / (outputs / parts + inputs))
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.zeros_(layer.bias)


def split_transformer(config: MultiInputConfig, width: int, depth: int, heads: int, mlp_ratio: float, drop_path: float = 0.0) -> nn.Sequential:
    """The common blocks, with the joint qkv initialised as three matrices."""
    blocks = transformer(config, width, depth, heads, mlp_ratio, drop_path)
    for block in blocks:
        init_split(block.attn.qkv, 3)
    return blocks


class PatchedInput(nn.Module):
    """A map (B, C, H, W) to tokens (B, L, D): one linear map per patch, and its position."""

    mode = "bicubic"

    def __init__(self, config: MultiInputConfig, domain: str) -> None:
        super().__init__()
        patch = config.patch_of(domain)
        self.proj = nn.Conv2d(config.channels(domain), config.embed_dim, patch, patch)
        self.pos_emb = position_map(config.embed_dim, config.grid)
        nn.init.xavier_uniform_(self.proj.weight.data.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        maps = self.proj(x)  # (B, D, h, w)
        return (maps + resized_map(self.pos_emb, maps.shape[2:], self.mode)).flatten(2).transpose(1, 2)


class ClassInput(PatchedInput):
    """A map of class ids (B, H, W) to tokens (B, L, D): each id is embedded, then as `PatchedInput`."""

    mode = "bilinear"

    def __init__(self, config: MultiInputConfig, domain: str) -> None:
        super().__init__(config, domain)
        self.class_emb = nn.Embedding(config.semseg_classes, config.dim_class_emb)
        nn.init.trunc_normal_(self.class_emb.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.class_emb(x).permute(0, 3, 1, 2))


def input_adapter(config: MultiInputConfig, domain: str) -> PatchedInput:
    """The patch embedding of a domain."""
    return (ClassInput if domain == "semseg" else PatchedInput)(config, domain)


class MultiInputEncoder(Model):
    """Tokens of several aligned maps.

    Reads of a batch: `image` (B, C, H, W) for rgb and `depth` (B, 1, H, W), both float as `preprocess` gives them, and `semseg`
    (B, H / semseg_stride, W / semseg_stride), whole class ids.
    """

    input_key = "image"
    parts = {"input_adapters.": "inputs", "output_adapters.": "outputs", "": "encoder"}
    needs_all_inputs: ClassVar[bool] = True
    """Whether a batch must hold all of `in_domains`, or may hold any of them."""

    def __init__(self, config: MultiInputConfig) -> None:
        super().__init__(config)
        width = config.embed_dim
        self.input_adapters = nn.ModuleDict({domain: input_adapter(config, domain) for domain in config.in_domains})
        self.global_tokens = nn.Parameter(torch.zeros(1, config.num_global_tokens, width))
        nn.init.trunc_normal_(self.global_tokens, std=0.02)
        self.encoder = split_transformer(config, width, config.depth, config.num_heads, config.mlp_ratio, config.drop_path)

    def default_preprocess(self) -> PairedPreprocess | ImagePreprocess | None:
        """ImageNet's statistics for RGB; plain image preprocessing where rgb is the only input."""
        c = self.config
        image = ImagePreprocess.usual(c.input_size, c.in_chans)
        if image is None or c.in_domains == ("rgb",):
            return image
        return PairedPreprocess(image, c.in_domains, c.semseg_classes, c.semseg_stride)

    def input_shape(self) -> tuple[int, ...]:
        """That of the picture, whose size the other inputs follow."""
        return (self.config.in_chans, *self.config.input_size)

    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        c = self.config
        reduced = tuple(side // c.semseg_stride for side in c.input_size)
        shapes = {"rgb": self.input_shape(), "depth": (1, *c.input_size), "semseg": reduced}
        return {KEYS[domain]: shapes[domain] for domain in c.in_domains}

    def input(self, batch: Batch) -> Tensor:
        """The first input of the batch that this model reads. DataError when the batch has none."""
        return next(iter(self.inputs(batch).values()))

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """The maps of the batch by domain, in the order of `in_domains`. DataError or ModelError when they are not as expected."""
        found = {domain: batch[KEYS[domain]] for domain in self.config.in_domains if KEYS[domain] in batch}
        missing = [KEYS[domain] for domain in self.config.in_domains if domain not in found]
        if missing and (self.needs_all_inputs or not found):
            raise DataError(f"{type(self).__name__} reads {', '.join(map(repr, missing))}; this batch holds: {', '.join(batch) or 'nothing'}.")
        for domain, x in found.items():
            self._check(domain, x)
        grids = {domain: self.grid_in(domain, x) for domain, x in found.items()}
        if len(set(grids.values())) > 1:
            raise ModelError(f"The inputs of one batch must show the same pixels, found these numbers of patches: {grids}.")
        return found

    def grid_in(self, domain: str, x: Tensor) -> tuple[int, int]:
        """How many patches lie along each axis of a map."""
        return grid_of(x.shape[-2:], self.config.patch_of(domain))

    def _check(self, domain: str, x: Tensor) -> None:
        """Raise ModelError unless a map has the axes, channels and numbers of its domain."""
        if domain == "semseg":
            if x.ndim != 3 or x.is_floating_point():
                raise ModelError(f"semseg must be whole class ids (B, H, W), found {tuple(x.shape)} {x.dtype}. Use the model's own `preprocess`.")
            if x.device.type == "cpu" and x.numel() and not 0 <= int(x.min()) <= int(x.max()) < self.config.semseg_classes:
                raise ModelError(f"semseg holds the ids {int(x.min())} to {int(x.max())}; the classes of this model are 0 to {self.config.semseg_classes - 1}.")
        elif x.ndim != 4 or x.shape[1] != self.config.channels(domain) or not x.is_floating_point():
            channels = self.config.channels(domain)
            raise ModelError(
                f"{KEYS[domain]} must be floating point numbers (B, {channels}, H, W), found {tuple(x.shape)} {x.dtype}. Use the model's own `preprocess`."
            )

    def embed_inputs(self, inputs: dict[str, Tensor]) -> Tensor:
        """Patches of all inputs one after another, with their positions, (B, N, D)."""
        return torch.cat([self.input_adapters[domain](x) for domain, x in inputs.items()], dim=1)

    def encode(self, x: Tensor) -> Tensor:
        """Patches (B, K, D) -> (B, K+G, D): the global tokens come last."""
        return self.encoder(torch.cat([x, self.global_tokens.expand(x.shape[0], -1, -1)], dim=1))

    def tokens(self, batch: Batch) -> Tensor:
        """All tokens, (B, N+G, D): the patches of the inputs in their order, then the global tokens."""
        return self.encode(self.embed_inputs(self.inputs(batch)))

    def embed(self, batch: Batch) -> Tensor:
        """One vector per sample, (B, D): `pooled` of the tokens."""
        return self.pooled(self.tokens(batch))

    def pooled(self, tokens: Tensor) -> Tensor:
        """(B, N+G, D) -> (B, D): the mean of all tokens, the global ones included, which is what the official classifier reads."""
        return tokens.mean(dim=1)

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        tokens = self.tokens(batch)
        return {"features": self.pooled(tokens), "tokens": tokens}

    def require_preprocess(self, preprocess: Preprocess, where: str) -> None:
        super().require_preprocess(preprocess, where)
        c = self.config
        read = (c.in_domains, c.semseg_classes, c.semseg_stride)
        paired = isinstance(preprocess, PairedPreprocess)
        made = (preprocess.domains, preprocess.semseg_classes, preprocess.semseg_stride) if paired else (("rgb",), *read[1:])
        if made != read:
            raise CheckpointError(
                f"{where}: its preprocessing makes (inputs, classes and stride of semseg) {made}, and its model reads {read}. "
                "Use the preprocessor_config.json that came with this model."
            )

    def taken_preprocess(self, source: Model, preprocess: Preprocess) -> Preprocess | None:
        """That of the picture for this model's size, and beside it what the other inputs need."""
        c = self.config
        image = preprocess.image if isinstance(preprocess, PairedPreprocess) else preprocess
        image = image if (image.channels, *image.size) == self.input_shape() else image.adapted(self.input_shape())
        if image is None or c.in_domains == ("rgb",):
            return image
        names = getattr(preprocess, "semseg_names", ())
        return PairedPreprocess(image, c.in_domains, c.semseg_classes, c.semseg_stride, names if len(names) == c.semseg_classes else ())

    def snippet_words(self) -> dict[str, str]:
        """`inputs`: what `preprocess` takes, as Python."""
        domains = self.config.in_domains
        files = ", ".join(f'"{domain}": ["{EXAMPLES[domain]}"]' for domain in domains)
        return {"inputs": f'["{EXAMPLES["rgb"]}"]' if domains == ("rgb",) else f"{{{files}}}"}

    def token_count(self) -> int:
        return len(self.config.in_domains) * math.prod(self.config.grid) + self.config.num_global_tokens

    def no_weight_decay(self) -> set[str]:
        """Global tokens, position tables and mask tokens."""
        return {name for name, _ in self.named_parameters() if name == "global_tokens" or name.endswith((".pos_emb", ".mask_token"))}

    def layer_ids(self) -> dict[str, int]:
        """Depth of each parameter for layer decay: 0 inputs and global tokens, i+1 block i, depth+1 the rest."""
        return {name: self._layer_id(name) for name, _ in self.named_parameters()}

    def _layer_id(self, name: str) -> int:
        if name == "global_tokens" or name.startswith("input_adapters."):
            return 0
        return int(name.split(".")[1]) + 1 if name.startswith("encoder.") else self.config.depth + 1

    @classmethod
    def change_from(cls, source: type[Model], old: MultiInputConfig, new: MultiInputConfig, new_head: bool = False) -> Change:
        """Inputs that are left out or new; another grid resizes the position maps; other channels or patches adapt the patch embeddings."""
        adapted: dict[str, Adaptation] = {}
        for domain in (d for d in new.in_domains if d in old.in_domains):
            name = f"input_adapters.{domain}"
            if old.grid != new.grid:
                adapted[f"{name}.pos_emb"] = adapted_map(old.grid, new.grid, ClassInput.mode if domain == "semseg" else PatchedInput.mode)
            channels, patch = new.channels(domain), new.patch_of(domain)
            if (old.channels(domain), old.patch_of(domain)) != (channels, patch):
                adapted[f"{name}.proj.weight"] = Adaptation(
                    f"{old.channels(domain)} channels of {old.patch_of(domain)} pixels to {channels} of {patch}",
                    lambda weight, channels=channels, patch=patch: adapt_patch_embedding(weight, channels, patch),
                )
        fresh = tuple(Rule(rf"input_adapters\.{d}\..*", "an input that the checkpoint does not know") for d in new.in_domains if d not in old.in_domains)
        unused = tuple(Rule(rf"input_adapters\.{d}\..*", "this input was not asked for") for d in old.in_domains if d not in new.in_domains)
        return Change(adapted, fresh, unused)

    def init_new(self, names: set[str]) -> None:
        """New inputs start as in a new model."""
        for domain in sorted({name.split(".")[1] for name in names if name.startswith("input_adapters.")}):
            self.input_adapters[domain] = input_adapter(self.config, domain)


def adapted_map(old: tuple[int, int], new: tuple[int, int], mode: str) -> Adaptation:
    """How a position map comes to another grid."""
    how = f"position map interpolated from {old[0]} x {old[1]} to {new[0]} x {new[1]} patches"
    return Adaptation(how, lambda table: resized_map(table, new, mode))
