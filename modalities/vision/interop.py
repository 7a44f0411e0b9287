"""MAE checkpoints of other libraries <-> ours: the official code, transformers and timm.

Our parameter names are the official ones, which are timm's. transformers splits the joint qkv in three and
has three spellings: "transformers" (the files on the Hub), "transformers-5" (what its version 5 writes, with
another decoder name) and "transformers-memory" (the state_dict of its version 5). Every tensor of a file must
be used and every tensor of the model must be filled; nothing is dropped or made up in silence.
"""

import itertools
import logging
import math
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from modalities import registry
from modalities.common.model import Model, check_tensors
from modalities.vision.models.mae import MAE, MAEConfig
from modalities.vision.models.vit import ViTClassifier
from trainer.config import from_dict, replace
from trainer.errors import CheckpointError, ModelError

log = logging.getLogger("zoo")

State = dict[str, Tensor]
Fields = dict[str, Any]

HEADS = {192: 3, 384: 6, 512: 8, 768: 12, 1024: 16, 1152: 16, 1280: 16, 1408: 16}
"""Heads of the published ViT encoders by width (no common head width: huge has 80). Shapes do not tell them."""
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
    if kind == "vit_mae" or (kind is None and {"vit.embeddings.cls_token", "decoder.mask_token"} <= keys):
        return _spelling(keys)
    flat = {"pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= keys
    if kind is None and flat and "architecture" in config:
        return "timm" if str(config["architecture"]).startswith("vit_") else None
    return "official" if kind is None and flat else None


def _spelling(keys: Iterable[str]) -> str:
    """Which of transformers' three spellings these names are in."""
    if any(".q_proj." in k for k in keys):
        return "transformers-memory"
    return "transformers-5" if any(k.startswith("decoder.decoder_encoder.") for k in keys) else "transformers"


def build(state: State, config: Fields | None, layout: str, where: str) -> Model:
    """The model of a foreign checkpoint, in evaluation mode and single precision, with its preprocessing."""
    system, fields, _, ours = from_layout(state, config, layout, where)
    cls = registry.system_class(system)
    ours = {k: v.float() if v.is_floating_point() else v for k, v in ours.items()}
    model = cls.from_state(from_dict(cls.config_class, fields, where), ours, where)
    if model.config.in_chans in (1, 3):
        stated = (config or {}).get("pretrained_cfg", {}) if layout == "timm" else {}
        changes = {k: stated[k] for k in ("mean", "std", "interpolation", "crop_pct") if k in stated}
        model.preprocess = replace(model.default_preprocess(), changes, where)
    return model


def from_layout(state: State, config: Fields | None, layout: str, where: str = "the checkpoint") -> tuple[str, Fields, Fields, State]:
    """(system, config fields, objective fields, state in our names) of a checkpoint.

    Any of transformers' three spellings is read under any of its three layout names. `config` is what came with
    the file: config.json of transformers or timm, or the arguments of the official class. What it does not say
    is read from the shapes; heads that it does not say are those of the published model of that width. A file
    without decoder becomes a "vision/mae-vit" (an encoder alone: no head, and its feature is the normed class
    token, as in timm). Raises CheckpointError that lists missing, unknown and mis-shaped tensors in the file's
    own names, or asks for what no shape can tell.
    """
    if layout not in LAYOUTS:
        raise CheckpointError(f"{where}: unknown layout {layout!r}. Expected one of: {', '.join(LAYOUTS)}.")
    config = {k: v for k, v in (config or {}).items() if v is not None}
    bare = layout in TRANSFORMERS and not any(k.startswith("vit.") for k in state)  # an encoder saved on its own
    state = {f"vit.{k}": v for k, v in state.items()} if bare else state
    layout = _spelling(state) if layout in TRANSFORMERS else layout
    has_decoder = any(names_in(n, layout)[0] in state for n in ("mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_pred.weight"))
    fields = _fields_of_shapes(state, layout, where, has_decoder)
    stated = _transformers_fields(config, fields, where) if layout in TRANSFORMERS else _official_fields(config, where)
    fields |= {k: v for k, v in stated.items() if has_decoder or not k.startswith("decoder_")}
    _settle(fields, where)
    if not has_decoder:
        fields |= _head_fields(state, config, where)

    system = MAE.system if has_decoder else ViTClassifier.system
    objective = {k: config[k] for k in ("mask_ratio", "norm_pix_loss") if has_decoder and k in config}
    cls = registry.system_class(system)
    with torch.device("meta"):
        wanted = cls(from_dict(cls.config_class, fields, where)).state_dict()
    check_tensors(to_layout(wanted, layout), state, f"{where} does not fit a {system} in the {layout} layout.")
    converted = {ours: _join([state[n] for n in names_in(ours, layout)]) for ours in wanted}
    return system, fields, objective, converted


def to_layout(state: State, layout: str) -> State:
    """Tensors by our parameter names (a state, gradients) under the names of a layout."""
    converted: State = {}
    for ours, tensor in state.items():
        names = names_in(ours, layout)
        converted.update(zip(names, tensor.chunk(len(names)) if len(names) > 1 else [tensor]))
    return converted


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
    if not model.config.class_token:
        raise ModelError("The official MAE always has a class token; this model has none, so it cannot be written in that layout.")
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
        f"its input {c.input_size} is not square": len(set(c.input_size)) > 1,
        f"its patch {c.patch_size} is not square": len(set(c.patch_size)) > 1,
    }
    if any(reasons.values()):
        raise ModelError(f"transformers' ViTMAEForPreTraining cannot hold this model: {next(r for r, hit in reasons.items() if hit)}.")
    config = {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "hidden_size": c.embed_dim,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.num_heads,
        "intermediate_size": int(c.embed_dim * c.mlp_ratio),
        "hidden_act": c.activation,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": c.norm_eps,
        "image_size": c.input_size[0],
        "patch_size": c.patch_size[0],
        "num_channels": c.in_chans,
        "qkv_bias": c.qkv_bias,
        "decoder_num_attention_heads": c.decoder_num_heads,
        "decoder_hidden_size": c.decoder_embed_dim,
        "decoder_num_hidden_layers": c.decoder_depth,
        "decoder_intermediate_size": int(c.decoder_embed_dim * c.decoder_mlp_ratio),
        "mask_ratio": 0.75,
        "norm_pix_loss": False,
        **(objective or {}),
    }
    return to_layout(model.state_dict(), variant), config


def _fields_of_shapes(state: State, layout: str, where: str, has_decoder: bool) -> Fields:
    """Config fields that the shapes of a checkpoint tell."""

    def shape(ours: str, axes: int) -> tuple[int, ...]:
        name = names_in(ours, layout)[0]
        if name not in state or state[name].ndim != axes:
            found = f"one of shape {tuple(state[name].shape)}" if name in state else "none"
            raise CheckpointError(f"{where} needs a tensor {name!r} with {axes} axes in the {layout} layout, found {found}.")
        return tuple(state[name].shape)

    def stack(blocks: str, prefix: str) -> Fields:
        hidden, width = shape(f"{blocks}.0.mlp.fc1.weight", 2)
        depth = next(n for n in itertools.count(1) if names_in(f"{blocks}.{n}.norm1.weight", layout)[0] not in state)
        return {f"{prefix}embed_dim": width, f"{prefix}depth": depth, f"{prefix}mlp_ratio": _ratio(hidden, width)}

    _, in_chans, *patch = shape("patch_embed.proj.weight", 4)
    class_token = layout != "timm" or "cls_token" in state  # only timm has models without
    fields = {
        "patch_size": tuple(patch),
        "in_chans": in_chans,
        "qkv_bias": names_in("blocks.0.attn.qkv.bias", layout)[0] in state,
        "class_token": class_token,
        **stack("blocks", ""),
    }
    patches = shape("pos_embed", 3)[1] - class_token
    side = math.isqrt(max(patches, 0))
    if side and side * side == patches:  # otherwise the config must tell
        fields["input_size"] = (side * patch[0], side * patch[1])
    return fields | stack("decoder_blocks", "decoder_") if has_decoder else fields


def _official_fields(config: Fields, where: str) -> Fields:
    """What the arguments of the official classes, or timm's config.json, say."""
    arguments = config.get("model_args", {})
    unknown = sorted(arguments.keys() - {*_OFFICIAL, "num_classes", "global_pool", "class_token"})
    if unknown:
        raise CheckpointError(f"{where} was built with arguments of timm that this model does not have: {', '.join(unknown)}.")
    config = {**config, **arguments}
    renamed = {"img_size": "input_size", "drop_path_rate": "drop_path"}
    fields = {renamed.get(k, k): config[k] for k in _OFFICIAL if k in config}
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
            fields[f"{stack}mlp_ratio"] = _ratio(hidden, shapes[f"{stack}embed_dim"])
    return fields


def _settle(fields: Fields, where: str) -> None:
    """Fill in the published number of heads where the config says none, and ask for what cannot be known."""
    for width, heads, published in (("embed_dim", "num_heads", HEADS), ("decoder_embed_dim", "decoder_num_heads", DECODER_HEADS)):
        if width not in fields or heads in fields:
            continue
        if fields[width] not in published:
            raise CheckpointError(
                f"{where} does not say its number of attention heads, which no tensor shows, and {width}={fields[width]} is no published size "
                f"({', '.join(map(str, published))}). Put {heads} into its config.json."
            )
        fields[heads] = published[fields[width]]
        log.info("%s does not say %s; taking %d, as in the published model with %s=%d.", where, heads, fields[heads], width, fields[width])
    if "input_size" not in fields:
        raise CheckpointError(f"{where} has a position table that is no square grid, and no config.json that says its image size.")


def _head_fields(state: State, config: Fields, where: str) -> Fields:
    """Pooling and head of a file without decoder, by its config and its tensors."""
    pool = config.get("global_pool", "fc_norm.weight" in state)
    if pool not in (True, False, "avg", "token", ""):
        raise CheckpointError(f"{where} pools its tokens by {pool!r} (global_pool), which this model cannot do. Expected avg or token.")
    probe = "head.1.weight" in state
    head = state.get("head.1.weight" if probe else "head.weight")
    return {
        "pool": "avg" if pool in (True, "avg") else "token",
        "head": "probe" if probe else "linear",
        "num_classes": config.get("num_classes", 0 if head is None else head.shape[0]),
    }


def _ratio(hidden: int, width: int) -> float:
    """The mlp_ratio for which int(width * ratio) is exactly `hidden`, whatever the rounding."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _join(parts: list[Tensor]) -> Tensor:
    """One tensor from query, key and value; a single one stays the same memory."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


