"""A training state as files: a tree of plain values in JSON, its tensors in safetensors. No pickle."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from trainer.errors import CheckpointError
from trainer.tensor_file import what_is_wrong

PIECE = 64 * 2**20
"""Bytes read through one memory map. Mapped pages count as memory of the process until the map is closed."""


MARKS = ("__tensor__", "__array__", "__float__", "__dtype__", "__items__", "__tuple__")
"""Keys by which `decode` knows what JSON cannot hold."""


def encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A state tree as JSON values; its tensors and arrays go to `tensors` under their path in the tree.

    The tensors are the state's own, not copies. Raises CheckpointError for what is neither tensor nor plain value.
    """
    if isinstance(value, Tensor):
        return {"__tensor__": _put(value.detach(), name, tensors)}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        tensor = torch.from_numpy(value.astype(np.int64) if value.dtype.kind == "u" else value.copy())
        return {"__array__": _put(tensor, name, tensors), "dtype": str(value.dtype)}
    if isinstance(value, np.generic):
        return encode(value.item(), name, tensors)
    if isinstance(value, dict) and all(k is None or isinstance(k, (bool, int, float, str)) for k in value):
        items = [(k, encode(v, f"{name}.{k}" if name else str(k), tensors)) for k, v in value.items()]
        return dict(items) if all(isinstance(k, str) and k not in MARKS for k in value) else {"__items__": items}
    if isinstance(value, tuple):
        return {"__tuple__": [encode(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]}
    if isinstance(value, list):
        return [encode(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return {"__float__": str(value)}  # JSON has no NaN
    if isinstance(value, torch.dtype):
        return {"__dtype__": str(value).removeprefix("torch.")}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise CheckpointError(f"A training state may hold tensors and plain values; {name} is a {type(value).__name__}.")


def _put(tensor: Tensor, name: str, tensors: dict[str, Tensor]) -> str:
    """Add a tensor under `name`, or a name like it where two paths look the same ("a.b" and "a", "b"); returns the name."""
    if name in tensors:
        name = f"{name}~{len(tensors)}"
    tensors[name] = tensor
    return name


def decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `encode`."""
    if isinstance(value, dict):
        if "__tensor__" in value:
            return tensors[value["__tensor__"]]
        if "__array__" in value:
            return tensors[value["__array__"]].numpy().astype(value["dtype"])
        if "__float__" in value:
            return float(value["__float__"])
        if "__dtype__" in value:
            return _dtype(value["__dtype__"])
        if "__items__" in value:
            return {k: decode(v, tensors) for k, v in value["__items__"]}
        if "__tuple__" in value:
            return tuple(decode(v, tensors) for v in value["__tuple__"])
        return {k: decode(v, tensors) for k, v in value.items()}
    if isinstance(value, list):
        return [decode(v, tensors) for v in value]
    return value


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise CheckpointError(f"The training state names the type {name!r}, which torch does not have.")
    return dtype


def names_in(value: Any) -> Iterator[str]:
    """Names of the tensors that an encoded tree needs."""
    if isinstance(value, dict):
        name = value.get("__tensor__", value.get("__array__"))
        if isinstance(name, str):
            yield name
        else:
            for child in value.values():
                yield from names_in(child)
    elif isinstance(value, list):
        for child in value:
            yield from names_in(child)


def unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, contiguous on the CPU, with copies where two share memory (safetensors refuses those)."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        tensor = tensor.cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        whole = tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
        result[name] = tensor if whole and place not in seen else tensor.clone()
        seen.add(place)
    return result


def read_tensors(path: Path, names: list[str]) -> dict[str, Tensor]:
    """Some tensors of a safetensors file, in memory of their own. Reading needs no second copy of all of them."""
    found: dict[str, Tensor] = {}
    waiting = list(reversed(names))
    try:
        while waiting:
            room = PIECE
            with safetensors.safe_open(path, framework="pt") as file:
                while waiting and room > 0:
                    name = waiting.pop()
                    found[name] = file.get_tensor(name).clone()
                    room -= found[name].nbytes
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} {what_is_wrong(path)} ({error}).") from error
    return found
