"""A ViT classifier over an encoder of any number of dimensions: how masked auto-encoders are fine-tuned or probed.

With `global_pool` "avg" or "token" it computes what timm's `VisionTransformer` computes (checked).
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from modalities.common.loading import Change, Rule, transplant
from modalities.common.model import Model
from modalities.common.vit import ViTConfig, ViTEncoder
from trainer import config as settings
from trainer.errors import ConfigError, DataError
from trainer.objective import Batch

LAST_NORM = r"norm\..*"
"""The names of the encoder's last norm."""


@dataclass(frozen=True)
class ViTClassifierConfig(ViTConfig):
    """A ViT encoder, the way to pool its tokens, and a linear head."""

    num_classes: int = 1000
    """Outputs of the head. 0: no head, the logits are the features."""
    pool: Literal["avg", "token"] = "avg"
    """avg: mean of the patch tokens (without class token) of the last block, then `fc_norm`. token: `norm`, then the first token."""
    head: Literal["linear", "probe"] = "linear"
    """linear: the whole network trains. probe: only a linear layer behind a batch norm trains, on frozen features."""
    class_names: tuple[str, ...] = ()
    """What the outputs stand for, in order; empty when unknown."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_classes < 0:
            raise ConfigError(f"num_classes must be 0 (no head) or more, found {self.num_classes}.")
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ConfigError(f"class_names has {len(self.class_names)} names for num_classes={self.num_classes}. Give one per class, or none.")
        if self.head == "probe" and self.num_classes < 1:
            raise ConfigError("head='probe' needs num_classes of at least 1, found 0.")


class ViTClassifier(ViTEncoder):
    """Input (B, C, *input_size) float, normalised as `preprocess` says; `forward` gives logits (B, num_classes).

    `tokens` come after `norm` with pool "token" and straight from the last block with pool "avg". The position
    table trains here, unlike in pre-training. With head "probe" everything but the last linear layer is frozen
    and stays in evaluation mode.
    """

    config_class = ViTClassifierConfig
    encoder_config: ClassVar[type[ViTConfig]] = ViTConfig
    """The fields that a classifier shares with the encoder that it is made of."""
    parts = {"head.": "classification head", "fc_norm.": "norm of the mean", "": "encoder"}

    def __init__(self, config: ViTClassifierConfig) -> None:
        super().__init__(config)
        if config.pool == "avg":
            self.norm = nn.Identity()
            self.fc_norm = self._new_norm()
        self.head = self._new_head()
        self._freeze()

    def _new_norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.config.embed_dim, eps=self.config.norm_eps)

    def _new_head(self) -> nn.Module:
        width, classes, probe = self.config.embed_dim, self.config.num_classes, self.config.head == "probe"
        if classes == 0:
            return nn.Identity()
        linear = nn.Linear(width, classes)
        nn.init.trunc_normal_(linear.weight, std=0.01 if probe else 2e-5)
        nn.init.zeros_(linear.bias)
        return nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6), linear) if probe else linear

    def _freeze(self) -> None:
        """In a probe only the head trains; else everything, the position table included."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self.config.head != "probe" or name.startswith("head."))

    def pooled(self, tokens: Tensor) -> Tensor:
        """(B, P+L, D) -> the vector that the head sees, (B, D), `fc_norm` or `norm` applied."""
        return tokens[:, 0] if self.config.pool == "token" else self.fc_norm(super().pooled(tokens))

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        found = super().outputs(batch)
        return found | ({"logits": self.head(found["features"])} if self.config.num_classes else {})

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, num_classes)."""
        features = self.embed(batch)
        if self.training and self.config.head == "probe" and features.shape[0] < 2:
            raise DataError("A linear probe normalises over the batch, so a training batch needs at least 2 samples, found 1.")
        return self.head(features)

    def no_weight_decay(self) -> set[str]:
        return {"cls_token", "pos_embed"}

    def train(self, mode: bool = True) -> "ViTClassifier":
        """Training mode; the frozen trunk of a probe stays in evaluation mode."""
        super().train(mode)
        if self.config.head == "probe":
            for name, child in self.named_children():
                child.train(mode and name == "head")
        return self

    @classmethod
    def from_encoder(cls, encoder: ViTEncoder, num_classes: int, pool: Literal["avg", "token"] = "avg", **changes: Any) -> "ViTClassifier":
        """A classifier on the weights of an encoder; the head and, with pool "avg", `fc_norm` start fresh.

        `changes` are further config fields (head, drop_path, class_names, input_size, ...). For another
        input_size the position table is resized (bicubic). The preprocessing is taken over, for the new size, and the licence of the
        weights. Raises ModelError when a weight of the trunk is missing or has another shape.
        """
        shared = {name: getattr(encoder.config, name) for name in cls.encoder_config.__dataclass_fields__}
        model = cls(cls.config_class(**{**shared, "num_classes": num_classes, "pool": pool, **changes}))
        transplant(encoder, model, new_head=True)
        model.licence = encoder.licence
        if encoder.preprocess is not None:
            model.preprocess = encoder.preprocess.adapted(model.input_shape())
        return model.to(next(encoder.parameters()).device)

    @classmethod
    def for_task(cls, task: str, config: ViTConfig, num_outputs: int | None, changes: dict[str, Any]) -> ViTClassifierConfig:
        """A classifier on an encoder. Without `num_outputs` it keeps the head that it has; with it the head is new.

        An encoder that had no head is pooled as MAE fine-tunes ("avg"), unless `changes` say otherwise. ConfigError when there is
        no head to keep.
        """
        return task_config(cls.config_class, cls.encoder_config, task, config, num_outputs, changes)

    @classmethod
    def change_from(cls, source: type[Model], old: ViTConfig, new: ViTClassifierConfig, new_head: bool = False) -> Change:
        """The encoder's changes; a decoder and the old head stay behind, and pooling by the mean has a norm of its own."""
        change = super().change_from(source, old, new, new_head)
        fresh, unused = [], []
        stored_pool = getattr(old, "pool", None)
        if not isinstance(old, ViTClassifierConfig):
            unused.append(Rule(r"decoder_.*|mask_token", "only pre-training needs it"))
        if new.pool == "avg" and stored_pool != "avg":
            unused.append(Rule(LAST_NORM, "pool='avg' norms the mean instead (fc_norm)"))
            fresh.append(Rule(r"fc_norm\..*", "the norm of the mean, pool='avg'"))
        head = head_change(old, new, new_head)
        return Change(change.adapted, (*fresh, *head.new), (*unused, *head.unused))

    def init_new(self, names: set[str]) -> None:
        """The head and the norm before it start as in a new model."""
        if any(name.startswith("fc_norm.") for name in names):
            self.fc_norm = self._new_norm()
        if any(name.startswith("head.") for name in names):
            self.head = self._new_head()
        self._freeze()


def task_config(kind: type, encoder: type, task: str, config: Any, num_outputs: int | None, changes: dict[str, Any]) -> Any:
    """The config, of type `kind`, of a classifier on a model of `config`, whose fields those of `encoder` are. Without `num_outputs` it keeps the head
    that it has; with it the head is new. An encoder that had no head is pooled by "avg", unless `changes` say otherwise. ConfigError when there is none to keep.
    """
    has_head = getattr(config, "num_classes", 0) > 0
    if num_outputs is None and has_head:
        return settings.replace(config, changes)
    if not isinstance(num_outputs, int) or isinstance(num_outputs, bool) or num_outputs < 1:
        raise ConfigError(f"The task {task!r} needs a head: say num_outputs, a whole number of at least 1, found {num_outputs!r}.")
    fields = {name: getattr(config, name) for name in encoder.__dataclass_fields__}
    return settings.replace(kind(**fields, num_classes=num_outputs, pool=config.pool if has_head else "avg"), changes)


def head_change(old: Any, new: Any, new_head: bool) -> Change:
    """What becomes of the head (`head.*`) of a model of config `old` in a classifier of config `new`: kept, left behind, made fresh."""
    drop = new_head or new.num_classes == 0
    unused = [Rule(r"head\..*", "another head was asked for" if new.num_classes else "no head was asked for")] if drop and getattr(old, "num_classes", 0) else []
    fresh = [Rule(r"head\..*", f"for {new.num_classes} outputs")] if drop and new.num_classes else []
    return Change(new=tuple(fresh), unused=tuple(unused))
