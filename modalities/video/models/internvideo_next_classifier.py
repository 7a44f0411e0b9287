"""A video classifier on the encoder of InternVideo-Next: fine-tuned whole, or a probe on the frozen encoder (Wang et al. 2026, arXiv 2512.01342, section 4).

The authors evaluate with a linear and an attentive probe. Ours: the norm before the head, and what starts the attentive probe (the encoder's pooling).
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from modalities.common.classifier import Classifier, HeadFields
from modalities.common.loading import Change, Rule
from modalities.common.model import Model
from modalities.video.models.internvideo_next import POOL, InternVideoNext, InternVideoNextConfig
from trainer.errors import ConfigError, DataError
from trainer.objective import Batch


@dataclass(frozen=True)
class InternVideoNextClassifierConfig(InternVideoNextConfig, HeadFields):
    """The encoder, the way to pool its tokens, and a linear head."""

    num_classes: int = 400
    """Outputs of the head. 0: no head, the logits are the features."""
    pool: Literal["avg", "attention"] = "avg"
    """avg: the mean of the patch tokens. attention: the attention pooling over all tokens, which is trained in any case (attentive probe)."""
    head_dropout: float = 0.0
    """Dropout before the head while training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_head()
        if not 0 <= self.head_dropout < 1:
            raise ConfigError(f"head_dropout is a rate from 0 up to but not 1, found {self.head_dropout}.")


class InternVideoNextClassifier(Classifier, InternVideoNext):
    """Input `video` (B, C, T, H, W) float, normalised as `preprocess` says; `forward` gives logits (B, num_classes).

    `embed` is what the head sees: the pooled tokens after a layer norm (`fc_norm`). In a probe that norm and an attention pooling train, too.
    """

    system = "video/internvideo-next-classifier"
    config_class = InternVideoNextClassifierConfig
    encoder_config = InternVideoNextConfig
    head_std = 0.01
    parts = {"head.": "classification head", "fc_norm.": "norm of the pooled tokens", **InternVideoNext.parts}

    def __init__(self, config: InternVideoNextClassifierConfig) -> None:
        super().__init__(config)
        self.fc_norm = self._new_norm()
        self.head_drop = nn.Dropout(config.head_dropout)
        self.head = self.new_head()
        self.freeze()

    @property
    def head_width(self) -> int:
        return self.config.embed_dim if self.config.pool == "avg" else self.config.pool_dim

    def _new_norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.head_width, eps=1e-6)

    def freeze(self) -> None:
        """In a probe only head, norm and attention pooling train; a pooling that is not used never does."""
        trained = ("head.", "fc_norm.", *([f"{POOL}."] if self.config.pool == "attention" else []))
        for name, parameter in self.named_parameters():
            own = name.startswith(trained)
            parameter.requires_grad_(own if self.config.head == "probe" or name.startswith(f"{POOL}.") else True)

    def pooled(self, x: Tensor) -> Tensor:
        """(B, P+L, D), class tokens first -> the vector that the head sees."""
        return self.fc_norm(self.clip_projector(x) if self.config.pool == "attention" else x[:, self.prefix :].mean(dim=1))

    def embed(self, batch: Batch) -> Tensor:
        """What the head sees, (B, head_width)."""
        return self.pooled(self.encode(self.input(batch))[0])

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        """features (B, head_width), tokens (B, L, D) and, with a head, logits (B, num_classes)."""
        x = self.encode(self.input(batch))[0]
        found = {"features": self.pooled(x), "tokens": x[:, self.prefix :]}
        return found | ({"logits": self.head(found["features"])} if self.config.num_classes else {})

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, num_classes)."""
        features = self.embed(batch)
        if self.training and self.config.head == "probe" and features.shape[0] < 2:
            raise DataError("A probe normalises over the batch, so a training batch needs at least 2 samples, found 1.")
        return self.head(self.head_drop(features))

    def train(self, mode: bool = True) -> "InternVideoNextClassifier":
        """Training mode; the frozen blocks of a probe stay in evaluation mode."""
        InternVideoNext.train(self, mode)
        if self.config.head == "probe":
            self.blocks.eval()
        return self

    @classmethod
    def for_task(cls, task: str, config: InternVideoNextConfig, num_outputs: int | None, changes: dict[str, Any]) -> InternVideoNextClassifierConfig:
        """As `Classifier.for_task`; a classifier stays pooled as it is."""
        if isinstance(config, InternVideoNextClassifierConfig) and config.num_classes > 0:
            changes = {"pool": config.pool, **changes}
        return super().for_task(task, config, num_outputs, changes)

    @classmethod
    def change_from(cls, source: type[Model], old: InternVideoNextConfig, new: InternVideoNextClassifierConfig, new_head: bool = False) -> Change:
        """The encoder's changes; the old head stays behind."""
        change = super().change_from(source, old, new, new_head)
        fresh, unused = [], []
        if not isinstance(old, InternVideoNextClassifierConfig) or old.pool != new.pool:
            fresh.append(Rule(r"fc_norm\..*", "the norm of the pooled tokens"))
            if isinstance(old, InternVideoNextClassifierConfig):
                unused.append(Rule(r"fc_norm\..*", "another pooling was asked for"))
        return cls.head_change(Change(change.adapted, tuple(fresh), tuple(unused)), old, new, new_head)

    def init_new(self, names: set[str]) -> None:
        """The norm and the head start as in a new model."""
        if any(name.startswith("fc_norm.") for name in names):
            self.fc_norm = self._new_norm()
        super().init_new(names)
