"""What the layouts of other libraries have in common: sizes told by shapes, and tensors that are split or joined."""

import itertools
import logging
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from modalities import registry
from modalities.common.loading import match, skeleton, told
from modalities.common.stored import Description
from trainer.config import from_dict
from trainer.errors import CheckpointError, did_you_mean, shorten

log = logging.getLogger("zoo")

State = dict[str, Tensor]
Fields = dict[str, Any]


def converted(state: State, described: Description, where: str) -> tuple[str, Fields, Fields, State]:
    """(system, config fields, objective fields, state in our names) of tensors in the layout that `described` says.

    Raises CheckpointError that lists missing, unknown and mis-shaped tensors in the file's own names.
    """
    cls = registry.system_class(described.system)
    model = skeleton(cls, from_dict(cls.config_class, described.fields, where), len(state), where)
    stored = match(model, state, described.names, f"{where} does not fit a {described.system} in the {described.layout} layout.")
    whole = {ours: join([state[n] for n in names]) for ours, names in stored.items()}
    return described.system, described.fields, described.objective, whole


def stack_fields(state: Mapping[str, Tensor], norm: str, bias: str, prefix: str) -> Fields:
    """Width, depth and MLP ratio of a stack of blocks; `norm` and `bias` are the first block's first norm weight and the bias of its MLP's first layer.

    From vectors: a matrix that was transposed would give other sizes, and everything but itself would seem wrong.
    """
    width, hidden = state[norm].shape[0], state[bias].shape[0]
    start = norm.partition("0.")[0]
    numbers = {name.removeprefix(start).partition(".")[0] for name in state if name.startswith(start)}
    depth = next(n for n in itertools.count(1) if str(n) not in numbers)
    return {f"{prefix}embed_dim": width, f"{prefix}depth": depth, f"{prefix}mlp_ratio": ratio(hidden, width)}


def ratio(hidden: int, width: int) -> float:
    """The mlp_ratio for which int(width * ratio) is exactly `hidden`, whatever the rounding."""
    found = hidden / width
    return found if int(width * found) == hidden else math.nextafter(found, math.inf)


def join(parts: list[Tensor]) -> Tensor:
    """One tensor from query, key and value; a single one stays the same memory."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def require_arguments(config: Fields | None, known: Collection[str], where: str) -> Fields:
    """The arguments in a config.json of an official class, without those that begin with an underscore. CheckpointError for one that the class does not have."""
    found = {name: value for name, value in (config or {}).items() if not name.startswith("_")}
    unknown = sorted(found.keys() - set(known))
    if unknown:
        raise CheckpointError(f"{where}: config.json has {shorten(unknown[0])}, no argument of the official class.{did_you_mean(unknown[0], known)}")
    return found


def numbered(names: Collection[str], start: str) -> int:
    """How many parts are numbered after `start` ("blocks."): one more than the largest number, so that a part that was lost is missed."""
    found = [name[len(start) :].partition(".")[0] for name in names if name.startswith(start)]
    return max((int(number) + 1 for number in found if number.isdecimal() and len(number) < 7), default=0)


def require_telling(state: Mapping[str, Tensor], telling: Mapping[str, int], known: Collection[str], layout: str, where: str) -> None:
    """CheckpointError unless the tensors that tell the size of a model are there, with as many axes as `telling` says, none of them empty.

    `known`: every name of the layout, with 0 for its numbers; what the file holds beside them is named, too.
    """
    lists = {
        "missing in the file": [name for name in telling if name not in state],
        "other shape": [
            f"{name} {tuple(state[name].shape)} instead of {axes} axes"
            for name, axes in telling.items()
            if name in state and (state[name].ndim != axes or 0 in state[name].shape)
        ],
    }
    if any(lists.values()):
        lists["not in the model"] = [name for name in state if re.sub(r"\d+", "0", name) not in known]
        raise CheckpointError(f"{where} does not fit the {layout} layout; its size is told by these tensors, among others.\n{told(lists)}")


def statistics_of_transformers(preprocessing: Any, where: str) -> Fields:
    """Mean and deviation from the preprocessor_config.json of transformers. Its resizing is not taken over: that of
    ViTMAE squashes every picture to a square, which MAE's training and evaluation did not."""
    if preprocessing is None:
        return {}
    if not isinstance(preprocessing, dict):
        raise CheckpointError(f"{where}: preprocessor_config.json must be a mapping, found {shorten(preprocessing)}.")
    if preprocessing.get("do_normalize") is False:
        raise CheckpointError(f"{where} was trained on pixels that are not normalised (do_normalize in preprocessor_config.json), which is not supported.")
    return {ours: preprocessing[theirs] for ours, theirs in (("mean", "image_mean"), ("std", "image_std")) if theirs in preprocessing}


def transformers_fields(config: Any, decoder: bool = False, labels: bool = False) -> Fields:
    """What config.json of transformers says of a vision transformer, and of its decoder or its classes, in the words of their config."""
    c = config
    fields: Fields = {
        "hidden_size": c.embed_dim,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.num_heads,
        "intermediate_size": int(c.embed_dim * c.mlp_ratio),
        "hidden_act": c.activation,
        "layer_norm_eps": c.norm_eps,
        "num_channels": c.in_chans,
    }
    if decoder:
        fields |= {
            "decoder_num_attention_heads": c.decoder_num_heads,
            "decoder_hidden_size": c.decoder_embed_dim,
            "decoder_num_hidden_layers": c.decoder_depth,
            "decoder_intermediate_size": int(c.decoder_embed_dim * c.decoder_mlp_ratio),
        }
    if labels:
        names = dict(enumerate(c.class_names or [f"LABEL_{i}" for i in range(c.num_classes)]))
        fields |= {"id2label": names, "label2id": {name: i for i, name in names.items()}}
        fields |= {"problem_type": "multi_label_classification"} if c.multi_label else {}
    return fields


DROPOUT_OF_TRANSFORMERS = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.02}
"""What config.json of a masked auto-encoder says besides."""


def settle_heads(fields: Fields, encoder: Mapping[int, int], decoder: Mapping[int, int], where: str) -> None:
    """Fill in the published number of heads (width -> heads) where the config says none. CheckpointError for a width that is no published one."""
    for width, heads, published in (("embed_dim", "num_heads", encoder), ("decoder_embed_dim", "decoder_num_heads", decoder)):
        if width not in fields or heads in fields:
            continue
        if fields[width] not in published:
            raise CheckpointError(
                f"{where} does not say its number of attention heads, which no tensor shows, and {width}={fields[width]} is no published size "
                f"({', '.join(map(str, published))}). Put {heads} into its config.json."
            )
        fields[heads] = published[fields[width]]
        log.info("%s does not say %s; taking %d, as in the published model with %s=%d.", where, heads, fields[heads], width, fields[width])
