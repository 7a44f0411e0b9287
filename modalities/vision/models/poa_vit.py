"""A part of a POA network as a plain vision transformer, for features, fine-tuning and other libraries.

The input factors of the elastic layers (full / active width) go into the weights, so that what is cut out is timm's
`VisionTransformer` with LayerScale and nothing else.
"""

from typing import Any

from torch import Tensor

from modalities.common.interop import ratio
from modalities.common.loading import Adaptation, Change, Rule, transplant
from modalities.common.model import Model
from modalities.common.vit import ViTConfig
from modalities.vision.models.elastic import block_indices, first_of_three
from modalities.vision.models.poa import POA, POAConfig, Size
from modalities.vision.models.vit import ViTClassifier, ViTClassifierConfig


class POAViT(ViTClassifier):
    """Input `image` (B, C, H, W) float, normalised as `preprocess` says. Without a head, `embed` is the normed class token (B, D)."""

    system = "vision/poa-vit"

    @classmethod
    def for_task(cls, task: str, config: POAConfig | ViTConfig, num_outputs: int | None, changes: dict[str, Any]) -> ViTClassifierConfig:
        """A classifier on a part, or on the intact network. POA's feature is the class token, so that is what a head reads unless `changes` say otherwise."""
        plain = plain_config(config, config.intact) if isinstance(config, POAConfig) else config
        return super().for_task(task, plain, num_outputs, changes if plain.num_classes else {"pool": plain.pool, **changes})

    @classmethod
    def change_from(cls, source: type[Model], old: POAConfig | ViTConfig, new: ViTClassifierConfig, new_head: bool = False) -> Change:
        """Of a POA network the part that `new` names is cut out first; the rest is as for any vision transformer."""
        if not isinstance(old, POAConfig):
            return super().change_from(source, old, new, new_head)
        size = new.embed_dim, new.depth
        return cut(old, size).then(super().change_from(cls, plain_config(old, size), new, new_head))


def plain_config(config: POAConfig, size: Size) -> ViTClassifierConfig:
    """The config of a part as a vision transformer without head, whose feature is the class token."""
    width, depth = size
    shared = {name: getattr(config, name) for name in ("input_size", "patch_size", "in_chans", "qkv_bias", "norm_eps", "layer_scale")}
    hidden = int(width / config.embed_dim * int(config.embed_dim * config.mlp_ratio))
    return ViTClassifierConfig(
        **shared, embed_dim=width, depth=depth, num_heads=width // config.head_dim, mlp_ratio=ratio(hidden, width), num_classes=0, pool="token"
    )


def extract(model: POA, size: Size) -> POAViT:
    """A part of a network in memory, with its preprocessing and the licence of the weights. Evaluation mode."""
    part = POAViT(plain_config(model.config, size))
    transplant(model, part)
    part.preprocess, part.licence = model.preprocess, model.licence
    return part.to(model.device).eval()


def cut(config: POAConfig, size: Size) -> Change:
    """What becomes of the tensors of a network when a part of a size is cut out."""
    width, depth = size
    chosen = block_indices(config.depth, depth)
    taken = {}
    adapted = {}
    if width < config.embed_dim:
        adapted = {name: _first(width, axis) for name, axis in (("cls_token", 2), ("pos_embed", 2), ("patch_embed.proj.weight", 0), ("patch_embed.proj.bias", 0))}
        adapted |= {f"norm.{leaf}": _first(width, 0) for leaf in ("weight", "bias")}
    for new, old in enumerate(chosen):
        parts = _block(config, width)
        taken |= {f"blocks.{new}.{leaf}": f"blocks.{old}.{leaf}" for leaf in parts if new != old}
        adapted |= {f"blocks.{new}.{leaf}": change for leaf, change in parts.items() if change is not None}
    unused = [Rule("mask_token" + (r"|heads\..*" if config.prototypes else ""), "only pre-training needs it")]
    others = "|".join(str(i) for i in range(config.depth) if i not in chosen)
    if others:
        unused.append(Rule(rf"blocks\.({others})\..*", f"a network of {depth} of the {config.depth} blocks does not use it"))
    return Change(adapted, unused=tuple(unused), taken=taken)


def _block(config: POAConfig, width: int) -> dict[str, Adaptation | None]:
    """Tensor of a block -> how it is cut to a width; None: it is taken whole."""
    leaves = ["norm1.weight", "norm1.bias", "attn.qkv.weight", *(["attn.qkv.bias"] if config.qkv_bias else []), "attn.proj.weight", "attn.proj.bias"]
    leaves += ["norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"]
    leaves += ["ls1.gamma", "ls2.gamma"] if config.layer_scale is not None else []
    full = config.embed_dim
    if width == full:
        return dict.fromkeys(leaves)
    inner = int(full * config.mlp_ratio)
    hidden = int(width / full * inner)
    special = {
        "attn.qkv.weight": _of_three(width, full / width),
        "attn.qkv.bias": _of_three(width, None),
        "attn.proj.weight": _matrix(width, width, full / width),
        "mlp.fc1.weight": _matrix(hidden, width, full / width),
        "mlp.fc1.bias": _first(hidden, 0),
        "mlp.fc2.weight": _matrix(width, hidden, inner / hidden),
    }
    return {leaf: special.get(leaf) or _first(width, 0) for leaf in leaves}


def _first(count: int, axis: int) -> Adaptation:
    return Adaptation(f"the first {count} of axis {axis}", lambda tensor: tensor.narrow(axis, 0, count).clone())


def _matrix(rows: int, columns: int, factor: float) -> Adaptation:
    return Adaptation(f"the first {rows} x {columns}, times {factor:.4g}", lambda weight: weight[:rows, :columns] * factor)


def _of_three(width: int, factor: float | None) -> Adaptation:
    """Of the joint query, key and value; the bias has no factor."""

    def apply(joint: Tensor) -> Tensor:
        rows = first_of_three(joint, width)
        return rows if factor is None else rows[:, :width] * factor

    what = f"the first {width} of query, key and value each"
    return Adaptation(what if factor is None else f"{what}, times {factor:.4g}", apply)
