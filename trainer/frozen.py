"""A network beside the one that is trained, which is asked and never changed: a teacher."""

import copy
from typing import Any, Generic, TypeVar

import torch
from torch import nn

N = TypeVar("N", bound=nn.Module)


class Frozen(Generic[N]):
    """Holds a network in evaluation mode, without gradients, out of sight of the module that asks it.

    It is no sub-module: its tensors are in no checkpoint, no export and no optimizer, are not averaged and not sharded, and a copy
    of the asking module asks the same network. So whoever builds that module again, on resume say, must open the same network.
    """

    def __init__(self, network: N) -> None:
        self._network = network.eval().requires_grad_(False)

    def on(self, device: torch.device) -> N:
        """The network on a device, to be called under `torch.no_grad`. It stays there; on the meta device it is a copy."""
        if device.type == "meta":
            return copy.deepcopy(self._network).to(device)
        if next(self._network.parameters()).device != device:
            self._network.to(device)
        return self._network

    def __deepcopy__(self, memo: dict[int, Any]) -> "Frozen[N]":
        return self
