"""A video classifier on the encoder of InternVideo-Next: fine-tuned whole, or a probe on the frozen encoder (Wang et al. 2026, arXiv 2512.01342, section 4).

The authors evaluate with a linear and an attentive probe. Ours: the norm before the head, and what starts the attentive probe (the encoder's pooling).
"""

from dataclasses import dataclass, fields
from typing import Any, Literal

from torch import Tensor, nn

from modalities.common.classifier import head_change, task_config
from modalities.common.loading import Change, Rule, transplant
from modalities.common.model import Model
from modalities.video.models.internvideo_next import POOL, InternVideoNext, InternVideoNextConfig
from trainer.errors import ConfigError, DataError
from trainer.objective import Batch


@dataclass(frozen=True)
class InternVideoNextClassifierConfig(InternVideoNextConfig):
    """The encoder, the way to pool its tokens, and a linear head."""

    num_classes: int = 400
    """Outputs of the head. 0: no head, the logits are the features."""
    pool: Literal["avg", "attention"] = "avg"
    """avg: the mean of the patch tokens. attention: the attention pooling over all tokens, which is trained in any case (attentive probe)."""
    head: Literal["linear", "probe"] = "linear"
    """linear: the whole network is trained. probe: the encoder is frozen, and a batch norm without parameters stands before the linear layer."""
    head_dropout: float = 0.0
    """Dropout before the head while training."""
    class_names: tuple[str, ...] = ()
    """What the outputs stand for, in order; empty when unknown."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_classes < 0 or (self.head == "probe" and self.num_classes < 1):
            raise ConfigError(f"num_classes must be at least 1 for a probe, 0 (no head) or more else, found {self.num_classes}.")
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ConfigError(f"class_names has {len(self.class_names)} names for num_classes={self.num_classes}. Give one per class, or none.")
        if not 0 <= self.head_dropout < 1:
            raise ConfigError(f"head_dropout is a rate from 0 up to but not 1, found {self.head_dropout}.")


class InternVideoNextClassifier(InternVideoNext):
    """Input `video` (B, C, T, H, W) float, normalised as `preprocess` says; `forward` gives logits (B, num_classes).

    `embed` is what the head sees: the pooled tokens after a layer norm (`fc_norm`).
    """

    system = "video/internvideo-next-classifier"
    config_class = InternVideoNextClassifierConfig
    parts = {"head.": "classification head", "fc_norm.": "norm of the pooled tokens", **InternVideoNext.parts}

    def __init__(self, config: InternVideoNextClassifierConfig) -> None:
        super().__init__(config)
        self.fc_norm = self._new_norm()
        self.head_drop = nn.Dropout(config.head_dropout)
        self.head = self._new_head()
        self._freeze()

    def _new_norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.config.embed_dim if self.config.pool == "avg" else self.config.pool_dim, eps=1e-6)

    def _new_head(self) -> nn.Module:
        width, classes, probe = self.fc_norm.normalized_shape[0], self.config.num_classes, self.config.head == "probe"
        if classes == 0:
            return nn.Identity()
        linear = nn.Linear(width, classes)
        nn.init.trunc_normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
        return nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6), linear) if probe else linear

    def _freeze(self) -> None:
        """In a probe only head, norm and attention pooling train; a pooling that is not used never does."""
        trained = ("head.", "fc_norm.", *([f"{POOL}."] if self.config.pool == "attention" else []))
        for name, parameter in self.named_parameters():
            own = name.startswith(trained)
            parameter.requires_grad_(own if self.config.head == "probe" or name.startswith(f"{POOL}.") else True)

    def pooled(self, x: Tensor) -> Tensor:
        """(B, P+L, D), class tokens first -> the vector that the head sees."""
        return self.fc_norm(self.clip_projector(x) if self.config.pool == "attention" else x[:, self.prefix :].mean(dim=1))

    def embed(self, batch: Batch) -> Tensor:
        return self.pooled(self.encode(self.input(batch))[0])

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
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
        super().train(mode)
        if self.config.head == "probe":
            self.blocks.eval()
        return self

    @classmethod
    def from_encoder(cls, encoder: InternVideoNext, num_classes: int, **changes: Any) -> "InternVideoNextClassifier":
        """A classifier on the weights of an encoder; norm and head start fresh. `changes` are further config fields.

        The preprocessing is taken over, for the new size, and the licence of the weights. Raises ModelError when a weight is missing.
        """
        shared = {f.name: getattr(encoder.config, f.name) for f in fields(InternVideoNextConfig)}
        model = cls(cls.config_class(**{**shared, "num_classes": num_classes, **changes}))
        transplant(encoder, model, new_head=True)
        model.licence = encoder.licence
        if encoder.preprocess is not None:
            model.preprocess = encoder.preprocess.adapted(model.input_shape())
        return model.to(encoder.device)

    @classmethod
    def for_task(cls, task: str, config: InternVideoNextConfig, num_outputs: int | None, changes: dict[str, Any]) -> InternVideoNextClassifierConfig:
        """A classifier on an encoder. Without `num_outputs` it keeps the head that it has; with it the head is new."""
        return task_config(cls.config_class, InternVideoNextConfig, task, config, num_outputs, changes)

    @classmethod
    def change_from(cls, source: type[Model], old: InternVideoNextConfig, new: InternVideoNextClassifierConfig, new_head: bool = False) -> Change:
        """The encoder's changes; the old head stays behind."""
        change = super().change_from(source, old, new, new_head)
        fresh, unused = [], []
        if not isinstance(old, InternVideoNextClassifierConfig) or old.pool != new.pool:
            fresh.append(Rule(r"fc_norm\..*", "the norm of the pooled tokens"))
            if isinstance(old, InternVideoNextClassifierConfig):
                unused.append(Rule(r"fc_norm\..*", "another pooling was asked for"))
        head = head_change(old, new, new_head)
        return Change(change.adapted, (*fresh, *head.new), (*unused, *head.unused))

    def init_new(self, names: set[str]) -> None:
        """The norm and the head start as in a new model."""
        if any(name.startswith("fc_norm.") for name in names):
            self.fc_norm = self._new_norm()
        if any(name.startswith("head.") for name in names):
            self.head = self._new_head()
        self._freeze()
