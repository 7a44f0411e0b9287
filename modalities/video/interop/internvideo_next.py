"""Checkpoints of the official InternVideo-Next encoder <-> ours. The tensor names are the same; the config is in the words of the official class.

What the config does not say is read from the shapes; heads, which no shape shows, are those of the published model of that width.
"""

import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from torch import Tensor

from modalities.common.interop import Fields, require_telling, settle_heads, stack_fields
from modalities.common.loading import skeleton
from modalities.common.model import Model
from modalities.common.stored import Description
from modalities.video.models.internvideo_next import InternVideoNext, InternVideoNextConfig
from trainer.errors import CheckpointError, ModelError, did_you_mean, shorten

HEADS = {384: 6, 768: 12, 1024: 16, 1408: 16}
"""Heads of the published sizes by width. Shapes do not tell them."""
SIDE = 224
"""Pixels of the released models, for files whose config does not say it."""
_READ = {
    "embed_dim": "embed_dim", "depth": "depth", "num_heads": "num_heads", "mlp_ratio": "mlp_ratio", "qkv_bias": "qkv_bias", "qk_normalization": "qk_norm",
    "attn_pool_num_heads": "pool_heads", "clip_embed_dim": "pool_dim", "cls_token_num": "class_tokens", "in_chans": "in_chans", "drop_path_rate": "drop_path",
}  # fmt: skip
"""Arguments of the official class -> our fields, for those that mean the same."""
_OTHERS = ("img_size", "num_frames", "patch_size", "tubelet_size", "init_values", "sep_pos_embed")
"""Arguments that are read in another way."""
_WITHOUT_EFFECT = (
    "use_flash_attn", "use_fused_rmsnorm", "use_fused_mlp", "fused_mlp_heuristic", "layerscale_no_force_fp32", "use_checkpoint", "checkpoint_num",
    "head_drop_path_rate", "num_classes",
)  # fmt: skip
"""Arguments on which no weight and no output depends."""
_MARKS = {"clip_projector.cross_attn.q.weight", "patch_embed.norm_before.weight", "pos_embed", "cls_token"}


def recognise(keys: Iterable[str], config: Fields | None) -> str | None:
    """ "official" when the names are those of the official encoder, else None."""
    if config is not None and (not isinstance(config, dict) or "model_type" in config):
        return None
    return "official" if len(_MARKS & set(keys)) >= 3 else None  # one may be lost: it will be named


def describe(meta: Mapping[str, Tensor], config: Fields | None, layout: str, where: str, preprocessing: Any = None) -> Description:
    """What a file holds, from the names and shapes of its tensors and the arguments in `config`. Raises CheckpointError."""
    config = {k: v for k, v in (config or {}).items() if v is not None or k == "init_values"}
    known = (*_READ, *_OTHERS, *_WITHOUT_EFFECT)
    unknown = sorted(config.keys() - set(known))
    if unknown:
        raise CheckpointError(f"{where}: config.json has {shorten(unknown[0])}, no argument of the official class.{did_you_mean(unknown[0], known)}")
    if config.get("sep_pos_embed"):
        raise CheckpointError(f"{where} has separate tables for time and space (sep_pos_embed), which none of the released models has and this one lacks.")
    fields = _fields_of_shapes(meta, config, where)
    fields |= {ours: config[theirs] for theirs, ours in _READ.items() if theirs in config}
    if "init_values" in config and fields["layer_scale"] is not None:
        fields["layer_scale"] = config["init_values"]
    settle_heads(fields, HEADS, {}, where)
    fields.setdefault("pool_heads", 16)
    return Description("official", InternVideoNext.system, fields)


def to_official(model: Model) -> dict[str, Tensor]:
    """The state dict that the official class loads. ModelError for a model with another number of channels, which that class cannot have."""
    if model.config.in_chans != 3:
        raise ModelError(f"The official class norms patches of 3 channels; this model has {model.config.in_chans}, so it cannot be written in that layout.")
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head.")}


def to_official_config(model: Model) -> Fields:
    """The arguments of the official class for a model."""
    c = model.config
    if c.input_size[1] != c.input_size[2] or c.patch_size[1] != c.patch_size[2]:
        raise ModelError(f"The official class takes square clips and patches, found {c.input_size} and {c.patch_size}.")
    return {
        "img_size": c.input_size[1], "num_frames": c.input_size[0], "patch_size": c.patch_size[1], "tubelet_size": c.patch_size[0],
        "init_values": c.layer_scale, **{theirs: getattr(c, ours) for theirs, ours in _READ.items()},
    }  # fmt: skip


def _fields_of_shapes(meta: Mapping[str, Tensor], config: Fields, where: str) -> Fields:
    """Config fields that the shapes tell; of the size of the clips only as much as the config leaves open."""
    telling = {
        "patch_embed.proj.weight": 5, "pos_embed": 3, "blocks.0.norm1.weight": 1, "blocks.0.mlp.fc1.bias": 1,
        "clip_projector.cross_attn.proj.bias": 1,
    }  # fmt: skip
    require_telling(meta, telling, _names(), "official", where)
    _, in_chans, *patch = meta["patch_embed.proj.weight"].shape
    stack = stack_fields(meta, "blocks.0.norm1.weight", "blocks.0.mlp.fc1.bias", "")
    names = [f"blocks.{n}." for n in range(stack["depth"])]
    class_tokens = config.get("cls_token_num", meta["cls_token"].shape[1] if "cls_token" in meta and meta["cls_token"].ndim == 3 else 4)
    return {
        **stack,
        "input_size": _input_size(meta["pos_embed"].shape[1] - class_tokens, patch, config, where),
        "patch_size": tuple(patch),
        "in_chans": in_chans,
        "qkv_bias": any(f"{n}attn.qkv.bias" in meta for n in names),
        "qk_norm": any(f"{n}attn.{x}_norm.weight" in meta for n in names for x in "qk"),
        "layer_scale": 1e-5 if any(f"{n}ls{i}.gamma" in meta for n in names for i in (1, 2)) else None,
        "class_tokens": class_tokens,
        "pool_dim": meta["clip_projector.cross_attn.proj.bias"].shape[0],
    }


@cache
def _names() -> set[str]:
    """Every tensor name of the layout, with 0 for its numbers."""
    size = dict(input_size=(1, 2, 2), patch_size=(1, 2, 2), embed_dim=16, depth=1, num_heads=1, pool_heads=1)
    model = skeleton(InternVideoNext, InternVideoNextConfig(**size, qkv_bias=True), 0, "official")
    return {re.sub(r"\d+", "0", name) for name in model.state_dict()}


def _input_size(patches: int, patch: list[int], config: Fields, where: str) -> tuple[int, int, int]:
    """Frames, height and width for so many patches: what the config says, the released size for what it leaves open."""
    side = config.get("img_size", SIDE)
    for name, value in (("img_size", side), ("num_frames", config.get("num_frames", 1))):
        if not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{where}: {name} in config.json must be a whole number above 0, found {shorten(value)}.")
    rows, columns = side // patch[1], side // patch[2]
    frames = config.get("num_frames", patches // max(rows * columns, 1) * patch[0])
    if frames // patch[0] * rows * columns == patches:
        return frames, rows * patch[1], columns * patch[2]
    if "num_frames" in config and "img_size" not in config and frames >= patch[0]:
        square = math.isqrt(patches // (frames // patch[0]))
        if square * square * (frames // patch[0]) == patches:
            return frames, square * patch[1], square * patch[2]
    raise CheckpointError(
        f"{where} has a position table for {patches} patches (pos_embed), which are no {frames} frames of {side} x {side} pixels in patches of {tuple(patch)} (patch_embed.proj.weight). "
        "Put img_size and num_frames into its config.json."
    )
