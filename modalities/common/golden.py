"""A golden file: weights in an official layout, inputs, and what the official code computed from them.

Tensors are named `state.*`, `input.*`, `output.*`, and gradients of `output.loss` by parameter `grad.*` or
`output.grad.*`. The metadata holds `model`, `layout`, `config` (JSON), `source`, `notes`, and for some models
`layer_decay` (JSON: the official learning-rate scale and weight decay per parameter).
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from modalities import registry
from modalities.common.interop import converted
from modalities.common.model import Model
from trainer.config import from_dict
from trainer.errors import CheckpointError, UnknownNameError, did_you_mean
from trainer.optim import parameter_groups
from trainer.weights import read_metadata, read_safetensors


@dataclass(frozen=True)
class Golden:
    """One golden file, read."""

    path: Path
    """Where it lies."""
    model: str
    """`modality/system`, as the file says."""
    layout: str
    """Naming of the weights, for the modality's `interop`."""
    config: dict[str, Any]
    """Arguments of the official class, in its own words."""
    metadata: dict[str, str]
    """All metadata."""
    state: dict[str, Tensor]
    """The weights, without the prefix."""
    inputs: dict[str, Tensor]
    """The inputs, without the prefix."""
    expected: dict[str, Tensor]
    """Everything that must be recomputed, under its full name; an entry `layer_decay.NAME` holds (lr scale, weight decay)."""

    @classmethod
    def read(cls, path: Path | str) -> "Golden":
        """Read a file. CheckpointError when it is no golden file or holds tensors under unknown names."""
        path = Path(path)
        metadata, tensors = read_metadata(path), read_safetensors(path)
        missing = [k for k in ("model", "layout", "config") if k not in metadata]
        if missing:
            raise CheckpointError(f"{path} is no golden file: its metadata lacks {', '.join(missing)}.")
        try:
            config = json.loads(metadata["config"])
            decay = json.loads(metadata.get("layer_decay", "{}"))
            expected = {f"layer_decay.{n}": torch.tensor(v, dtype=torch.float64) for n, v in decay.get("params", {}).items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path}: its metadata config or layer_decay is not the JSON expected ({error}).") from error
        parts: dict[str, dict[str, Tensor]] = {"state": {}, "input": {}}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind in parts:
                parts[kind][rest] = tensor
            elif kind in ("output", "grad"):
                expected[name] = tensor
            else:
                raise CheckpointError(f"{path} holds {name!r}. Expected names that begin with state, input, output or grad.")
        return cls(path, metadata["model"], metadata["layout"], config, metadata, parts["state"], parts["input"], expected)

    def input(self, name: str) -> Tensor:
        """An input by name, or CheckpointError."""
        if name not in self.inputs:
            raise CheckpointError(f"{self.path} has no input.{name}, which {self.model} needs. It has: {', '.join(self.inputs) or 'none'}.")
        return self.inputs[name]

    def gradients(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of gradients by parameter name (in the file's layout), those that the file holds, under its names."""
        named = {f"{prefix}{name}": tensor for name, tensor in tensors.items() for prefix in ("grad.", "output.grad.")}
        return pick(named, self.expected)

    def layer_decay(self, model: nn.Module) -> dict[str, Tensor]:
        """Learning-rate scale and weight decay of each of the model's parameters, if the file holds the official ones."""
        if "layer_decay" not in self.metadata:
            return {}
        rule = json.loads(self.metadata["layer_decay"])
        groups = parameter_groups(model, rule.get("weight_decay", 0.05), rule["layer_decay"])
        pairs = {name: (g["lr_scale"], g["weight_decay"]) for g in groups for name in g["names"]}
        return {f"layer_decay.{name}": torch.tensor(pair, dtype=torch.float64) for name, pair in pairs.items()}


def run_by(golden: Golden, runners: dict[str, Callable[[Golden], dict[str, Tensor]]]) -> dict[str, Tensor]:
    """What the runner of the file's model computes. UnknownNameError when there is none."""
    if golden.model not in runners:
        raise UnknownNameError(f"{golden.path}: no model {golden.model!r} is known here.{did_you_mean(golden.model, runners)}")
    return runners[golden.model](golden)


def model_of(golden: Golden, interop: ModuleType, defaults: dict[str, Any]) -> Model:
    """The model of a file, every parameter with gradient, read by the `interop` of its system.

    `defaults`: what the class behind the file takes when its config does not say it and no shape shows it.
    """
    where = str(golden.path)
    described = interop.describe(golden.state, {**defaults, **golden.config}, golden.layout, where)
    weights = {  # counters lie in the files as float32, like everything
        name: tensor.long() if name.endswith("num_batches_tracked") else tensor for name, tensor in golden.state.items() if name not in described.ignored
    }
    system, fields, _, state = converted(weights, described, where)
    cls = registry.system_class(system)
    return cls.from_state(from_dict(cls.config_class, fields, where), state, where).requires_grad_(True)


def model_and_objective(golden: Golden, interop: ModuleType, defaults: dict[tuple[str, str], dict[str, Any]]) -> tuple[Model, dict[str, Any]]:
    """The model of a file, every parameter with gradient, and the fields of its objective, read by `interop.from_layout`.

    `defaults`: (model, family of layouts) -> as for `model_of`. CheckpointError when the weights are those of another system.
    """
    where, family = str(golden.path), golden.layout.split("-")[0]
    config = {**defaults.get((golden.model, family), {}), **golden.config}
    system, fields, objective, state = interop.from_layout(golden.state, config, golden.layout, where)
    if system.replace("-", "_") != golden.model:
        raise CheckpointError(f"{where} says it holds a {golden.model}, but its weights are those of a {system}.")
    cls = registry.system_class(system)
    return cls.from_state(from_dict(cls.config_class, fields, where), state, where).requires_grad_(True), objective


def gradients_of(loss: Tensor, model: nn.Module) -> dict[str, Tensor]:
    """Gradient of `loss` for every parameter of `model` by its name; zeros where the loss does not depend on it."""
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad))
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found))


def pick(computed: dict[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """The computed tensors whose names are wanted."""
    return {name: computed[name] for name in wanted if name in computed}
