"""Tensor names of official files from ours, by tables of patterns."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from modalities.common.interop import Fields
from modalities.common.loading import Names, pieces
from trainer.errors import CheckpointError, did_you_mean, shorten

Table = Mapping[str, tuple[str, ...]]
"""Regular expression for whole names of ours -> the official names of the equal pieces that the tensor is made of, with \\1 for groups."""


def renamed(name: str, table: Table) -> tuple[str, ...]:
    """The official names for one of ours; the name itself where no pattern fits."""
    for pattern, names in table.items():
        found = re.fullmatch(pattern, name)
        if found:
            return tuple(found.expand(text) for text in names)
    return (name,)


def in_layout(tensors: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Tensors under our names -> under the official ones, cut where the file holds several."""
    return {theirs: part for name, tensor in tensors.items() for theirs, part in zip(names(name), pieces(tensor, len(names(name))))}


def require_known(config: Fields, known: Iterable[str], what: str, where: str) -> None:
    """CheckpointError for an entry that is none of `known`; `what` it is an entry of, in words."""
    unknown = sorted(config.keys() - set(known))
    if unknown:
        raise CheckpointError(f"{where}: {what} has {shorten(unknown[0])}, which the official code does not know.{did_you_mean(unknown[0], known)}")
