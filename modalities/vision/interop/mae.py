"""MAE checkpoints of other libraries <-> ours: the official code, transformers and timm.

Our parameter names are the official ones, which are timm's. transformers splits the joint qkv in three and
has three spellings: "transformers" (the files on the Hub), "transformers-5" (what its version 5 writes, with
another decoder name) and "transformers-memory" (the state_dict of its version 5). Every tensor of a file must
be used and every tensor of the model must be filled; nothing is dropped or made up in silence.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import timm
import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from modalities.common.interop import (
    DROPOUT_OF_TRANSFORMERS, Fields, State, converted, ratio, require_telling, settle_heads, stack_fields, statistics_of_transformers, transformers_fields,
)  # fmt: skip
from modalities.common.loading import skeleton
from modalities.common.model import Model
from modalities.common.stored import Description
from modalities.common.vit import ACTIVATIONS
from modalities.vision.models.mae import MAE, MAEConfig
from modalities.vision.models.vit import ViTClassifier, ViTClassifierConfig
from trainer.errors import CheckpointError, ModelError, did_you_mean, shorten

HEADS = {192: 3, 384: 6, 512: 8, 768: 12, 1024: 16, 1152: 16, 1280: 16, 1408: 16}
"""Heads of the published ViT encoders by width (no common head width: huge has 80). Shapes do not tell them."""
FIRST_FACTOR = 1e-5
"""Of LayerScale, where a file has such factors and its config does not say what they began with."""
DECODER_HEADS = {512: 16}
"""The same for the published MAE decoder."""

_TOP = {
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "norm": "vit.layernorm",
    "mask_token": "decoder.mask_token",
    "decoder_pos_embed": "decoder.decoder_pos_embed",
    "decoder_embed": "decoder.decoder_embed",
    "decoder_norm": "decoder.decoder_norm",
    "decoder_pred": "decoder.decoder_pred",
}
_DISK = {
    "norm1": ("layernorm_before",),
    "norm2": ("layernorm_after",),
    "attn.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attn.proj": ("attention.output.dense",),
    "mlp.fc1": ("intermediate.dense",),
    "mlp.fc2": ("output.dense",),
}
_MEMORY = {
    **_DISK,
    "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attn.proj": ("attention.o_proj",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}
TRANSFORMERS = {
    "transformers": ("vit.encoder.layer", "decoder.decoder_layers", _DISK),
    "transformers-5": ("vit.encoder.layer", "decoder.decoder_encoder.layer", _DISK),
    "transformers-memory": ("vit.layers", "decoder.decoder_layers", _MEMORY),
}
"""Spelling -> name of the encoder's layers, of the decoder's layers, and the names inside a layer."""
LAYOUTS = ("official", "timm", *TRANSFORMERS)

_OFFICIAL = (
    "img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "norm_eps", "drop_path_rate",
    "decoder_embed_dim", "decoder_depth", "decoder_num_heads",
)  # fmt: skip
_OFFICIAL_OTHERS = ("num_classes", "global_pool", "mask_ratio", "norm_pix_loss")
"""Arguments of the official code that are read elsewhere or that no weight depends on."""
_TRANSFORMERS_FIELDS = {
    "input_size": "image_size",
    "patch_size": "patch_size",
    "in_chans": "num_channels",
    "embed_dim": "hidden_size",
    "depth": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "qkv_bias": "qkv_bias",
    "norm_eps": "layer_norm_eps",
    "activation": "hidden_act",
    "decoder_embed_dim": "decoder_hidden_size",
    "decoder_depth": "decoder_num_hidden_layers",
    "decoder_num_heads": "decoder_num_attention_heads",
}


def recognise(keys: Iterable[str], config: Fields | None) -> str | None:
    """The layout of a checkpoint by its tensor names and its config.json (None: it has none), or None when it is not ours to read."""
    if config is not None and not isinstance(config, dict):
        return None
    keys, config = set(keys), config or {}
    kind = config.get("model_type")
    both = any(k.startswith("vit.embeddings.") for k in keys) and any(k.startswith("decoder.decoder_") for k in keys)
    if kind == "vit_mae" or (kind is None and both):
        return _spelling(keys)
    flat = len({"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} & keys) > 2  # one may be lost: it will be named
    flat = flat and not any(k.startswith("clip_projector.") for k in keys)  # InternVideo's encoder has the same names and this pooling
    if kind is None and flat and "architecture" in config:
        return "timm" if str(config["architecture"]).startswith("vit_") else None
    return "official" if kind is None and flat else None


def _spelling(keys: Iterable[str]) -> str:
    """Which of transformers' three spellings these names are in."""
    if any(".q_proj." in k for k in keys):
        return "transformers-memory"
    return "transformers-5" if any(k.startswith("decoder.decoder_encoder.") for k in keys) else "transformers"


def describe(meta: Mapping[str, Tensor], config: Fields | None, layout: str, where: str, preprocessing: Any = None) -> Description:
    """What a folder or file in a layout holds. `meta`: its tensors, of which only names and shapes are looked at.

    `config` is its config.json, `preprocessing` its preprocessor_config.json, as far as it has them. Beyond `read`, nothing is
    taken on trust here: timm is asked what its architecture is, and a field that nobody reads is an error. Raises CheckpointError.
    """
    if layout == "timm":
        config = timm_arguments(config or {}, where)
    elif layout == "official":
        unknown = sorted((config or {}).keys() - {*_OFFICIAL, *_OFFICIAL_OTHERS})
        if unknown:
            known = ", ".join(_OFFICIAL)
            raise CheckpointError(f"{where}: config.json has {shorten(unknown[0])}, no argument of the official classes.{did_you_mean(unknown[0], _OFFICIAL)} They take {known}.")
    described = read(meta, config, layout, where)
    changes = statistics_of_transformers(preprocessing, where) if layout in TRANSFORMERS else (config or {}).get("preprocess", {})
    return dataclasses.replace(described, preprocess=changes)


def read(meta: Mapping[str, Tensor], config: Fields | None, layout: str, where: str = "the checkpoint") -> Description:
    """What a checkpoint holds, from the names and shapes of its tensors and the `config` that came with it.

    Any of transformers' three spellings is read under any of its three layout names. `config` is config.json of transformers, or the
    arguments of the official class or of timm's. What it does not say is read from the shapes; heads that it does not say are those of
    the published model of that width. A file without decoder is a "vision/mae-vit" (an encoder alone: no head, and its feature is the
    normed class token, as in timm). Raises CheckpointError that asks for what no shape can tell.
    """
    if layout not in LAYOUTS:
        raise CheckpointError(f"{where}: unknown layout {layout!r}. Expected one of: {', '.join(LAYOUTS)}.")
    config = {k: v for k, v in (config or {}).items() if v is not None}
    bare = layout in TRANSFORMERS and not any(k.startswith("vit.") for k in meta)  # an encoder saved on its own
    meta = {f"vit.{k}": v for k, v in meta.items()} if bare else meta
    layout = _spelling(meta) if layout in TRANSFORMERS else layout
    has_decoder = any(names_in(n, layout)[0] in meta for n in ("mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_pred.weight"))
    fields = _fields_of_shapes(meta, layout, where, has_decoder)
    stated = _transformers_fields(config, fields, where) if layout in TRANSFORMERS else _official_fields(config, where)
    fields |= {k: v for k, v in stated.items() if has_decoder or not k.startswith("decoder_")}
    table = names_in("pos_embed", layout)[0]
    _settle(fields, where, f"{table} {tuple(meta[table].shape)}")
    if not has_decoder:
        fields |= _head_fields(meta, config, where)

    def names(ours: str) -> tuple[str, ...]:
        return tuple(n.removeprefix("vit.") for n in names_in(ours, layout)) if bare else names_in(ours, layout)

    objective = {k: config[k] for k in ("mask_ratio", "norm_pix_loss") if has_decoder and k in config}
    return Description(layout, MAE.system if has_decoder else ViTClassifier.system, fields, names, objective)


def from_layout(state: State, config: Fields | None, layout: str, where: str = "the checkpoint") -> tuple[str, Fields, Fields, State]:
    """(system, config fields, objective fields, state in our names) of a checkpoint; see `read`.

    Raises CheckpointError that lists missing, unknown and mis-shaped tensors in the file's own names.
    """
    return converted(state, read(state, config, layout, where), where)


def to_layout(state: State, layout: str) -> State:
    """Tensors by our parameter names (a state, gradients) under the names of a layout."""
    renamed: State = {}
    for ours, tensor in state.items():
        names = names_in(ours, layout)
        renamed.update(zip(names, tensor.chunk(len(names)) if len(names) > 1 else [tensor]))
    return renamed


def names_in(ours: str, layout: str) -> tuple[str, ...]:
    """What a layout calls one of our tensors; three names for the joint qkv of transformers (query, key, value)."""
    if layout not in TRANSFORMERS:
        return (ours,)
    encoder, decoder, inside = TRANSFORMERS[layout]
    if ours in _TOP:
        return (_TOP[ours],)
    module, _, leaf = ours.rpartition(".")
    if module in _TOP:
        return (f"{_TOP[module]}.{leaf}",)
    stack, number, part = re.fullmatch(r"(decoder_)?blocks\.(\d+)\.(.+)", module).groups()
    return tuple(f"{decoder if stack else encoder}.{number}.{name}.{leaf}" for name in inside[part])


def to_official(model: Model) -> State:
    """The state dict that the official classes load (MAE, or the fine-tuning classifier)."""
    if not model.config.class_token or model.config.layer_scale is not None:
        raise ModelError("The official MAE always has a class token and never LayerScale; this model differs, so it cannot be written in that layout.")
    return dict(model.state_dict())


def to_timm(model: Model) -> State:
    """The state dict of timm's `VisionTransformer`: a classifier as it is, of a MAE the encoder (num_classes=0, global_pool "token")."""
    if getattr(model.config, "head", "linear") == "probe":
        raise ModelError("timm's VisionTransformer has no batch norm before its head, so a linear probe cannot be written in that layout.")
    return {k: v for k, v in model.state_dict().items() if k != "mask_token" and not k.startswith("decoder_")}


def to_transformers(model: Model, objective: Fields | None = None, variant: str = "transformers") -> tuple[State, Fields]:
    """State and config.json of transformers' `ViTMAEForPreTraining`, in the spelling of the Hub unless `variant` says otherwise.

    `objective` gives mask_ratio and norm_pix_loss for the config (defaults: 0.75 and False). Raises ModelError
    for a model that this class cannot express.
    """
    c = model.config
    reasons = {
        "it is no MAE with decoder": not isinstance(c, MAEConfig),
        "it has no class token": not c.class_token,
        "it has LayerScale": c.layer_scale is not None,
        f"its input {c.input_size} is not square": len(set(c.input_size)) > 1,
        f"its patch {c.patch_size} is not square": len(set(c.patch_size)) > 1,
    }
    if any(reasons.values()):
        raise ModelError(f"transformers' ViTMAEForPreTraining cannot hold this model: {next(r for r, hit in reasons.items() if hit)}.")
    config = {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        **transformers_fields(c, decoder=True),
        **DROPOUT_OF_TRANSFORMERS,
        "image_size": c.input_size[0],
        "patch_size": c.patch_size[0],
        "qkv_bias": c.qkv_bias,
        "mask_ratio": 0.75,
        "norm_pix_loss": False,
        **(objective or {}),
    }
    return to_layout(model.state_dict(), variant), config


def _fields_of_shapes(state: Mapping[str, Tensor], layout: str, where: str, has_decoder: bool) -> Fields:
    """Config fields that the shapes of a checkpoint tell."""

    telling = {"patch_embed.proj.weight": 4, "pos_embed": 3}
    for blocks in ("blocks", "decoder_blocks")[: 1 + has_decoder]:
        telling |= {f"{blocks}.0.norm1.weight": 1, f"{blocks}.0.mlp.fc1.bias": 1}
    names = {ours: names_in(ours, layout)[0] for ours in telling}
    require_telling(state, {names[ours]: axes for ours, axes in telling.items()}, _names_of(layout), layout, where)

    def shape(ours: str) -> tuple[int, ...]:
        return tuple(state[names[ours]].shape)

    def stack(blocks: str, prefix: str) -> Fields:
        return stack_fields(state, names[f"{blocks}.0.norm1.weight"], names[f"{blocks}.0.mlp.fc1.bias"], prefix)

    _, in_chans, *patch = shape("patch_embed.proj.weight")
    fields = {"patch_size": tuple(patch), "in_chans": in_chans, **stack("blocks", "")}
    if layout == "timm" and any(re.fullmatch(r"blocks\.\d+\.ls[12]\.gamma", name) for name in state):
        fields["layer_scale"] = FIRST_FACTOR
    fields["qkv_bias"] = any(names_in(f"blocks.{n}.attn.qkv.bias", layout)[0] in state for n in range(fields["depth"]))
    length = shape("pos_embed")[1]
    # Only timm has models without class token; where it is lost, the table still has its row.
    fields["class_token"] = layout != "timm" or "cls_token" in state or (not _is_square(length) and _is_square(length - 1))
    patches = length - fields["class_token"]
    if _is_square(patches):  # otherwise the config must tell
        side = math.isqrt(patches)
        fields["input_size"] = (side * patch[0], side * patch[1])
    return fields | stack("decoder_blocks", "decoder_") if has_decoder else fields


@cache
def _names_of(layout: str) -> set[str]:
    """Every tensor name of a layout, with 0 for its numbers."""
    size = dict(input_size=4, patch_size=2, embed_dim=4, depth=1, num_heads=1)
    models = [skeleton(MAE, MAEConfig(**size, decoder_embed_dim=4, decoder_depth=1, decoder_num_heads=1), 0, layout)]
    if layout not in TRANSFORMERS:
        heads = ({"pool": "avg"}, {"pool": "token", "head": "probe"})
        factors = FIRST_FACTOR if layout == "timm" else None
        models += [skeleton(ViTClassifier, ViTClassifierConfig(**size, num_classes=2, layer_scale=factors, **head), 0, layout) for head in heads]
    return {re.sub(r"\d+", "0", name) for model in models for ours in model.state_dict() for name in names_in(ours, layout)}


def _is_square(number: int) -> bool:
    return number > 0 and math.isqrt(number) ** 2 == number


def timm_arguments(config: Fields, where: str) -> Fields:
    """timm's config.json as arguments of the official class. What it does not say, timm itself says of that architecture.

    Two models of timm with the same tensors may still compute different things (activation, epsilon, heads), so an architecture that
    the installed timm does not know, or that our network cannot express, is a CheckpointError.
    """
    name = config.get("architecture")
    facts = _facts_of_timm(name) if isinstance(name, str) else None
    if facts is None:
        raise CheckpointError(f"{where} has the architecture {shorten(name)}, which timm {timm.__version__} does not know. Update timm.")
    if not facts:
        raise CheckpointError(f"{where} is a {name} of timm, which differs from the network of MAE (its class, its blocks or its activation). Use it with timm.")
    given = config.get("model_args") or {}
    cfg = config.get("pretrained_cfg") or {}
    if not isinstance(given, dict) or not isinstance(cfg, dict):
        raise CheckpointError(f"{where}: model_args and pretrained_cfg in config.json must be mappings, found {shorten(given)} and {shorten(cfg)}.")
    stated = {key: config[key] for key in ("num_classes", "global_pool") if key in config}
    preprocess = {key: cfg[key] for key in ("mean", "std", "interpolation", "crop_pct") if key in cfg}
    return {**facts, **stated, "model_args": given, "preprocess": preprocess}


@cache
def _facts_of_timm(architecture: str) -> Fields | None:
    """What no tensor of an architecture of timm shows, as config fields; empty when our network is another one, None when timm has none of that name."""
    if "/" in architecture or ":" in architecture or not timm.is_model(architecture):  # timm would download what has a prefix
        return None
    with torch.device("meta"):
        model = timm.create_model(architecture)
    block = model.blocks[0] if type(model) is VisionTransformer else None
    activation = next((k for k, maker in ACTIVATIONS.items() if type(block) is Block and type(block.mlp) is Mlp and _is_activation(block.mlp.act, maker)), None)
    if activation is None:
        return {}
    return {"num_heads": block.attn.num_heads, "norm_eps": block.norm1.eps, "activation": activation, "global_pool": model.global_pool}


def _is_activation(layer: nn.Module, maker: Any) -> bool:
    """Whether a layer is what a maker of activations makes."""
    made = maker()
    return type(layer) is type(made) and vars(layer).get("approximate") == vars(made).get("approximate")


def _official_fields(config: Fields, where: str) -> Fields:
    """What the arguments of the official classes, or those of timm's, say."""
    arguments = config.get("model_args", {})
    unknown = sorted(arguments.keys() - {*_OFFICIAL, "num_classes", "global_pool", "class_token", "init_values"})
    if unknown:
        raise CheckpointError(f"{where} was built with arguments of timm that this model does not have: {', '.join(map(shorten, unknown))}.")
    config = {**config, **arguments}
    renamed = {"img_size": "input_size", "drop_path_rate": "drop_path", "init_values": "layer_scale"}
    fields = {renamed.get(k, k): config[k] for k in (*_OFFICIAL, "activation", "init_values") if k in config}
    if "mlp_ratio" in fields:
        fields["decoder_mlp_ratio"] = fields["mlp_ratio"]
    return fields


def _transformers_fields(config: Fields, shapes: Fields, where: str) -> Fields:
    """What transformers' config.json says; its default epsilon, which differs from ours."""
    fields = {"norm_eps": 1e-12, **{ours: config[theirs] for ours, theirs in _TRANSFORMERS_FIELDS.items() if theirs in config}}
    for stack in ("", "decoder_"):
        hidden = config.get(f"{stack}intermediate_size")
        if hidden is not None and f"{stack}embed_dim" in shapes:
            if not isinstance(hidden, int):
                raise CheckpointError(f"{where}: {stack}intermediate_size in config.json must be a whole number, found {hidden!r}.")
            fields[f"{stack}mlp_ratio"] = ratio(hidden, shapes[f"{stack}embed_dim"])
    return fields


def _settle(fields: Fields, where: str, table: str) -> None:
    """Fill in the published number of heads where the config says none, and ask for what cannot be known. `table`: the positions, for a message."""
    settle_heads(fields, HEADS, DECODER_HEADS, where)
    if "input_size" not in fields:
        raise CheckpointError(f"{where} has a position table ({table}) that is no square grid, and no config.json that says its image size.")


def _head_fields(state: Mapping[str, Tensor], config: Fields, where: str) -> Fields:
    """Pooling and head of a file without decoder, by its config and its tensors."""
    pool = config.get("global_pool", any(name.startswith("fc_norm.") for name in state))
    if not isinstance(pool, (bool, str)) or pool not in (True, False, "avg", "token", ""):
        raise CheckpointError(f"{where} pools its tokens by {shorten(pool)} (global_pool), which this model cannot do. Expected avg or token.")
    probe = any(name.startswith(("head.0.", "head.1.")) for name in state)
    head = next((state[name] for name in (f"head.{'1.' if probe else ''}{leaf}" for leaf in ("bias", "weight")) if name in state), None)
    return {
        "pool": "avg" if pool in (True, "avg") else "token",
        "head": "probe" if probe else "linear",
        "num_classes": config.get("num_classes", 0 if head is None or head.ndim == 0 else head.shape[0]),
    }
