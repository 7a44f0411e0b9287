"""The classifier with which MultiMAE is fine-tuned, on any of its inputs (Bachmann et al. 2022, arXiv 2204.01678, section 4).

Computes what EPFL-VILAB/MultiMAE@66910f5 `multimae.py:MultiViT` with `LinearOutputAdapter` computes (checked against its outputs).
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from modalities.common.classifier import Classifier, HeadFields
from modalities.common.loading import Change, Rule
from modalities.common.model import Model
from modalities.vision.models.multi_input import MultiInputConfig, MultiInputEncoder
from trainer.errors import ConfigError

HEAD = "output_adapters.cls."
"""Where the official code has the norm of the pooled tokens and the head."""


@dataclass(frozen=True)
class MultiViTConfig(MultiInputConfig, HeadFields):
    """The encoder, the way to pool its tokens, and a linear head."""

    pool: Literal["avg", "token"] = "avg"
    """avg: mean of all tokens, the global ones included. token: the last global token."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_head()
        if self.pool == "token" and not self.num_global_tokens:
            raise ConfigError("pool='token' needs num_global_tokens of at least 1. Use pool='avg' for an encoder without them.")


class MultiViT(Classifier, MultiInputEncoder):
    """Reads `image`, `depth`, `semseg` as far as they are among its inputs; `forward` gives logits (B, num_classes)."""

    system = "vision/multivit"
    config_class = MultiViTConfig
    encoder_config = MultiInputConfig
    head_at = f"{HEAD}head"
    head_std = 2e-5
    parts = {"input_adapters.": "inputs", f"{head_at}.": "classification head", HEAD: "norm of the pooled tokens", "": "encoder"}

    def __init__(self, config: MultiViTConfig) -> None:
        super().__init__(config)
        self.output_adapters = nn.ModuleDict({"cls": nn.ModuleDict({"norm": self._new_norm(), "head": self.new_head()})})
        self.freeze()

    def _new_norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.config.embed_dim, eps=self.config.norm_eps)

    def freeze(self) -> None:
        """As `Classifier.freeze`; the position maps are fixed in any case."""
        super().freeze()
        for adapter in self.input_adapters.values():
            adapter.pos_emb.requires_grad_(False)

    def pooled(self, tokens: Tensor) -> Tensor:
        """(B, N+G, D) -> the vector that the head's last layer sees, (B, D), normed."""
        return self.output_adapters["cls"]["norm"](tokens[:, -1] if self.config.pool == "token" else tokens.mean(dim=1))

    @classmethod
    def for_task(cls, task: str, config: MultiInputConfig, num_outputs: int | None, changes: dict[str, Any]) -> MultiViTConfig:
        """As `Classifier.for_task`; a classifier stays pooled as it is, unless `changes` say otherwise."""
        if isinstance(config, MultiViTConfig) and config.num_classes > 0:
            changes = {"pool": config.pool, **changes}
        return super().for_task(task, config, num_outputs, changes)

    @classmethod
    def change_from(cls, source: type[Model], old: MultiInputConfig, new: MultiViTConfig, new_head: bool = False) -> Change:
        """The encoder's changes; decoders or another task's head stay behind, and on an encoder that had no such head the norm before it is new."""
        change = super().change_from(source, old, new, new_head)
        if not isinstance(old, MultiViTConfig):
            left = Rule(r"output_adapters\..*", "only another task needs it")
            change = Change(change.adapted, (*change.new, Rule(r"output_adapters\.cls\.norm\..*", "the norm of the pooled tokens")), (*change.unused, left))
        return cls.head_change(change, old, new, new_head)

    def init_new(self, names: set[str]) -> None:
        """New inputs, the norm and the head start as in a new model."""
        if any(name.startswith(f"{HEAD}norm.") for name in names):
            self.output_adapters["cls"]["norm"] = self._new_norm()
        super().init_new(names)
