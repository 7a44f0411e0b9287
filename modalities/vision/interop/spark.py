"""SparK checkpoints of the official code, and convolutional backbones of timm and of the official ConvNeXt <-> ours.

The size of a network is told by its tensors alone. Layouts: "official" is a whole SparK model (`sparse_encoder.sp_cnn.*` and the decoder),
or its backbone alone, which for a ResNet has timm's names and for a ConvNeXt those of its official code; "timm" has timm's names.
"""

import itertools
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import timm
import torch
from timm.layers.activations import GELU
from timm.models.convnext import ConvNeXt, ConvNeXtBlock
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from modalities.common.loading import told
from modalities.common.model import Model
from modalities.common.stored import Description
from modalities.vision.models.convnet import NORM_EPS, ConvNet, ConvNetClassifier
from modalities.vision.models.spark import SparK
from modalities.vision.preprocess import IMAGENET_MEAN, IMAGENET_STD
from trainer.errors import CheckpointError, ModelError, did_you_mean, shorten

State = dict[str, Tensor]
Fields = dict[str, Any]

OFFICIAL_BACKBONE = "sparse_encoder.sp_cnn."
UNUSED = {
    "imn_m": "the official code keeps ImageNet's mean here and does not use it",
    "imn_s": "the official code keeps ImageNet's deviation here and does not use it",
    "norm_black": "a black picture that the official code draws with",
}
"""Buffers of official files that no computation reads."""
ARGUMENTS = (
    "arch", "block", "layers", "channels", "depths", "dims", "input_size", "in_chans", "decoder_width", "densify_norm", "densify_norm_str",
    "mask_ratio", "sbn", "hierarchy", "downsample_ratio", "drop_path_rate",
)  # fmt: skip
"""Arguments of the official classes. Most only repeat what the tensors show."""
TIMM_ARGUMENTS = ("num_classes", "in_chans", "layers", "channels", "depths", "dims", "drop_path_rate", "global_pool")
"""Arguments of timm's networks with which they are still those of this project."""
_OFFICIAL_CONVNEXT = (
    (r"stem\.(\d)\.", r"downsample_layers.0.\1."),
    (r"stages\.(\d)\.downsample\.(\d)\.", r"downsample_layers.\1.\2."),
    (r"stages\.(\d)\.blocks\.(\d+)\.conv_dw\.", r"stages.\1.\2.dwconv."),
    (r"stages\.(\d)\.blocks\.(\d+)\.mlp\.fc1\.", r"stages.\1.\2.pwconv1."),
    (r"stages\.(\d)\.blocks\.(\d+)\.mlp\.fc2\.", r"stages.\1.\2.pwconv2."),
    (r"stages\.(\d)\.blocks\.(\d+)\.", r"stages.\1.\2."),
)
"""timm's names of ConvNeXt -> the official ones; the first pattern that fits counts."""
_TELLING = {
    "resnet": ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"),
    "official": ("downsample_layers.0.0.weight", "downsample_layers.1.1.weight", "stages.0.0.dwconv.weight"),
    "timm": ("stem.0.weight", "stages.1.downsample.1.weight", "stages.0.blocks.0.conv_dw.weight"),
}
"""Tensors by which a backbone is recognised; one of them may be lost: it will be named."""


def recognise(keys: Iterable[str], config: Fields | None) -> str | None:
    """The layout of a checkpoint by its tensor names and its config.json, or None when it is not ours to read."""
    if config is not None and (not isinstance(config, dict) or "model_type" in config):
        return None
    keys = set(keys)
    if any(name.startswith(OFFICIAL_BACKBONE) for name in keys):
        return "official"
    family = _family(keys)
    if family is None:
        return None
    if "architecture" in (config or {}):
        return "timm" if str(config["architecture"]).startswith(("resnet", "convnext")) else None
    return "official" if family == "official" or (family == "resnet" and not any(name.startswith("fc.") for name in keys)) else "timm"


def describe(meta: Mapping[str, Tensor], config: Fields | None, layout: str, where: str, preprocessing: Any = None) -> Description:
    """What a file holds, from the names and shapes of its tensors and what its config.json says. Raises CheckpointError."""
    config = {name: value for name, value in (config or {}).items() if value is not None}
    preprocess: Fields = {}
    if layout == "timm" and "architecture" in config:
        preprocess, config = _timm(config, where)
    else:
        unknown = sorted(config.keys() - {*ARGUMENTS})
        if unknown:
            raise CheckpointError(f"{where}: config.json has {shorten(unknown[0])}, no argument of SparK.{did_you_mean(unknown[0], ARGUMENTS)} It takes {', '.join(ARGUMENTS)}.")
    whole = any(name.startswith(OFFICIAL_BACKBONE) for name in meta)
    prefix = OFFICIAL_BACKBONE if whole else ""
    inside = {name.removeprefix(prefix): tensor for name, tensor in meta.items() if name.startswith(prefix)}
    family = _family(inside)
    fields = _backbone_fields(inside, family, where, prefix) | _stated(config)
    fields["input_size"] = _input_size(meta, config, where)
    headless = not any(name.startswith(("fc.", "head.")) for name in inside)
    system = SparK.system if whole else ConvNet.system if headless else ConvNetClassifier.system
    if whole:
        fields |= _decoder_fields(meta, where)
        fields |= {name: config[name] for name in ("decoder_width",) if name in config}
        fields |= {"densify_norm": config[name] if config[name] in ("bn", "ln") else "none" for name in ("densify_norm", "densify_norm_str") if name in config}
    elif not headless:
        head = next((inside[name] for name in ("fc.bias", "head.fc.bias") if name in inside), None)
        fields["num_classes"] = config.get("num_classes", 0 if head is None or head.ndim == 0 else head.shape[0])
    objective = {"mask_ratio": config["mask_ratio"]} if whole and "mask_ratio" in config else {}
    ignored = {name: why for name, why in UNUSED.items() if whole and name in meta}

    def names(ours: str) -> tuple[str, ...]:
        return (name_in(ours, family, prefix),)

    return Description(layout, system, fields, names, objective, preprocess, ignored)


def name_in(ours: str, family: str, prefix: str = "") -> str:
    """What a file calls one of our tensors. `family`: the names of the backbone, resnet, official (ConvNeXt) or timm (ConvNeXt)."""
    part, _, inside = ours.partition(".")
    if part == "norm" or part == "head":
        return {"resnet": {"head": "fc"}, "timm": {"head": "head.fc", "norm": "head.norm"}}.get(family, {}).get(part, part) + f".{inside}"
    if part != "backbone":
        return ours
    if family == "official":
        inside = next(re.sub(pattern, new, inside) for pattern, new in _OFFICIAL_CONVNEXT if re.match(pattern, inside))
    return prefix + inside


def to_official(model: SparK, state: State | None = None) -> State:
    """The state dict that the official SparK class loads, or other tensors by our names (gradients) under its names."""
    family = "official" if model.config.block == "convnext" else "resnet"
    converted = {name_in(name, family, OFFICIAL_BACKBONE): tensor for name, tensor in (state or model.state_dict()).items()}
    if state is None and model.config.in_chans == 3:
        converted |= {"imn_m": torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), "imn_s": torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)}
        converted["norm_black"] = torch.zeros(1, 3, *model.config.input_size)
    return converted


def to_backbone(model: ConvNet, layout: str = "timm") -> State:
    """The backbone alone: timm's names, or "official" for the ConvNeXt of its authors (for a ResNet both are the same)."""
    family = "resnet" if model.config.block != "convnext" else layout
    return {name_in(name, family): tensor for name, tensor in model.state_dict().items() if name.startswith("backbone.")}


def to_timm(model: Model) -> State:
    """The state dict of timm's ResNet or ConvNeXt.

    The norm of a ConvNeXt that has none with weights gets ones and zeros, with which it does what `embed` does; the batch norm of a probe is
    put into its linear layer.
    """
    if not isinstance(model, ConvNet):
        raise ModelError(f"timm's ResNet and ConvNeXt hold convolutional networks; this is a {type(model).__name__}.")
    family = "timm" if model.config.block == "convnext" else "resnet"
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(("backbone.", "norm."))}
    if isinstance(model, ConvNetClassifier):
        own |= {f"head.{name}": tensor for name, tensor in model.linear_head().items()}
    state = {name_in(name, family): tensor for name, tensor in own.items()}
    if family == "timm" and "head.norm.weight" not in state:
        state |= {"head.norm.weight": torch.ones(model.config.embed_dim), "head.norm.bias": torch.zeros(model.config.embed_dim)}
    return state


def _family(names: Iterable[str]) -> str | None:
    """Whose names a backbone has; None when it is none."""
    names = set(names)
    return next((family for family, telling in _TELLING.items() if sum(name in names for name in telling) >= len(telling) - 1), None)


def _backbone_fields(meta: Mapping[str, Tensor], family: str | None, where: str, prefix: str) -> Fields:
    """Fields that the shapes of a backbone tell. CheckpointError names what is lost."""
    family = family or ("resnet" if any(name.startswith("layer") for name in meta) else "official")
    if family == "resnet":
        stem, first = "conv1.weight", [f"layer{i}.0.bn1.weight" for i in range(1, 5)]
        counted = [f"layer{i}.{{}}.bn1.weight" for i in range(1, 5)]
    else:
        inside = "stages.{}.{}." if family == "official" else "stages.{}.blocks.{}."
        stem = "downsample_layers.0.0.weight" if family == "official" else "stem.0.weight"
        first = [inside.format(i, 0) + "norm.weight" for i in range(4)]
        counted = [inside.format(i, "{}") + "norm.weight" for i in range(4)]
    shapes = {name: meta[name].ndim for name in (stem, *first) if name in meta}
    lists = {
        "missing in the file": [prefix + name for name in (stem, *first) if name not in meta],
        "other shape": [f"{prefix}{name} {tuple(meta[name].shape)}" for name, axes in shapes.items() if axes != (4 if name == stem else 1) or 0 in meta[name].shape],
    }
    if any(lists.values()):
        lists["not in the model"] = [prefix + name for name in meta if not any(re.fullmatch(p, name) for p in _patterns(family))]
        raise CheckpointError(f"{where} does not fit the names of a {'ResNet' if family == 'resnet' else 'ConvNeXt'}; its size is told by these tensors, among others.\n{told(lists)}")

    def depth(pattern: str) -> int:
        return next(n for n in itertools.count() if not _any_of(pattern.format(n).rpartition(".")[0].rpartition(".")[0] + ".", meta))

    fields: Fields = {"in_chans": meta[stem].shape[1], "depths": tuple(depth(c) for c in counted), "widths": tuple(meta[name].shape[0] for name in first)}
    bottleneck = any(re.fullmatch(r"layer\d\.\d+\.(conv3|bn3)\..*", name) for name in meta)
    return fields | {"block": "convnext" if family != "resnet" else "bottleneck" if bottleneck else "basic"}


def _any_of(start: str, meta: Mapping[str, Tensor]) -> bool:
    return any(name.startswith(start) for name in meta)


@cache
def _patterns(family: str) -> tuple[str, ...]:
    """Regular expressions of all tensor names of a backbone with its head."""
    if family == "resnet":
        norm = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
        return (r"conv1\.weight", rf"bn1\.{norm}", r"layer[1-4]\.\d+\.conv[1-3]\.weight", rf"layer[1-4]\.\d+\.bn[1-3]\.{norm}",
                r"layer[1-4]\.\d+\.downsample\.0\.weight", rf"layer[1-4]\.\d+\.downsample\.1\.{norm}", r"fc\.(weight|bias)")  # fmt: skip
    if family == "official":
        return (r"downsample_layers\.[0-3]\.[01]\.(weight|bias)", r"stages\.[0-3]\.\d+\.((dwconv|norm|pwconv1|pwconv2)\.(weight|bias)|gamma)")
    return (r"stem\.[01]\.(weight|bias)", r"stages\.[0-3]\.downsample\.[01]\.(weight|bias)",
            r"stages\.[0-3]\.blocks\.\d+\.((conv_dw|norm|mlp\.fc[12])\.(weight|bias)|gamma)", r"head\.(norm|fc)\.(weight|bias)")  # fmt: skip


def _decoder_fields(meta: Mapping[str, Tensor], where: str) -> Fields:
    """Width of the decoder and kind of norm."""
    name = "dense_decoder.dec.0.conv.1.bias"
    if name not in meta or meta[name].ndim != 1 or not meta[name].numel():
        found = f"{name} {tuple(meta[name].shape)}" if name in meta else f"no {name}"
        strange = [other for other in meta if other.startswith("dense_decoder.") and not re.fullmatch(r"dense_decoder\.(dec\.\d\.(up_sample|conv\.[0-4])|proj)\.\w+", other)]
        more = f"\n{told({'not in the model': strange})}" if strange else ""
        raise CheckpointError(f"{where} holds {found}: it tells the width of SparK's decoder and must be a vector.{more}")
    normed = sum(re.fullmatch(r"densify_norms\.\d\.\w+", other) is not None for other in meta)
    running = sum(re.fullmatch(r"densify_norms\.\d\.(running_mean|running_var|num_batches_tracked)", other) is not None for other in meta)
    return {"decoder_width": meta[name].shape[0], "densify_norm": "bn" if running else "ln" if normed else "none"}


def _stated(config: Fields) -> Fields:
    """What a config says of the backbone; where it contradicts the tensors, these will be named."""
    renamed = {"layers": "depths", "depths": "depths", "channels": "widths", "dims": "widths", "in_chans": "in_chans", "drop_path_rate": "drop_path"}
    fields = {ours: tuple(config[theirs]) if isinstance(config[theirs], list) else config[theirs] for theirs, ours in renamed.items() if theirs in config}
    return fields | ({"block": config["block"]} if "block" in config else {})


def _input_size(meta: Mapping[str, Tensor], config: Fields, where: str) -> Any:
    """Size of the images: no weight depends on it. 224 where nothing says it."""
    size = config.get("input_size")
    if size is None and "norm_black" in meta and meta["norm_black"].ndim == 4:
        size = tuple(meta["norm_black"].shape[2:])
    return 224 if size is None else tuple(size) if isinstance(size, list) else size


def _timm(config: Fields, where: str) -> tuple[Fields, Fields]:
    """(preprocessing, arguments) that timm's config.json says; CheckpointError for an architecture that our network does not compute."""
    name = config["architecture"]
    difference = _difference_of_timm(name) if isinstance(name, str) else f"{shorten(name)} is no name"
    if difference:
        raise CheckpointError(f"{where} is a {shorten(name)} of timm {timm.__version__}: {difference}. Use it with timm.")
    given, cfg = config.get("model_args") or {}, config.get("pretrained_cfg") or {}
    if not isinstance(given, dict) or not isinstance(cfg, dict):
        raise CheckpointError(f"{where}: model_args and pretrained_cfg in config.json must be mappings, found {shorten(given)} and {shorten(cfg)}.")
    unknown = sorted(given.keys() - {*TIMM_ARGUMENTS})
    if unknown:
        raise CheckpointError(f"{where} was built with arguments of timm that this model does not have: {', '.join(map(shorten, unknown))}.")
    pool = config.get("global_pool", given.get("global_pool", "avg"))
    if pool != "avg":
        raise CheckpointError(f"{where} pools its last map by {shorten(pool)} (global_pool), which this model cannot do. Expected avg.")
    arguments = {**{key: config[key] for key in ("num_classes",) if key in config}, **{key: value for key, value in given.items() if key != "global_pool"}}
    size = cfg.get("input_size")
    if isinstance(size, list) and len(size) == 3:
        arguments.setdefault("input_size", size[1:])
    return {key: cfg[key] for key in ("mean", "std", "interpolation", "crop_pct") if key in cfg}, arguments


@cache
def _difference_of_timm(architecture: str) -> str:
    """In what a network of timm differs from ours where no tensor shows it; empty when it does not."""
    if "/" in architecture or ":" in architecture or not timm.is_model(architecture):  # timm would download what has a prefix
        return "this version does not know it, update timm"
    with torch.device("meta"):
        model = timm.create_model(architecture)
    if type(model) is ResNet:
        block = model.layer1[0]
        plain = type(block) in (BasicBlock, Bottleneck) and type(block.act1) is nn.ReLU and type(model.maxpool) is nn.MaxPool2d and type(model.bn1) is nn.BatchNorm2d
        plain = plain and type(model.layer2[0].aa) is nn.Identity and type(model.layer2[0].downsample[0]) is nn.Conv2d and block.se is None
        return "" if plain and block.conv2.groups == 1 else "its blocks, norms, pools or activations are not those of the plain ResNet"
    if type(model) is ConvNeXt:
        block = model.stages[0].blocks[0]
        gelu = isinstance(block, ConvNeXtBlock) and type(block.mlp.act) in (nn.GELU, GELU) and getattr(block.mlp.act, "approximate", "none") == "none"
        return "" if gelu and block.norm.eps == NORM_EPS and not block.use_conv_mlp else "its blocks, norms or activations are not those of the plain ConvNeXt"
    return "its class is another one"
