"""A model in the form of another library: what is written, what was left out, and how to see that it computes the same."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from modalities.common.model import Model
from trainer.errors import ModelError

Run = Callable[[Tensor], dict[str, Tensor]]
"""An input of the model (B, ...) -> what comes out, by the names of `Model.outputs`, and others that the export adds."""


@dataclass(frozen=True)
class Export:
    """A model that another library can hold. Making one raises ModelError, by name, for what the library cannot hold."""

    library: str
    """The library, as the Hub calls it."""
    write: Callable[[Path], None]
    """Write its files into a folder."""
    load: Callable[[Path], Run]
    """Open what was written, as the other library's users do."""
    usage: str
    """Python lines that use it; PLACE stands for the folder."""
    left_out: tuple[str, ...] = ()
    """Parts of the model that the other library does not hold, in words."""
    notes: tuple[str, ...] = ()
    """What is otherwise there than here, in words."""
    expected: Run | None = None
    """What must come out, where it is more than `Model.outputs`."""


def example(model: Model, samples: int, seed: int = 0) -> Tensor:
    """Random normalised input (B, C, *size). ModelError for a model whose input has no fixed shape."""
    shape = model.input_shape()
    if shape is None:
        raise ModelError(f"{type(model).__name__} has no input of one fixed shape, so what is exported of it cannot be checked.")
    return torch.randn(samples, *shape, generator=torch.Generator().manual_seed(seed))
