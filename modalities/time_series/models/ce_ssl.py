"""The ECG classifier of CE-SSL: convolutions and a causal transformer over twelve leads, with low-rank updates for fine-tuning (Zhou et al. 2024, arXiv 2406.14377).

Computes what KAZABANA/CE-SSL@820d20f `model_code_default.py:NN_default` computes. Three residual blocks of convolutions shorten the record by 64, GPT-2's
attention (a token sees earlier ones only) mixes what is left, the largest value over time goes through two linear layers.
Letters: B batch, C leads, T points, N = T / 64 tokens, D width, K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.classifier import HeadFields
from modalities.common.linear import linear
from modalities.common.loading import Change, Rule
from modalities.common.low_rank import LowRank, LowRankLinear, low_rank_layers
from modalities.common.model import Model
from modalities.common.positions import sincos_table
from modalities.time_series.models.forecaster import require_series
from modalities.time_series.preprocess import SeriesPreprocess
from trainer import config as settings
from trainer.errors import ConfigError, ModelError
from trainer.objective import Batch

KERNEL, STRIDE, HEADS = 9, 4, 16
"""Points that a convolution reads; by how much a block shortens the record; attention heads of all sizes."""
LAST = "classifier.0"
"""The layer whose update is never left out."""


@dataclass(frozen=True)
class CESSLConfig(HeadFields):
    """The architecture. The defaults are the authors' base model, for the 6 labels of CODE-15 %."""

    in_chans: int = 12
    """Leads."""
    embed_dim: int = 256
    """Width; a multiple of 16."""
    conv_blocks: int = 3
    """Residual blocks of convolutions, each of which shortens the record by 4."""
    depth: int = 8
    """Transformer blocks."""
    longest: int = 200
    """Rows of the table of positions, of which a record needs one per token."""
    mask_length: int = 96
    """Tokens for which the official code stores its causal mask. Longer records are read as well."""
    num_classes: int = 6
    """Outputs of the head. 0: no head, only features."""
    multi_label: bool = True
    """Every output is a yes or no of its own; else they are classes of which one is right."""
    ranks: tuple[int, ...] = ()
    """Rank of the low-rank update of each layer: three of each convolution block, query-key-value, fc1 and fc2 of each transformer block, the first layer of the
    classifier. One number stands for all; none: no updates."""
    skip: float = 0.0
    """Probability that a forward pass leaves out the update of a layer (random deactivation; the authors: 0.2). Merging scales the update by the rest."""

    def __post_init__(self) -> None:
        self.check_head()
        for name in ("in_chans", "embed_dim", "conv_blocks", "longest", "mask_length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, found {getattr(self, name)}.")
        if self.embed_dim % HEADS or self.depth < 0 or self.head != "linear":
            raise ConfigError(f"embed_dim must be a multiple of {HEADS}, depth at least 0 and head linear; found {self.embed_dim}, {self.depth} and {self.head}.")
        if len(self.ranks) not in (0, 1, self.updated_layers) or any(rank < 0 for rank in self.ranks) or not 0 <= self.skip < 1:
            raise ConfigError(
                f"ranks needs none, one or {self.updated_layers} numbers of at least 0 and skip a probability below 1, found {len(self.ranks)} and {self.skip}."
            )

    @property
    def updated_layers(self) -> int:
        """Layers that can have a low-rank update."""
        return 3 * self.conv_blocks + 3 * self.depth + (self.num_classes > 0)


class Conv(LowRank, nn.Module):
    """A convolution over time (B, I, T) -> (B, O, T'), with the official 2-D weights (O, I, 1, points)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, (1, kernel), (1, stride), (0, kernel // 2))
        self.set_rank(0)

    @property
    def updated_weight(self) -> nn.Parameter:
        return self.conv.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.present_weight().squeeze(2), self.conv.bias, self.conv.stride[1], self.conv.padding[1])


class ConvBlock(nn.Module):
    """Two convolutions with batch norm, the first of which shortens the record, beside its averages."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = Conv(inputs, width, KERNEL, STRIDE), Conv(width, width, KERNEL), Conv(inputs, width, 1)
        self.bn1, self.bn2 = nn.BatchNorm1d(width), nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, T) -> (B, D, T / 4)."""
        y = F.leaky_relu(self.bn1(self.conv1(x)))
        y = F.leaky_relu(self.bn2(self.conv2(y)))
        return y + self.conv3(F.avg_pool1d(x, STRIDE))


class InputsFirst(LowRank, nn.Module):
    """A linear layer whose weights are stored as (I, O), as GPT-2's are."""

    inputs_first = True

    def __init__(self, inputs: int, outputs: int, shares: int = 1) -> None:
        super().__init__()
        self.shares = shares
        self.weight, self.bias = nn.Parameter(torch.empty(inputs, outputs)), nn.Parameter(torch.zeros(outputs))
        nn.init.normal_(self.weight, std=0.02)
        self.set_rank(0)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.present_weight().T, self.bias)


class Attention(nn.Module):
    """Multi-head attention of a token to itself and earlier ones."""

    def __init__(self, width: int, mask_length: int) -> None:
        super().__init__()
        self.c_attn, self.c_proj = InputsFirst(width, 3 * width, 3), InputsFirst(width, width)
        self.register_buffer("bias", torch.ones(mask_length, mask_length).tril()[None, None])  # stored by the official code; a mask of any length follows from the order

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        q, k, v = self.c_attn(x).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return self.c_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and feed-forward, each on a norm and added."""

    def __init__(self, width: int, mask_length: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attention = Attention(width, mask_length)
        self.fc1, self.fc2 = LowRankLinear(width, 4 * width), LowRankLinear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = x + self.self_attention(self.norm1(x))
        return x + self.fc2(F.leaky_relu(self.fc1(self.norm2(x))))


class CESSL(Model):
    """Input `series` (B, C, T) float: ECG leads, each with mean 0 and deviation 1 over the record; 0 where nothing was observed. T of at least 64, and up to 200 * 64.
    `forward` gives logits (B, K), `embed` the largest value of each feature over time (B, D)."""

    system = "time_series/ce-ssl"
    config_class = CESSLConfig
    input_key = "series"
    parts = {"classifier.": "classification head", "": "encoder"}

    def __init__(self, config: CESSLConfig) -> None:
        super().__init__(config)
        width = config.embed_dim
        self.encoder_layers = nn.ModuleList(ConvBlock(config.in_chans if i == 0 else width, width) for i in range(config.conv_blocks))
        self.position_encoding = nn.Module()
        self.position_encoding.register_buffer("positional_encoding", sincos_table(width, (config.longest,), "interleaved", prefix=0)[0])
        self.transformer_layers = nn.ModuleList(Block(width, config.mask_length) for _ in range(config.depth))
        self.classifier = nn.Sequential(*([LowRankLinear(width, width), nn.Linear(width, config.num_classes)] if config.num_classes else []))
        layers = self.updated_layers()
        ranks = config.ranks * len(layers) if len(config.ranks) == 1 else config.ranks
        for (name, layer), rank in zip(layers.items(), ranks):
            layer.set_rank(rank, 0.0 if name == LAST else config.skip)

    def updated_layers(self) -> dict[str, LowRank]:
        """The layers that can have an update, in the order of `ranks`."""
        return {name: layer for name, layer in self.named_modules() if isinstance(layer, LowRank) and not name.endswith("c_proj")}

    def convolved(self, series: Tensor) -> Tensor:
        """Records (B, C, T) -> (B, D, N): all that batch norm sees. ModelError for records of another kind or length."""
        config, shortest = self.config, STRIDE**self.config.conv_blocks
        if series.shape[1] != config.in_chans or not shortest <= series.shape[2] < shortest * (config.longest + 1):
            raise ModelError(
                f"This model reads {config.in_chans} leads of {shortest} to {shortest * config.longest} points, found {tuple(series.shape[1:])}. Cut or fill up the records."
            )
        for block in self.encoder_layers:
            series = block(series)
        return series

    def mixed(self, convolved: Tensor) -> Tensor:
        """(B, D, N) -> tokens (B, N, D)."""
        x = convolved.transpose(1, 2)
        x = x + self.position_encoding.positional_encoding[: x.shape[1]]
        for block in self.transformer_layers:
            x = block(x)
        return x

    def tokens(self, batch: Batch) -> Tensor:
        return self.mixed(self.convolved(require_series(batch)["series"]))

    def embed(self, batch: Batch) -> Tensor:
        return self.tokens(batch).amax(1)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, K)."""
        return self.classifier(self.embed(batch))

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        tokens = self.tokens(batch)
        found = {"features": tokens.amax(1), "tokens": tokens}
        return found | ({"logits": self.classifier(found["features"])} if self.config.num_classes else {})

    def input(self, batch: Batch) -> Tensor:
        """The records of a batch, (B, C, T)."""
        return require_series(batch)["series"]

    def merged(self) -> "CESSL":
        """The plain model, with all updates put into its weights; this one is used up."""
        for layer in low_rank_layers(self).values():
            layer.merge()
        plain = CESSL.from_state(settings.replace(self.config, {"ranks": (), "skip": 0.0}), self.state_dict(), "the merged model")
        plain.name, plain.preprocess, plain.licence = self.name, self.preprocess, self.licence
        return plain

    def input_in_words(self) -> str:
        return f"`series`: {self.config.in_chans} ECG leads of any length up to {STRIDE**self.config.conv_blocks * self.config.longest:,} points, each with mean 0 and deviation 1"

    def default_preprocess(self) -> SeriesPreprocess:
        return SeriesPreprocess()

    @classmethod
    def for_task(cls, task: str, config: CESSLConfig, num_outputs: int | None, changes: dict) -> CESSLConfig:
        """A classifier on the encoder; with `num_outputs` its last layer is new."""
        classes = config.num_classes if num_outputs is None else num_outputs
        if classes < 1:
            raise ConfigError(f"The task {task!r} needs a head: say num_outputs, a whole number of at least 1, found {num_outputs!r}.")
        fresh = {"class_names": ()} if num_outputs is not None else {}
        return settings.replace(config, {"num_classes": classes, **fresh, **changes})

    @classmethod
    def change_from(cls, source: type[Model], old: CESSLConfig, new: CESSLConfig, new_head: bool = False) -> Change:
        """The last layer may be new, the first of the head with it where there was none, and updates may be added."""
        last, updates = r"classifier\.1\..*", r".*\.lora_[AB]"
        drop = bool(old.num_classes) and (new_head or new.num_classes != old.num_classes)
        unused = (Rule(last if new.num_classes else r"classifier\..*", "another head was asked for"),) if drop else ()
        fresh = (Rule(last if old.num_classes else r"classifier\.\d\.[wb].*", f"for {new.num_classes} outputs"),) if new.num_classes and (drop or not old.num_classes) else ()
        if any(new.ranks) and old.ranks != new.ranks:
            fresh += (Rule(updates, "a fresh low-rank update"),)
        if any(old.ranks) and old.ranks != new.ranks:
            unused += (Rule(updates, "other ranks were asked for; merge the updates first to keep them"),)
        return Change(new=fresh, unused=unused)

    def init_new(self, names: set[str]) -> None:
        """A new head and new updates start as in a new model."""
        started = CESSL(self.config)
        for name in names:
            owner, _, leaf = name.rpartition(".")
            setattr(self.get_submodule(owner), leaf, nn.Parameter(started.get_parameter(name).detach()))
