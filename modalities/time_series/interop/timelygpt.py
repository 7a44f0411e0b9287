"""Checkpoints of the authors' TimelyGPT, for signals and for codes, <-> ours. The tensor names are the same but for what the authors make and never use.

The official convolutions are centred, so a model that is read so is not causal. Depth and widths are read from the shapes; the number of heads
from the stored decays. The codes of the vocabulary are in no tensor: the config must hold them.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from torch import Tensor

from modalities.common.interop import Fields, numbered, require_arguments, require_telling
from modalities.common.loading import skeleton
from modalities.common.model import Model
from modalities.common.stored import Description
from modalities.time_series.models.timelygpt import TimelyGPT, TimelyGPTConfig
from modalities.time_series.models.timelygpt_codes import TimelyGPTCodes, TimelyGPTCodesConfig
from trainer.errors import CheckpointError, ModelError, shorten

CODES = "_codes"
"""Where the config of a model of codes holds its vocabulary."""
_READ = {"dropout": "dropout"}
_SHOWN = {
    "num_layers": "depth", "num_heads": "num_heads", "d_model": "embed_dim", "qk_dim": "key_dim", "v_dim": "value_dim", "ffn_proj_size": "hidden_dim",
    "use_bias_in_msr": "qkv_bias", "use_bias_in_mlp": "mlp_bias", "use_bias_in_msr_out": "out_bias",
}  # fmt: skip
"""Arguments that the shapes tell, too."""
_OTHERS = ("use_default_gamma", "c_in", "use_grad_ckp")
"""Arguments that only the tensors tell, or on which no weight and no output depends."""
_IDLE = ("conv_upsampling.", "revin_layer.")
"""The beginnings of tensors that the authors' model makes and never uses."""


def recognise(keys: Iterable[str], config: Fields | None) -> str | None:
    """ "official" when the names are those of the official models, else None."""
    if config is not None and (not isinstance(config, dict) or "model_type" in config):
        return None
    marks = {"blocks.0.msr.qkv.weight", "blocks.0.msr.decay", "blocks.0.tcm.sequential.4.conv.weight", "sos"}
    return "official" if len(marks & set(keys)) >= 3 else None  # one may be lost: it will be named


def describe(meta: Mapping[str, Tensor], config: Fields | None, layout: str, where: str, preprocessing: Any = None) -> Description:
    """What a file holds, from the names and shapes of its tensors and the arguments in `config`. Raises CheckpointError."""
    given = require_arguments(config, (*_READ, *_SHOWN, *_OTHERS), where)
    of_codes = not any(name.startswith("conv_subsampling.") for name in meta)
    outer = "head.head.bias" if of_codes else "conv_subsampling.time_reduce.0.bias"  # of vectors: a matrix that was transposed would tell other sizes
    telling = {"blocks.0.msr.decay": 1, "blocks.0.msr.xpos.scale": 1, "blocks.0.msr.gated.weight": 2, "blocks.0.ffn.0.weight": 2, "ln_f.weight": 1, outer: 1}
    require_telling(meta, telling, _names(), layout, where)
    depth = numbered(meta, "blocks.")

    def biased(name: str) -> bool:
        return any(f"blocks.{number}.{name}.bias" in meta for number in range(depth))

    fields: Fields = {
        "depth": depth, "num_heads": len(meta["blocks.0.msr.decay"]), "embed_dim": len(meta["ln_f.weight"]), "hidden_dim": len(meta["blocks.0.ffn.0.weight"]), "key_dim": 2 * len(meta["blocks.0.msr.xpos.scale"]),
        "value_dim": len(meta["blocks.0.msr.gated.weight"]), "qkv_bias": biased("msr.qkv"), "gate_bias": biased("msr.gated"), "out_bias": biased("msr.proj"),
        "mlp_bias": biased("ffn.0"), "decay": "retnet" if given.get("use_default_gamma") else "even", "causal": False,
    }  # fmt: skip
    fields |= {ours: given[theirs] for theirs, ours in (_READ | _SHOWN).items() if theirs in given}
    if of_codes:
        return Description(layout, TimelyGPTCodes.system, fields | {"codes": _vocabulary(config, len(meta[outer]) - 1, where), "frozen_embedding": True})
    fields |= {"in_chans": len(meta[outer]), "target": "tokens"}
    return Description(layout, TimelyGPT.system, fields, ignored={name: "the official model does not use it" for name in meta if name.startswith(_IDLE)})


def to_official(model: Model) -> dict[str, Tensor]:
    """The state dict of the official class, without the parts that it never uses. ModelError for a model that computes something else."""
    if model.config.causal or getattr(model.config, "target", "tokens") != "tokens":
        raise ModelError('The official TimelyGPT has centred convolutions and predicts its own tokens; this model has causal=True or target="points".')
    return dict(model.state_dict())


def to_official_config(model: Model) -> Fields:
    """The arguments of the official class for a model, and the vocabulary of one of codes."""
    config = model.config
    arguments = {theirs: getattr(config, ours) for theirs, ours in (_READ | _SHOWN).items()} | {"use_default_gamma": config.decay == "retnet"}
    return arguments | ({CODES: list(config.codes)} if isinstance(model, TimelyGPTCodes) else {"c_in": config.in_chans})


def _vocabulary(config: Fields | None, count: int, where: str) -> list[int]:
    """The codes in the config. CheckpointError when there are not as many as rows in the table."""
    codes = (config or {}).get(CODES)
    if not isinstance(codes, list) or len(codes) != count:
        raise CheckpointError(
            f"{where} has a table of {count} codes, and no tensor says which. Put them as {CODES}, in the order of the table, into its config.json; found {shorten(codes)}."
        )
    return codes


@cache
def _names() -> set[str]:
    """Every tensor name of both layouts, with 0 for its numbers."""
    size = dict(embed_dim=1, key_dim=2, value_dim=1, hidden_dim=1, depth=1, num_heads=1, qkv_bias=True, gate_bias=True, out_bias=True)
    models = (skeleton(TimelyGPT, TimelyGPTConfig(**size), 0, "official"), skeleton(TimelyGPTCodes, TimelyGPTCodesConfig(**size), 0, "official"))
    idle = {f"conv_upsampling.{part}.{kind}" for part in ("conv", "time_upsample.0") for kind in ("weight", "bias")} | {"revin_layer.affine_weight", "revin_layer.affine_bias"}
    return {re.sub(r"\d+", "0", name) for model in models for name in model.state_dict()} | idle
