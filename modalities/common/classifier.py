"""A linear head on an encoder: what all classifiers share, whatever their encoder is.

`HeadFields` are fields of the config, `Classifier` goes before the encoder's class: `class C(Classifier, Encoder)`.
"""

import re
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from modalities.common.loading import Change, Rule
from modalities.common.model import Model
from trainer import config as settings
from trainer.errors import ConfigError, DataError
from trainer.objective import Batch


@dataclass(frozen=True)
class HeadFields:
    """The head of a classifier."""

    num_classes: int = 1000
    """Outputs of the head. 0: no head, the logits are the features."""
    head: Literal["linear", "probe"] = "linear"
    """linear: the whole network trains. probe: only a linear layer behind a batch norm trains, on frozen features."""
    class_names: tuple[str, ...] = ()
    """What the outputs stand for, in order; empty when unknown."""
    multi_label: bool = False
    """Every output is a yes or no of its own (sigmoid); else they are classes of which one is right (softmax)."""

    def check_head(self) -> None:
        """Raise ConfigError when the fields contradict each other."""
        if self.num_classes < 0:
            raise ConfigError(f"num_classes must be 0 (no head) or more, found {self.num_classes}.")
        check_names(self.class_names, self.num_classes)
        if self.head == "probe" and self.num_classes < 1:
            raise ConfigError("head='probe' needs num_classes of at least 1, found 0.")


def check_names(names: tuple[str, ...], classes: int) -> None:
    """Raise ConfigError unless there is a name for each class, or none at all."""
    if names and len(names) != classes:
        raise ConfigError(f"class_names has {len(names)} names for num_classes={classes}. Give one per class, or none.")


class Classifier:
    """`forward` gives logits (B, num_classes) of what the encoder's `embed` gives. The subclass puts `self.new_head()` at `head_at` and calls `freeze()`.

    With head "probe" everything but the last linear layer is frozen and stays in evaluation mode.
    """

    encoder_config: ClassVar[type]
    """The config whose fields describe the encoder alone."""
    head_at: ClassVar[str] = "head"
    """Where the head lies among the modules."""
    head_std: ClassVar[float] = 0.02
    """Deviation of a new head's weights; that of a probe is 0.01."""

    @property
    def head_width(self) -> int:
        """Width of the vector that the head sees."""
        return self.config.embed_dim

    def new_head(self) -> nn.Module:
        """A head with its first values."""
        width, classes, probe = self.head_width, self.config.num_classes, self.config.head == "probe"
        if classes == 0:
            return nn.Identity()
        linear = nn.Linear(width, classes)
        nn.init.trunc_normal_(linear.weight, std=0.01 if probe else self.head_std)
        nn.init.zeros_(linear.bias)
        return nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6), linear) if probe else linear

    def linear_head(self) -> dict[str, Tensor]:
        """`weight` and `bias` of the head as one linear layer; the batch norm of a probe, fixed after training, is put into it."""
        if self.config.head != "probe":
            return {name: tensor for name, tensor in self.get_submodule(self.head_at).state_dict().items()}
        norm, linear = self.get_submodule(self.head_at)
        weight = linear.weight.detach().double() * (norm.running_var.double() + norm.eps).rsqrt()
        bias = linear.bias.detach().double() - weight @ norm.running_mean.double()
        return {"weight": weight.to(linear.weight.dtype), "bias": bias.to(linear.bias.dtype)}

    def freeze(self) -> None:
        """In a probe only the head trains; else everything, fixed tables included."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self.config.head != "probe" or name.startswith(f"{self.head_at}."))

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        found = super().outputs(batch)
        return found | ({"logits": self.get_submodule(self.head_at)(found["features"])} if self.config.num_classes else {})

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, num_classes)."""
        features = self.embed(batch)
        if self.training and self.config.head == "probe" and features.shape[0] < 2:
            raise DataError("A linear probe normalises over the batch, so a training batch needs at least 2 samples, found 1.")
        return self.get_submodule(self.head_at)(features)

    def train(self, mode: bool = True) -> "Classifier":
        """Training mode; the frozen trunk of a probe stays in evaluation mode."""
        super().train(mode and self.config.head != "probe")
        if self.config.head == "probe":
            self.training = mode
            self.get_submodule(self.head_at).train(mode)
        return self

    @classmethod
    def from_encoder(cls, encoder: Model, num_classes: int, **changes: Any) -> "Classifier":
        """A classifier on the weights of an encoder; the head, and what else the encoder does not have, starts fresh.

        `changes` are further config fields (head, drop_path, class_names, input_size, ...). The preprocessing is taken over, for a
        new size, and the licence of the weights. Raises ModelError when a weight of the trunk is missing or has another shape.
        """
        return cls.built_on(encoder, cls.for_task("classification", encoder.config, num_classes, changes))

    @classmethod
    def for_task(cls, task: str, config: Any, num_outputs: int | None, changes: dict[str, Any]) -> Any:
        """A classifier on an encoder. Without `num_outputs` it keeps the head that it has; with it the head is new. ConfigError when there is none to keep."""
        if num_outputs is None and isinstance(config, cls.config_class) and config.num_classes > 0:
            return settings.replace(config, changes)
        if not isinstance(num_outputs, int) or isinstance(num_outputs, bool) or num_outputs < 1:
            raise ConfigError(f"The task {task!r} needs a head: say num_outputs, a whole number of at least 1, found {num_outputs!r}.")
        own = {field.name: getattr(config, field.name) for field in fields(cls.encoder_config)}
        return settings.replace(cls.config_class(**own, num_classes=num_outputs), changes)

    @classmethod
    def head_change(cls, change: Change, old: Any, new: HeadFields, new_head: bool) -> Change:
        """An encoder's change, and what becomes of its head."""
        drop = new_head or new.num_classes == 0
        names = rf"{re.escape(cls.head_at)}\..*"
        unused = (Rule(names, "another head was asked for" if new.num_classes else "no head was asked for"),) if drop and isinstance(old, HeadFields) and old.num_classes else ()
        fresh = (Rule(names, f"for {new.num_classes} outputs"),) if drop and new.num_classes else ()
        return Change(change.adapted, (*change.new, *fresh), (*change.unused, *unused))

    def init_new(self, names: set[str]) -> None:
        """A new head starts as in a new model."""
        if any(name.startswith(f"{self.head_at}.") for name in names):
            self.set_submodule(self.head_at, self.new_head(), strict=True)
        self.freeze()
