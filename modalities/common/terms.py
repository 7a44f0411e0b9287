"""Further terms of a pre-training objective, each an option of it that is off by default."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor, nn

from modalities.common.model import Model
from trainer.errors import ConfigError
from trainer.objective import Batch, Losses


class Term(nn.Module):
    """A scalar that is added, times `weight`, to what an objective minimises. What it needs beside the model is its own."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, model: Model, batch: Batch, out: Any) -> Tensor:
        """The term of a batch. `out`: what the model's forward pass gave for it."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(model, batch, out) -> scalar")


def with_terms(loss: Tensor, name: str, terms: Mapping[str, Term], model: Model, batch: Batch, out: Any) -> Losses:
    """`loss` and the weighted terms in one scalar; the log shows `loss` as `name` and each term, not weighted, under its own name."""
    parts, total = {name: loss.detach()}, loss
    for key, term in terms.items():
        value = term(model, batch, out)
        total, parts[key] = total + term.weight * value, value.detach()
    return Losses(total, parts)


def require_term(config: Any, where: str, switch: str) -> None:
    """ConfigError when a term's config sets fields while the field `switch` leaves the term off, or a `weight` that is not above 0.

    A term is off while `switch` has its default. `where` is the field of the objective that holds the config.
    """
    default = {field.name: field.default for field in fields(config)}
    changed = [name for name in default if getattr(config, name) != default[name]]
    if changed and switch not in changed:
        raise ConfigError(f"{where}.{changed[0]} is set, and nothing would use it: {where}.{switch} is not. Set both or neither.")
    if changed and not config.weight > 0:
        raise ConfigError(f"{where}.weight is the weight of a term of the loss and must be above 0, found {config.weight}.")
