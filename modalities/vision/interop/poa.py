"""POA checkpoints of the official code (alipay/POA) <-> ours, and the sub-models that its extraction writes.

A checkpoint holds `backbone.*` and `dino_head.*`, perhaps all under `teacher.`. A sub-model is a plain vision transformer under timm's
names, with LayerScale. Every tensor of a file must be used and every tensor of the model filled.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from torch import Tensor

from modalities.common.interop import Fields, State, converted, ratio, require_telling
from modalities.common.loading import skeleton
from modalities.common.model import Model
from modalities.common.stored import Description
from modalities.vision.interop import mae
from modalities.vision.models.poa import POA, POAConfig
from modalities.vision.models.poa_vit import POAViT
from trainer.errors import CheckpointError, ModelError, did_you_mean, shorten

TEACHER, STUDENT = "teacher.", "student."
_CORE = ("cls_token", "pos_embed", "mask_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.linear.weight")
_FLAT = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight")
_ELASTIC = ("norm1", "norm2", "norm", "qkv", "proj", "fc1", "fc2")
"""Modules that the official code wraps: what is inside is called `norm` or `linear`."""
_RENAMED = {
    "img_size": "input_size", "patch_size": "patch_size", "in_chans": "in_chans", "max_embed_dim": "embed_dim", "max_depth": "depth",
    "min_embed_dim": "min_embed_dim", "min_depth": "min_depth", "head_dim": "head_dim", "width_interval": "width_step", "depth_interval": "depth_step",
    "net_select_scale": "small_share", "mlp_ratio": "mlp_ratio", "qkv_bias": "qkv_bias", "init_values": "layer_scale",
}  # fmt: skip
"""Arguments of the official network -> fields of ours."""
_FIXED = {"mode": "order", "ffn_layer": "mlp", "ffn_bias": True, "proj_bias": True, "use_bn": False, "mlp_bias": True}
"""Arguments of which only one value is supported."""
_SHAPES = ("head_out_dims", "head_hidden_dim", "head_bottleneck_dim", "head_nlayers", "drop_path_rate", "drop_path_uniform", "elastic")
"""Arguments that shapes tell, or on which no output depends."""
_PLAIN = ("img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "init_values", "num_classes", "head_dim")
"""Arguments of an extracted network."""


def recognise(keys: Iterable[str], config: Fields | None) -> str | None:
    """ "official" for a network with its heads, "official-extracted" for a sub-model, None when it is neither."""
    if config is not None and not isinstance(config, dict):
        return None
    keys, config = set(keys), config or {}
    if {"model_type", "architecture"} & config.keys():
        return None
    inside = {k.removeprefix(TEACHER).removeprefix(STUDENT).removeprefix("backbone.") for k in keys if "backbone." in k}
    if len(inside.intersection(_CORE)) > 3:  # one may be lost: it will be named
        return "official"
    factors = any(re.fullmatch(r"blocks\.\d+\.ls[12]\.gamma", k) for k in keys)
    if any(re.fullmatch(r"blocks\.\d+\.attn\.[qk]_norm\.\w+", k) for k in keys):  # another vision transformer with such factors (InternVideo-Next)
        return None
    return "official-extracted" if factors and len(keys.intersection(_FLAT)) > 2 else None


def describe(meta: Mapping[str, Tensor], config: Fields | None, layout: str, where: str, preprocessing: Any = None) -> Description:
    """What a file in a layout holds; `meta`: its tensors, of which only names and shapes are looked at. Raises CheckpointError."""
    config = {k: v for k, v in (config or {}).items() if v is not None or k == "init_values"}
    known = _PLAIN if layout == "official-extracted" else (*_RENAMED, *_FIXED, *_SHAPES)
    unknown = sorted(config.keys() - {*known})
    if unknown:
        raise CheckpointError(f"{where}: config.json has {shorten(unknown[0])}, no argument of the official classes.{did_you_mean(unknown[0], known)} They take {', '.join(known)}.")
    if layout == "official-extracted":
        return _extracted(meta, config, where)
    if any(k.startswith(STUDENT) for k in meta):
        raise CheckpointError(f"{where} holds the student of a training run, perhaps beside the teacher. The teacher is the model: keep the tensors under {TEACHER!r} alone.")
    for name, value in _FIXED.items():
        if config.get(name, value) != value:
            raise CheckpointError(f"{where} was built with {name}={shorten(config[name])}; only {name}={value!r} is supported.")
    prefix = TEACHER if any(k.startswith(TEACHER) for k in meta) else ""
    fields = _fields(meta, config, prefix, where)
    single = fields["head_layers"] == 1
    return Description("official", POA.system, fields, lambda ours: (prefix + official_name(ours, single),))


def _extracted(meta: Mapping[str, Tensor], config: Fields, where: str) -> Description:
    """A sub-model: read as timm's names are, with heads of the width that all of them have."""
    table = meta.get("pos_embed")
    head_dim = config.pop("head_dim", POAConfig.head_dim)
    heads = {"num_heads": table.shape[-1] // head_dim} if table is not None and table.ndim else {}
    described = mae.read(meta, {"global_pool": "token", **heads, **config}, "timm", where)
    return dataclasses.replace(described, layout="official", system=POAViT.system)


def from_layout(state: State, config: Fields | None, where: str = "the checkpoint") -> tuple[Fields, State]:
    """(config fields, state in our names) of a checkpoint with heads. CheckpointError lists what does not fit, in the file's own names."""
    _, fields, _, ours = converted(state, describe(state, config, "official", where), where)
    return fields, ours


def to_official(model: Model) -> State:
    """The state dict that the official classes load: backbone and heads of a network, or the plain names of a part of one."""
    if isinstance(model, POAViT):
        return dict(model.state_dict())
    if not isinstance(model, POA):
        raise ModelError(f"Expected a POA network or a part of one, found a {type(model).__name__}.")
    single = model.config.head_layers == 1
    return {official_name(ours, single): tensor for ours, tensor in model.state_dict().items()}


def official_name(ours: str, single: bool = False) -> str:
    """What the official code calls one of our tensors; `single`: its heads have one layer."""
    head = re.fullmatch(r"heads\.(\d+)\.(?:mlp\.(\d+)\.(\w+)|(direction|gain))", ours)
    if head is None:
        module, _, leaf = ours.rpartition(".")
        last = module.rpartition(".")[2]
        elastic = last in _ELASTIC and not module.startswith("patch_embed")
        inside = (".norm" if last.startswith("norm") else ".linear") if elastic else ""
        return f"backbone.{module}{inside}.{leaf}" if module else f"backbone.{ours}"
    number, layer, leaf, last = head.groups()
    if last:
        return f"dino_head.last_layer{number}.{'weight_v' if last == 'direction' else 'weight_g'}"
    place = "" if single else f".{2 * int(layer)}"  # activations lie between the layers
    return f"dino_head.mlp{number}{place}{'.linear' if layer == '0' else ''}.{leaf}"


def _fields(meta: Mapping[str, Tensor], config: Fields, prefix: str, where: str) -> Fields:
    """Config fields from shapes and, for what they do not show, from the arguments; what neither says is as published."""
    heads = {int(m[1]) for name in meta if (m := re.match(rf"{re.escape(prefix)}dino_head\.(?:mlp|last_layer)(\d+)\.", name))}
    layers = {int(m[1]) for name in meta if (m := re.match(rf"{re.escape(prefix)}dino_head\.mlp0\.(\d+)\.", name))}
    single = bool(heads) and not layers
    count = max(len(layers), 1)
    telling = {"patch_embed.proj.weight": 4, "pos_embed": 3, "blocks.0.norm1.weight": 1, "blocks.0.mlp.fc1.bias": 1}
    if heads:
        telling |= {"heads.0.mlp.0.bias": 1, f"heads.0.mlp.{count - 1}.bias": 1, **{f"heads.{i}.gain": 2 for i in range(len(heads))}}
    names = {ours: prefix + official_name(ours, single) for ours in telling}
    require_telling(meta, {names[ours]: axes for ours, axes in telling.items()}, {prefix + name for name in _names()}, "official", where)
    shapes = {ours: tuple(meta[name].shape) for ours, name in names.items()}
    width, inside = shapes["blocks.0.norm1.weight"][0], shapes["blocks.0.mlp.fc1.bias"][0]
    numbers = {m[1] for name in meta if (m := re.match(rf"{re.escape(prefix)}backbone\.blocks\.(\d+)\.", name))}
    _, in_chans, *patch = shapes["patch_embed.proj.weight"]
    fields: Fields = {
        "patch_size": tuple(patch), "in_chans": in_chans, "embed_dim": width, "depth": len(numbers), "mlp_ratio": ratio(inside, width),
        "qkv_bias": any(name.endswith("attn.qkv.linear.bias") for name in meta),
        "layer_scale": mae.FIRST_FACTOR if any(name.endswith(".gamma") for name in meta) else None,
        "prototypes": tuple(shapes[f"heads.{i}.gain"][0] for i in range(len(heads))), "head_layers": count,
    }  # fmt: skip
    if heads:
        fields |= {"head_hidden_dim": shapes["heads.0.mlp.0.bias"][0], "head_bottleneck_dim": shapes[f"heads.0.mlp.{count - 1}.bias"][0]}
    if single:
        fields.pop("head_hidden_dim")
    side = max(math.isqrt(max(shapes["pos_embed"][1] - 1, 0)), 1)  # a wrong one is named when the tensors are compared
    fields["input_size"] = (side * patch[0], side * patch[1])
    stated = {ours: config[theirs] for theirs, ours in _RENAMED.items() if theirs in config and theirs not in ("mlp_ratio", "init_values", "qkv_bias")}
    if fields["layer_scale"] is not None and config.get("init_values"):
        stated["layer_scale"] = config["init_values"]
    fields |= stated
    for name, whole in (("min_embed_dim", fields["embed_dim"]), ("min_depth", fields["depth"])):
        fields.setdefault(name, min(getattr(POAConfig, name), whole) if isinstance(whole, int) else whole)
    return fields


@cache
def _names() -> set[str]:
    """Every tensor name of the layout, with 0 for its numbers."""
    config = POAConfig(input_size=4, patch_size=2, embed_dim=4, depth=1, head_dim=4, min_embed_dim=4, min_depth=1, prototypes=(2,), head_hidden_dim=4, head_bottleneck_dim=2)
    return {re.sub(r"\d+", "0", official_name(ours, single)) for ours in skeleton(POA, config, 0, "official").state_dict() for single in (False, True)}
