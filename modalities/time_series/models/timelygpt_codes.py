"""TimelyGPT for irregular sequences of codes, as of diagnoses: what comes next, given codes and when they came (Song et al. 2024, arXiv 2312.00817).

Written from the formulas. With `causal=False` it computes what li-lab-mcgill/TimelyGPT@27de224 `TimelyGPT_ISTS` computes, whose convolutions see the
code that is to be said. Retention fades with the time between two visits. As there, the times are those of the code that is predicted, since the
tokens are moved by one and the times are not. Letters: B batch, L codes, V vocabulary, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.linear import Linear
from modalities.common.model import Model
from modalities.time_series.codes import CodesPreprocess
from modalities.time_series.models.timelygpt_blocks import TimelyGPTBlocksConfig, new_blocks, new_start
from trainer.errors import ConfigError, DataError, shorten
from trainer.objective import Batch

FORGETS = 1 / 64
"""What the first head forgets per unit of time."""
PADDING = 0
"""The code that stands for nothing."""


@dataclass(frozen=True)
class TimelyGPTCodesConfig(TimelyGPTBlocksConfig):
    """TimelyGPT for codes. The defaults are the authors', but for `causal` and the trained embedding."""

    codes: tuple[int, ...] = (1,)
    """The codes that are known, in the order of the table; any other is taken for padding."""
    frozen_embedding: bool = False
    """Leave the table of codes as it is (the authors load one that was made elsewhere)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.codes or len(set(self.codes)) < len(self.codes) or PADDING in self.codes:
            raise ConfigError(f"codes must be different numbers without {PADDING}, which is padding; found {shorten(self.codes)}.")


class TimelyGPTCodes(Model):
    """Input `code` (B, L) int64, 0 for padding, and `time` (B, L) float, not falling along a sequence. `forward` gives logits (B, L, V + 1): at place n
    of the code n, from those before it and all times up to it; the last one is padding. `embed` gives the mean over the codes."""

    system = "time_series/timelygpt-codes"
    config_class = TimelyGPTCodesConfig
    input_key = "code"
    parts = {"token_embedding.": "table of codes", "head.": "head"}

    def __init__(self, config: TimelyGPTCodesConfig) -> None:
        super().__init__(config)
        width, rows = config.embed_dim, len(config.codes) + 1
        self.token_embedding = nn.ModuleDict({"emb": nn.Embedding(rows, width)})
        self.token_embedding["emb"].requires_grad_(not config.frozen_embedding)
        self.sos = new_start(width)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = new_blocks(config, FORGETS)
        self.ln_f = nn.LayerNorm(width)
        self.head = nn.ModuleDict({"head": Linear(width, rows)})
        known, rows = torch.tensor(config.codes).sort()
        self.known, self.rows = nn.Buffer(known, persistent=False), nn.Buffer(rows, persistent=False)

    def places(self, codes: Tensor) -> Tensor:
        """The row of each code (B, L) in the table; the last one for padding and what is not known."""
        found = torch.searchsorted(self.known, codes).clamp(max=len(self.known) - 1)
        return torch.where(self.known[found] == codes, self.rows[found], len(self.known))

    def encode(self, places: Tensor, times: Tensor) -> list[Tensor]:
        """Rows of the table and times, (B, L) -> what each block says, and its norm at the end, (B, L, D)."""
        x = self.token_embedding["emb"](places[:, :-1])
        states = [self.drop(torch.cat([self.sos.expand(len(x), 1, -1), x], 1))]
        for block in self.blocks:
            states.append(block(states[-1], times))
        return [*states[1:], self.ln_f(states[-1])]

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, L, V + 1)."""
        return self.head["head"](self.tokens(batch))

    def loss(self, logits: Tensor, places: Tensor) -> Tensor:
        """Cross entropy of the codes, (B, L) of them, padding left out; its sum, for the objective divides by their number."""
        return F.cross_entropy(logits.flatten(0, 1), places.flatten(), ignore_index=len(self.known), reduction="sum")

    def tokens(self, batch: Batch) -> Tensor:
        codes, times = batch["code"], batch.get("time")
        if codes.ndim != 2 or codes.is_floating_point() or times is None or times.shape != codes.shape:
            raise DataError(
                f"TimelyGPT for codes reads `code` (B, L) whole numbers and `time` (B, L), found {codes.dtype} of shape {tuple(codes.shape)} and "
                f"{'no times' if times is None else tuple(times.shape)}."
            )
        if (times.diff(dim=1) < 0).any():
            raise DataError("The `time` of a code lies before that of the code before it. Sort the codes of each sequence by time.")
        return self.encode(self.places(codes), times)[-1]

    def embed(self, batch: Batch) -> Tensor:
        seen = (self.places(batch["code"]) < len(self.known))[..., None]
        return (self.tokens(batch) * seen).sum(1) / seen.sum(1).clamp(min=1)

    def input_in_words(self) -> str:
        return f"`code`: whole numbers, of which {len(self.config.codes)} are known; `time`: when each came"

    def default_preprocess(self) -> CodesPreprocess:
        return CodesPreprocess()

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        return {"features": self.embed(batch), "tokens": self.tokens(batch), "logits": self.forward(batch)}
