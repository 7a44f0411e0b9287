"""Checkpoints of transformers' TimesFM, PatchTST and PatchTSMixer (for prediction) <-> ours: the same tensors behind `network.`, the same config."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from modalities.common.interop import Fields
from modalities.common.model import Model
from modalities.common.stored import Description
from modalities.time_series.models.from_transformers import FORECASTERS
from trainer.config import to_dict

PREFIX = "network."
STORED = {".mlp.fc1.": ".mlp.ff0.", ".mlp.fc2.": ".mlp.ff1."}
"""What transformers calls some layers of TimesFM 2.5 in memory -> in files."""


def recognise(keys: Iterable[str], config: Fields | None) -> str | None:
    """ "transformers" when the config is that of one of these models, else None."""
    kind = config.get("model_type") if isinstance(config, dict) else None
    return "transformers" if any(kind in model.config_class.family for model in FORECASTERS if isinstance(kind, str)) else None


def describe(meta: Mapping[str, Tensor], config: Fields | None, layout: str, where: str, preprocessing: Any = None) -> Description:
    """What a folder of transformers holds. What its config says beside the arguments of the network (versions, names) is left out."""
    kind = config["model_type"]
    model = next(model for model in FORECASTERS if kind in model.config_class.family)
    usual = model.config_class(kind).usual()
    arguments = {name: value for name, value in config.items() if name in usual and value != to_dict(usual[name])}
    renamed = any(stored in name for name in meta for stored in STORED.values())
    return Description(layout, model.system, {"model_type": kind, "arguments": arguments}, lambda name: (_stored(name) if renamed else name.removeprefix(PREFIX),))


def to_transformers(model: Model) -> tuple[dict[str, Tensor], Fields]:
    """State dict and config.json as transformers writes them."""
    renamed = model.config.model_type == "timesfm2_5"
    state = {_stored(name) if renamed else name.removeprefix(PREFIX): tensor for name, tensor in model.state_dict().items()}
    dtype = str(next(iter(state.values())).dtype).removeprefix("torch.")
    return state, {**model.network.config.to_dict(), "architectures": [type(model.network).__name__], "dtype": dtype}


def _stored(name: str) -> str:
    """The name in the files of TimesFM 2.5."""
    for memory, stored in STORED.items():
        name = name.replace(memory, stored)
    return name.removeprefix(PREFIX)
