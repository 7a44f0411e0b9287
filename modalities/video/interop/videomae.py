"""VideoMAE checkpoints of other libraries <-> ours: the official code and transformers.

Our names are MAE's. The official code has those of its fine-tuning network under `encoder.` and `decoder.`, with the biases of queries and
values beside the joint matrix. transformers splits that matrix in three and has two spellings of the biases: "transformers" (files) and
"transformers-memory" (the state_dict of its version 5). Positions are in no file. Every tensor of a file must be used and every tensor
of the model must be filled.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from torch import Tensor

from modalities.common.interop import (
    DROPOUT_OF_TRANSFORMERS, Fields, State, converted, ratio, require_telling, settle_heads, stack_fields, statistics_of_transformers, transformers_fields,
)  # fmt: skip
from modalities.common.loading import skeleton
from modalities.common.model import Model
from modalities.common.stored import Description
from modalities.video.models.videomae import VideoMAE, VideoMAEConfig
from modalities.video.models.vit import VideoClassifier, VideoClassifierConfig
from trainer.errors import CheckpointError, ModelError, did_you_mean, shorten

HEADS = {384: 6, 768: 12, 1024: 16, 1280: 16}
"""Heads of the published encoders by width. Shapes do not tell them."""
DECODER_HEADS = {192: 3, 384: 6, 512: 8, 640: 8}
"""The same for the published decoders."""
LAYOUTS = ("official", "transformers", "transformers-memory")
EPS_OF_TRANSFORMERS = 1e-5
"""Epsilon of transformers' norms before an output, whatever its layer_norm_eps."""

_OFFICIAL_TOP = {
    "patch_embed.proj": "encoder.patch_embed.proj", "norm": "encoder.norm", "decoder_embed": "encoder_to_decoder", "mask_token": "mask_token",
    "decoder_norm": "decoder.norm", "decoder_pred": "decoder.head",
}  # fmt: skip
_TRANSFORMERS_TOP = {
    "patch_embed.proj": "videomae.embeddings.patch_embeddings.projection", "norm": "videomae.layernorm", "decoder_embed": "encoder_to_decoder",
    "mask_token": "mask_token", "decoder_norm": "decoder.norm", "decoder_pred": "decoder.head", "fc_norm": "fc_norm", "head": "classifier",
}  # fmt: skip
_INSIDE = {
    "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
}  # fmt: skip
_BIASES = {
    "transformers": {"q_bias": "attention.attention.q_bias", "v_bias": "attention.attention.v_bias"},
    "transformers-memory": {"q_bias": "attention.attention.query.bias", "v_bias": "attention.attention.value.bias"},
}
_OFFICIAL_FIELDS = {
    "encoder_in_chans": "in_chans", "encoder_embed_dim": "embed_dim", "encoder_depth": "depth", "encoder_num_heads": "num_heads",
    "in_chans": "in_chans", "embed_dim": "embed_dim", "depth": "depth", "num_heads": "num_heads",
    "decoder_embed_dim": "decoder_embed_dim", "decoder_depth": "decoder_depth", "decoder_num_heads": "decoder_num_heads",
    "qkv_bias": "qkv_bias", "norm_eps": "norm_eps", "drop_path_rate": "drop_path", "fc_drop_rate": "head_dropout",
}  # fmt: skip
_TRANSFORMERS_FIELDS = {
    "num_channels": "in_chans", "hidden_size": "embed_dim", "num_hidden_layers": "depth", "num_attention_heads": "num_heads",
    "layer_norm_eps": "norm_eps", "hidden_act": "activation",
    "decoder_hidden_size": "decoder_embed_dim", "decoder_num_hidden_layers": "decoder_depth", "decoder_num_attention_heads": "decoder_num_heads",
}  # fmt: skip
_OFFICIAL_OTHERS = (
    "img_size", "patch_size", "tubelet_size", "num_frames", "all_frames", "mlp_ratio", "mask_ratio", "normlize_target", "use_mean_pooling",
    "num_classes", "init_scale", "decoder_num_classes", "encoder_num_classes",
)  # fmt: skip
"""Arguments of the official code that are read one by one, or that no weight depends on."""


def recognise(keys: Iterable[str], config: Fields | None) -> str | None:
    """The layout of a checkpoint by its tensor names and its config.json (None: it has none), or None when it is not ours to read."""
    if config is not None and not isinstance(config, dict):
        return None
    keys, config = set(keys), config or {}
    kind = config.get("model_type")
    if kind == "videomae" or (kind is None and any(k.startswith("videomae.") for k in keys)):
        return "transformers-memory" if any(k.endswith("attention.query.bias") for k in keys) else "transformers"
    if kind is not None or "architecture" in config:
        return None
    whole = len({"encoder.patch_embed.proj.weight", "encoder.blocks.0.attn.qkv.weight", "encoder_to_decoder.weight", "decoder.head.weight"} & keys) > 2
    flat = bool({"patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} & keys) and not {"cls_token", "pos_embed"} & keys
    ours = any(k.endswith(".attn.q_bias") for k in keys) or "tubelet_size" in config
    return "official" if whole or (flat and ours) else None


def describe(meta: Mapping[str, Tensor], config: Fields | None, layout: str, where: str, preprocessing: Any = None) -> Description:
    """What a folder or file in a layout holds. `meta`: its tensors, of which only names and shapes are looked at.

    `config` is its config.json, `preprocessing` its preprocessor_config.json, as far as it has them. Raises CheckpointError.
    """
    if layout == "official":
        known = (*_OFFICIAL_FIELDS, *_OFFICIAL_OTHERS)
        unknown = sorted((config or {}).keys() - {*known})
        if unknown:
            raise CheckpointError(f"{where}: config.json has {shorten(unknown[0])}, no argument of the official classes.{did_you_mean(unknown[0], known)} They take {', '.join(known)}.")
    described = read(meta, config, layout, where)
    changes = statistics_of_transformers(preprocessing, where) if layout != "official" else {}
    return Description(described.layout, described.system, described.fields, described.names, described.objective, changes)


def read(meta: Mapping[str, Tensor], config: Fields | None, layout: str, where: str = "the checkpoint") -> Description:
    """What a checkpoint holds, from the names and shapes of its tensors and the `config` that came with it.

    Both spellings of transformers are read under either name. `config` is config.json of transformers, or the arguments of the official class.
    What it does not say is read from the shapes; heads and sizes that it does not say are those of the published model of that width.
    Raises CheckpointError that asks for what cannot be known.
    """
    if layout not in LAYOUTS:
        raise CheckpointError(f"{where}: unknown layout {layout!r}. Expected one of: {', '.join(LAYOUTS)}.")
    config = {k: v for k, v in (config or {}).items() if v is not None}
    if layout != "official":
        layout = recognise(meta, {"model_type": "videomae"}) or layout
    decoder = any(name in meta for name in ("mask_token", "encoder_to_decoder.weight", "decoder.norm.weight", "decoder.head.weight"))
    fields = _fields_of_shapes(meta, layout, where, decoder)
    fields |= _stated(config, fields, layout, where, decoder)
    settle_heads(fields, HEADS, DECODER_HEADS, where)
    if decoder:
        system = VideoMAE.system
        fields["encoder_norm"] = names_in("norm.weight", layout, True)[0] in meta or (layout == "official" or not config.get("use_mean_pooling", True))
    else:
        system = VideoClassifier.system
        fields |= _head_fields(meta, config, layout)
    ratio_and_norm = {"mask_ratio": config.get("mask_ratio"), "norm_pix_loss": config.get("normlize_target", config.get("norm_pix_loss"))}
    objective = {k: v for k, v in ratio_and_norm.items() if decoder and v is not None}
    return Description(layout, system, fields, lambda ours: names_in(ours, layout, decoder), objective)


def from_layout(state: State, config: Fields | None, layout: str, where: str = "the checkpoint") -> tuple[str, Fields, Fields, State]:
    """(system, config fields, objective fields, state in our names) of a checkpoint; see `read`. CheckpointError lists what does not fit."""
    return converted(state, read(state, config, layout, where), where)


def to_layout(state: State, layout: str, decoder: bool) -> State:
    """Tensors by our parameter names (a state, gradients) under the names of a layout; `decoder`: of a model with one."""
    renamed: State = {}
    for ours, tensor in state.items():
        names = names_in(ours, layout, decoder)
        renamed.update(zip(names, tensor.chunk(len(names)) if len(names) > 1 else [tensor]))
    return renamed


def names_in(ours: str, layout: str, decoder: bool) -> tuple[str, ...]:
    """What a layout calls one of our tensors; three names for the joint qkv of transformers (query, key, value).

    `decoder`: the model is a masked auto-encoder, whose encoder the official code calls `encoder`.
    """
    module, _, leaf = ours.rpartition(".")
    found = re.fullmatch(r"(decoder_)?blocks\.(\d+)\.(.+)", module)
    if layout == "official":
        if not decoder:
            return (ours.replace(".qkv.q_bias", ".q_bias").replace(".qkv.v_bias", ".v_bias"),)
        if found:
            stack, number, part = found.groups()
            part = "attn" if leaf in ("q_bias", "v_bias") else part
            return (f"{'decoder' if stack else 'encoder'}.blocks.{number}.{part}.{leaf}",)
        return (f"{_OFFICIAL_TOP[module]}.{leaf}" if module else _OFFICIAL_TOP[ours],)
    if not found:
        return (f"{_TRANSFORMERS_TOP[module]}.{leaf}" if module else _TRANSFORMERS_TOP[ours],)
    stack, number, part = found.groups()
    layer = f"{'decoder.decoder_layers' if stack else 'videomae.encoder.layer'}.{number}"
    if part == "attn.qkv":
        return (f"{layer}.{_BIASES[layout][leaf]}",) if leaf != "weight" else tuple(f"{layer}.attention.attention.{kind}.weight" for kind in ("query", "key", "value"))
    return (f"{layer}.{_INSIDE[part]}.{leaf}",)


def to_official(model: Model) -> State:
    """The state dict that the official classes load (pre-training, or the fine-tuning classifier). ModelError for what they cannot hold."""
    _require_expressible(model, "The official VideoMAE")
    if getattr(model.config, "encoder_norm", True) is False:
        raise ModelError("The official VideoMAE norms the output of its encoder, and this model does not (encoder_norm=False).")
    return to_layout(dict(model.state_dict()), "official", isinstance(model, VideoMAE))


def to_transformers(model: Model, objective: Fields | None = None, variant: str = "transformers") -> tuple[State, Fields]:
    """State and config.json of transformers' `VideoMAEForPreTraining` or `VideoMAEForVideoClassification`, in the spelling of files.

    `objective` gives norm_pix_loss for the config (default: True). Raises ModelError for a model that these classes cannot express.
    """
    _require_expressible(model, "transformers' VideoMAE")
    c, decoder = model.config, isinstance(model, VideoMAE)
    tubelet, patch, _ = c.patch_size
    config = {
        "architectures": ["VideoMAEForPreTraining" if decoder else "VideoMAEForVideoClassification"],
        "model_type": "videomae",
        **transformers_fields(c, decoder=decoder, labels=not decoder),
        **DROPOUT_OF_TRANSFORMERS,
        "image_size": c.input_size[1],
        "patch_size": patch,
        "num_frames": c.input_size[0],
        "tubelet_size": tubelet,
        "qv_bias": c.qkv_bias,
        "use_mean_pooling": not c.encoder_norm if decoder else c.pool == "avg",
    }
    if decoder:
        config["norm_pix_loss"] = (objective or {}).get("norm_pix_loss", True)
    return to_layout(dict(model.state_dict()), variant, decoder), config


def _require_expressible(model: Model, place: str) -> None:
    c = model.config
    reasons = {
        f"it is a {type(model).__name__}": not isinstance(model, (VideoMAE, VideoClassifier)),
        "it has a class token": c.class_token,
        f"its positions are {c.position_layout}": c.position_layout != "interleaved",
        f"its frames {c.input_size[1:]} are not square": c.input_size[1] != c.input_size[2],
        f"its patches {c.patch_size[1:]} are not square": c.patch_size[1] != c.patch_size[2],
        "it is a linear probe, with a batch norm before its head": getattr(c, "head", "linear") == "probe",
    }
    if any(reasons.values()):
        raise ModelError(f"{place} cannot hold this model: {next(r for r, hit in reasons.items() if hit)}.")


def _fields_of_shapes(state: Mapping[str, Tensor], layout: str, where: str, decoder: bool) -> Fields:
    """Config fields that the shapes of a checkpoint tell."""
    telling = {"patch_embed.proj.weight": 5}
    for blocks in ("blocks", "decoder_blocks")[: 1 + decoder]:
        telling |= {f"{blocks}.0.norm1.weight": 1, f"{blocks}.0.mlp.fc1.bias": 1}
    names = {ours: names_in(ours, layout, decoder)[0] for ours in telling}
    require_telling(state, {names[ours]: axes for ours, axes in telling.items()}, _names_of(layout, decoder), layout, where)
    _, in_chans, *patch = state[names["patch_embed.proj.weight"]].shape
    fields: Fields = {"patch_size": tuple(patch), "in_chans": in_chans}
    for blocks, prefix in (("blocks", ""), ("decoder_blocks", "decoder_"))[: 1 + decoder]:
        fields |= stack_fields(state, names[f"{blocks}.0.norm1.weight"], names[f"{blocks}.0.mlp.fc1.bias"], prefix)
    fields["qkv_bias"] = any(
        names_in(f"blocks.{n}.attn.qkv.{leaf}", layout, decoder)[0] in state for n in range(fields["depth"]) for leaf in ("q_bias", "v_bias")
    )
    return fields


@cache
def _names_of(layout: str, decoder: bool) -> set[str]:
    """Every tensor name of a layout, with 0 for its numbers."""
    size = dict(input_size=(2, 4, 4), patch_size=(2, 2, 2), embed_dim=4, depth=1, num_heads=1)
    if decoder:
        models = [skeleton(VideoMAE, VideoMAEConfig(**size, decoder_embed_dim=4, decoder_depth=1, decoder_num_heads=1), 0, layout)]
    else:
        models = [skeleton(VideoClassifier, VideoClassifierConfig(**size, num_classes=2, pool=pool), 0, layout) for pool in ("avg", "token")]
    return {re.sub(r"\d+", "0", name) for model in models for ours in model.state_dict() for name in names_in(ours, layout, decoder)}


def _stated(config: Fields, shapes: Fields, layout: str, where: str, decoder: bool) -> Fields:
    """What the config says, and what files without a word on it were made with."""
    table = _OFFICIAL_FIELDS if layout == "official" else _TRANSFORMERS_FIELDS
    fields = {ours: config[theirs] for theirs, ours in table.items() if theirs in config}
    height, width = _pair(config, ("img_size", "image_size"), 224, where)
    frames = config.get("all_frames" if layout == "official" and not decoder else "num_frames", 16)
    fields["input_size"] = (frames, height, width)
    if "patch_size" in config or "tubelet_size" in config:
        fields["patch_size"] = (config.get("tubelet_size", shapes["patch_size"][0]), *_pair(config, ("patch_size",), shapes["patch_size"][1:], where))
    if layout == "official":
        fields["last_norm_eps"] = fields.setdefault("norm_eps", 1e-6)
        if "mlp_ratio" in config:
            fields |= {"mlp_ratio": config["mlp_ratio"], "decoder_mlp_ratio": config["mlp_ratio"]}
    else:
        fields |= {"norm_eps": fields.get("norm_eps", 1e-12), "last_norm_eps": EPS_OF_TRANSFORMERS}
        fields |= {"qkv_bias": config[name] for name in ("qkv_bias", "qv_bias") if name in config}
        for stack in ("", "decoder_")[: 1 + decoder]:
            hidden = config.get(f"{stack}intermediate_size")
            if hidden is not None:
                if not isinstance(hidden, int):
                    raise CheckpointError(f"{where}: {stack}intermediate_size in config.json must be a whole number, found {hidden!r}.")
                fields[f"{stack}mlp_ratio"] = ratio(hidden, shapes[f"{stack}embed_dim"])
    config_class = VideoMAEConfig if decoder else VideoClassifierConfig
    return {name: value for name, value in fields.items() if name in config_class.__dataclass_fields__}


def _pair(config: Fields, names: tuple[str, ...], default: Any, where: str) -> tuple[int, int]:
    """Height and width, given as one number or two."""
    value = next((config[name] for name in names if name in config), default)
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (list, tuple)) else ()
    if len(pair) != 2 or not all(isinstance(side, int) for side in pair):
        raise CheckpointError(f"{where}: {names[0]} in its config must be one or two whole numbers, found {shorten(value)}.")
    return pair


def _head_fields(state: Mapping[str, Tensor], config: Fields, layout: str) -> Fields:
    """Pooling and head of a classifier, by its config and its tensors."""
    weight, bias = (names_in(f"head.{leaf}", layout, False)[0] for leaf in ("weight", "bias"))
    head = next((state[name] for name in (bias, weight) if name in state), None)
    mean = config.get("use_mean_pooling", any(name.startswith("fc_norm.") for name in state))
    classes = config.get("num_classes", config.get("num_labels", 0 if head is None or head.ndim == 0 else head.shape[0]))
    fields = {"pool": "avg" if mean else "token", "num_classes": classes}
    labels = config.get("id2label")
    if isinstance(labels, dict) and len(labels) == classes:
        names = tuple(str(labels.get(str(i), labels.get(i))) for i in range(classes))
        if len({*names}) == classes and names != tuple(f"LABEL_{i}" for i in range(classes)):
            fields["class_names"] = names
    return fields
