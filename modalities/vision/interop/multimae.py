"""MultiMAE checkpoints of the official code <-> ours. The names are the same; what has to be found out is the architecture.

A file with decoders is a "vision/multimae", one with a classification head a "vision/multivit". Every tensor of a file must be used and
every tensor of the model must be filled.
"""

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from modalities.common.interop import Fields, State, ratio
from modalities.common.loading import told
from modalities.common.stored import Description
from modalities.vision.interop.mae import HEADS
from modalities.vision.models.multi_input import INPUTS, MultiInputEncoder
from modalities.vision.models.multimae import OUTPUTS, MultiMAE
from modalities.vision.models.multivit import HEAD, MultiViT
from trainer.config import from_dict
from trainer.errors import CheckpointError, ConfigError, ModelError, did_you_mean, shorten

DECODER_HEADS = {256: 8}
"""Heads of the published decoders by width, which no shape tells."""
_ARGUMENTS = {
    "dim_tokens": "embed_dim", "depth": "depth", "num_heads": "num_heads", "mlp_ratio": "mlp_ratio", "num_global_tokens": "num_global_tokens",
    "dim_class_emb": "dim_class_emb", "drop_path_rate": "drop_path",
}  # fmt: skip
_DECODER_ARGUMENTS = {
    "decoder_dim": "decoder_dim", "decoder_depth": "decoder_depth", "decoder_num_heads": "decoder_num_heads", "decoder_mlp_ratio": "decoder_mlp_ratio",
    "use_task_queries": "use_task_queries", "use_xattn": "use_xattn",
}  # fmt: skip
"""Arguments of the official code -> fields of our configs."""
_OTHERS = (
    "in_domains", "out_domains", "input_size", "patch_size", "semseg_stride", "num_classes", "use_mean_pooling", "num_encoded_tokens", "alphas",
    "sample_tasks_uniformly", "standardize_depth", "extra_norm_pix_loss", "loss_on_unmasked", "task_balancer",
)  # fmt: skip
"""Arguments that are read below, or that no weight depends on."""


def recognise(keys: Iterable[str], config: Any) -> str | None:
    """"official" for tensor names of the official code without a config of another library, else None."""
    if config is not None and (not isinstance(config, dict) or {"model_type", "architecture"} & config.keys()):
        return None
    keys = set(keys)
    return "official" if any(k.startswith("input_adapters.") for k in keys) and any(k.startswith("encoder.0.") for k in keys) else None


def describe(meta: Mapping[str, Tensor], config: Fields | None, layout: str, where: str, preprocessing: Any = None) -> Description:
    """What a file holds; as `read`, but a field of config.json that nobody reads is an error, and so is a preprocessing of another library."""
    known = [*_ARGUMENTS, *_DECODER_ARGUMENTS, *_OTHERS]
    unknown = sorted((config or {}).keys() - set(known))
    if unknown:
        raise CheckpointError(f"{where}: config.json has {shorten(unknown[0])}, no argument of MultiMAE.{did_you_mean(unknown[0], known)} It takes {', '.join(known)}.")
    if preprocessing is not None:
        raise CheckpointError(f"{where}: no preprocessor_config.json belongs to weights in the official layout. Remove it.")
    return read(meta, config, where)


def read(meta: Mapping[str, Tensor], config: Fields | None, where: str = "the checkpoint") -> Description:
    """What a file holds, from the names and shapes of its tensors and the arguments that came with it, as far as they did.

    Heads that the config does not say are those of the published model of that width. Raises CheckpointError that names the tensors
    which do not fit, or asks for what no shape can tell.
    """
    config = {k: v for k, v in (config or {}).items() if v is not None}
    outputs = {name.split(".")[1] for name in meta if name.startswith("output_adapters.")}
    cls: type[MultiInputEncoder] = MultiViT if "cls" in outputs else MultiMAE
    if not outputs & {"cls", *OUTPUTS}:
        raise CheckpointError(f"{where} holds neither decoders ({', '.join(OUTPUTS)}) nor a classification head (cls) among its output_adapters.")
    telling: dict[str, str] = {}
    try:
        shapes = _Shapes(meta, where, telling)
        fields = _encoder(shapes, config)
        fields |= _head(shapes, config) if cls is MultiViT else _decoders(shapes, config, fields)
        fields |= {ours: config[theirs] for theirs, ours in _ARGUMENTS.items() if theirs in config}
        if cls is MultiMAE and "num_classes" in config:
            fields["semseg_classes"] = config["num_classes"]
        _settle(fields, where)
        from_dict(cls.config_class, fields, where)
    except (ConfigError, ModelError, ZeroDivisionError) as error:
        found = {"sizes were read from": [f"{name} {shape}" for name, shape in telling.items()]}
        raise CheckpointError(f"{where} does not fit together as a {cls.system}: {error}\n{told(found)}") from error
    objective = {k: config[k] for k in ("num_encoded_tokens",) if cls is MultiMAE and k in config}
    return Description("official", cls.system, fields, objective=objective)


def to_official(model: MultiInputEncoder) -> State:
    """The state dict that the official classes load. ModelError for a model that they do not have (a segmenter)."""
    if not isinstance(model, (MultiMAE, MultiViT)):
        raise ModelError(f"The official code has no {type(model).__name__}; only vision/multimae and vision/multivit can be written in that layout.")
    return dict(model.state_dict())


def to_timm(model: MultiInputEncoder) -> State:
    """The state dict of timm's `VisionTransformer(global_pool="avg", pool_include_prefix=True)`: encoder for RGB, and the head of a classifier.

    Of a MultiMAE only what reads rgb is taken, and timm's model then has no norm (`final_norm=False`). ModelError for what timm cannot hold.
    """
    c = model.config
    reasons = {
        "it does not read rgb": "rgb" not in c.in_domains,
        f"it has {c.num_global_tokens} global tokens and not one": c.num_global_tokens != 1,
        f"it reads {', '.join(c.in_domains)}, and its head was trained on all of them": isinstance(model, MultiViT) and c.in_domains != ("rgb",),
        "its head reads the last token": getattr(c, "pool", "avg") == "token",
    }
    if any(reasons.values()):
        raise ModelError(f"timm's VisionTransformer cannot hold this model: {next(reason for reason, hit in reasons.items() if hit)}.")
    state = model.state_dict()
    converted = {f"blocks.{name.removeprefix('encoder.')}": t for name, t in state.items() if name.startswith("encoder.")}
    table = state["input_adapters.rgb.pos_emb"].flatten(2).transpose(1, 2)  # (1, L, D)
    converted |= {f"patch_embed.proj.{leaf}": state[f"input_adapters.rgb.proj.{leaf}"] for leaf in ("weight", "bias")}
    converted |= {"cls_token": state["global_tokens"], "pos_embed": torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)}
    if isinstance(model, MultiViT):
        converted |= {f"fc_norm.{leaf}": state[f"{HEAD}norm.{leaf}"] for leaf in ("weight", "bias")}
        converted |= {f"head.{leaf}": tensor for leaf, tensor in model.linear_head().items()}
    return converted


class _Shapes:
    """Shapes of a file's tensors; those that were asked for are remembered, and one that is not there is named together with what is strange."""

    def __init__(self, meta: Mapping[str, Tensor], where: str, asked: dict[str, str]) -> None:
        self.meta, self.where, self.asked = meta, where, asked

    def of(self, name: str, axes: int) -> tuple[int, ...]:
        """The shape of a tensor with so many axes. CheckpointError when it is missing, has others, or is empty."""
        shape = tuple(self.meta[name].shape) if name in self.meta else None
        if shape is None or len(shape) != axes or 0 in shape:
            lists = {"missing in the file": [name]} if shape is None else {"other shape": [f"{name} {shape} instead of {axes} axes"]}
            strange = [k for k in self.meta if not k.startswith(("input_adapters.", "encoder.", "output_adapters.")) and k != "global_tokens"]
            strange += [k for k in self.meta if k.rpartition(".")[2] not in _LEAVES and k not in strange and ".task_embeddings." not in k]
            lists["not in the model"] = strange
            raise CheckpointError(f"{self.where} does not fit the official layout; its size is told by these tensors, among others.\n{told(lists)}")
        self.asked[name] = str(shape)
        return shape

    def count(self, prefix: str) -> int:
        """How many numbered modules there are, from 0 without a gap."""
        numbers = {name.removeprefix(prefix).partition(".")[0] for name in self.meta if name.startswith(prefix)}
        return next(n for n in itertools.count() if str(n) not in numbers)

    def children(self, prefix: str, known: Iterable[str]) -> tuple[str, ...]:
        """Those of the known names that stand behind a prefix."""
        found = {name.removeprefix(prefix).partition(".")[0] for name in self.meta if name.startswith(prefix)}
        return tuple(child for child in known if child in found)


_LEAVES = ("weight", "bias", "pos_emb", "mask_token", "global_tokens")
"""Last parts of the names in the official layout."""


def _encoder(shapes: _Shapes, config: Fields) -> Fields:
    """Fields of the encoder and its inputs."""
    width = shapes.of("encoder.0.norm1.weight", 1)[0]
    fields: Fields = {
        "in_domains": tuple(config.get("in_domains") or shapes.children("input_adapters.", INPUTS)),
        "embed_dim": width,
        "depth": shapes.count("encoder."),
        "mlp_ratio": ratio(shapes.of("encoder.0.mlp.fc1.bias", 1)[0], width),
        "num_global_tokens": shapes.meta["global_tokens"].shape[1] if "global_tokens" in shapes.meta and shapes.meta["global_tokens"].ndim == 3 else 1,
    }
    domains = shapes.children("input_adapters.", INPUTS)
    if not domains:
        raise CheckpointError(f"{shapes.where} has no input_adapters for any of {', '.join(INPUTS)}.")
    patches = {domain: shapes.of(f"input_adapters.{domain}.proj.weight", 4)[2:] for domain in domains}
    stride = config.get("semseg_stride", 4)
    whole = next((patches[domain] for domain in ("rgb", "depth") if domain in patches), None)
    if "patch_size" in config:
        whole = _pair(config["patch_size"])
    elif whole is None:
        whole = tuple(side * stride for side in patches["semseg"])
    if "semseg" in patches:
        fields |= {"semseg_stride": max(whole[0] // patches["semseg"][0], 1)}
        fields["semseg_classes"], fields["dim_class_emb"] = shapes.of("input_adapters.semseg.class_emb.weight", 2)
    if "rgb" in patches:
        fields["in_chans"] = shapes.of("input_adapters.rgb.proj.weight", 4)[1]
    grid = shapes.of(f"input_adapters.{domains[0]}.pos_emb", 4)[2:]
    size = _pair(config["input_size"]) if "input_size" in config else tuple(n * side for n, side in zip(grid, whole))
    return {**fields, "patch_size": whole, "input_size": size}


def _decoders(shapes: _Shapes, config: Fields, encoder: Fields) -> Fields:
    """Fields of the decoders."""
    outputs = shapes.children("output_adapters.", OUTPUTS)
    first = f"output_adapters.{outputs[0]}"
    width = shapes.of(f"{first}.proj_context.bias", 1)[0]
    looks = any(name.startswith(f"{first}.decoder.") for name in shapes.meta)
    hidden = shapes.of(f"{first}.{'' if looks else 'decoder_transformer.0.'}mlp.fc1.bias", 1)[0]
    known = {domain for output in outputs for domain in shapes.children(f"output_adapters.{output}.task_embeddings.", INPUTS)}
    fields: Fields = {
        "out_domains": tuple(config.get("out_domains") or outputs),
        "context_domains": None if known == set(encoder["in_domains"]) else tuple(domain for domain in INPUTS if domain in known),
        "decoder_dim": width,
        "decoder_depth": max(shapes.count(f"output_adapters.{output}.decoder_transformer.") for output in outputs),
        "decoder_mlp_ratio": ratio(hidden, width),
        "use_xattn": looks,
    }
    if "semseg" in outputs and "semseg_classes" not in encoder:  # predicted, but no input
        stride = config.get("semseg_stride", 4)
        values = math.prod(side // stride for side in encoder["patch_size"])
        fields |= {"semseg_stride": stride, "semseg_classes": shapes.of("output_adapters.semseg.out_proj.bias", 1)[0] // values}
    return fields | {ours: config[theirs] for theirs, ours in _DECODER_ARGUMENTS.items() if theirs in config}


def _head(shapes: _Shapes, config: Fields) -> Fields:
    """Fields of the classifier's head."""
    has_head = bool(shapes.children("output_adapters.cls.", ("head",)))
    classes = config.get("num_classes", shapes.of("output_adapters.cls.head.bias", 1)[0] if has_head else 0)
    return {"num_classes": classes, "pool": "avg" if config.get("use_mean_pooling", True) else "token"}


def _settle(fields: Fields, where: str) -> None:
    """Fill in the published number of heads where the config says none. CheckpointError when the width is no published one."""
    for width, heads, published in (("embed_dim", "num_heads", HEADS), ("decoder_dim", "decoder_num_heads", DECODER_HEADS)):
        if width in fields and heads not in fields:
            if fields[width] not in published:
                raise CheckpointError(
                    f"{where} does not say its number of attention heads, which no tensor shows, and {width}={fields[width]} is no published size "
                    f"({', '.join(map(str, published))}). Put {heads} into its config.json."
                )
            fields[heads] = published[fields[width]]


def _pair(size: Any) -> tuple[Any, ...]:
    return tuple(size) if isinstance(size, (list, tuple)) else (size, size)
