"""A ViT classifier over an encoder of any number of dimensions: how masked auto-encoders are fine-tuned or probed.

With `global_pool` "avg" or "token" it computes what timm's `VisionTransformer` computes (checked).
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from modalities.common.classifier import Classifier, HeadFields
from modalities.common.loading import Change, Rule
from modalities.common.model import Model
from modalities.common.vit import ViTConfig, ViTEncoder

LAST_NORM = r"norm\..*"
"""The names of the encoder's last norm."""


@dataclass(frozen=True)
class ViTClassifierConfig(ViTConfig, HeadFields):
    """A ViT encoder, the way to pool its tokens, and a linear head."""

    pool: Literal["avg", "token"] = "avg"
    """avg: mean of the patch tokens (without class token) of the last block, then `fc_norm`. token: `norm`, then the first token."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_head()


class ViTClassifier(Classifier, ViTEncoder):
    """Input (B, C, *input_size) float, normalised as `preprocess` says; `forward` gives logits (B, num_classes).

    `tokens` come after `norm` with pool "token" and straight from the last block with pool "avg". The position
    table trains here, unlike in pre-training; for another input_size it is resized (bicubic). With pool "avg", `fc_norm` starts
    fresh on an encoder that was not fine-tuned so.
    """

    config_class = ViTClassifierConfig
    encoder_config = ViTConfig
    head_std = 2e-5
    parts = {"head.": "classification head", "fc_norm.": "norm of the mean", "": "encoder"}

    def __init__(self, config: ViTClassifierConfig) -> None:
        super().__init__(config)
        if config.pool == "avg":
            self.norm = nn.Identity()
            self.fc_norm = self._new_norm()
        self.head = self.new_head()
        self.freeze()

    def _new_norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.config.embed_dim, eps=self.config.norm_eps)

    def pooled(self, tokens: Tensor) -> Tensor:
        """(B, P+L, D) -> the vector that the head sees, (B, D), `fc_norm` or `norm` applied."""
        return tokens[:, 0] if self.config.pool == "token" else self.fc_norm(super().pooled(tokens))

    def no_weight_decay(self) -> set[str]:
        return {"cls_token", "pos_embed"}

    @classmethod
    def from_encoder(cls, encoder: Model, num_classes: int, pool: Literal["avg", "token"] = "avg", **changes: Any) -> "ViTClassifier":
        """As `Classifier.from_encoder`, pooled as `pool` says."""
        return super().from_encoder(encoder, num_classes, pool=pool, **changes)

    @classmethod
    def for_task(cls, task: str, config: ViTConfig, num_outputs: int | None, changes: dict[str, Any]) -> ViTClassifierConfig:
        """As `Classifier.for_task`; a classifier stays pooled as it is, an encoder that had no head is pooled as MAE fine-tunes ("avg"), unless `changes` say otherwise."""
        if isinstance(config, ViTClassifierConfig) and config.num_classes > 0:
            changes = {"pool": config.pool, **changes}
        return super().for_task(task, config, num_outputs, changes)

    @classmethod
    def change_from(cls, source: type[Model], old: ViTConfig, new: ViTClassifierConfig, new_head: bool = False) -> Change:
        """The encoder's changes; a decoder and the old head stay behind, and pooling by the mean has a norm of its own."""
        change = super().change_from(source, old, new, new_head)
        fresh, unused = [], []
        if not isinstance(old, ViTClassifierConfig):
            unused.append(Rule(r"decoder_.*|mask_token", "only pre-training needs it"))
        if new.pool == "avg" and getattr(old, "pool", None) != "avg":
            unused.append(Rule(LAST_NORM, "pool='avg' norms the mean instead (fc_norm)"))
            fresh.append(Rule(r"fc_norm\..*", "the norm of the mean, pool='avg'"))
        return cls.head_change(Change(change.adapted, tuple(fresh), tuple(unused)), old, new, new_head)

    def init_new(self, names: set[str]) -> None:
        """The head and the norm before it start as in a new model."""
        if any(name.startswith("fc_norm.") for name in names):
            self.fc_norm = self._new_norm()
        super().init_new(names)
