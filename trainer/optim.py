"""Optimizers (timm's factory) and the groups of parameters they get."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.errors import ConfigError, did_you_mean
from trainer.phases import fall


@dataclass(frozen=True)
class OptimConfig:
    """Which optimizer, how fast."""

    name: str = "adamw"
    """A name of timm's optimizer factory (adamw, lamb, lars, ...)."""
    base_lr: float = 1.5e-4
    """Learning rate per 256 samples: the peak lr is base_lr * batch_size / 256 (linear scaling rule)."""
    scaling: Literal["linear", "sqrt"] = "linear"
    """How base_lr grows with the batch: with batch_size / 256, or with its square root (DINOv2, POA)."""
    lr: float | None = None
    """Peak learning rate itself. Given, it wins over base_lr."""
    betas: tuple[float, float] | None = (0.9, 0.95)
    """Adam's averaging factors. Null for optimizers without them (lars and sgd get timm's momentum of 0.9)."""
    eps: float | None = None
    """Added to the root of the second moment. Null: the optimizer's own (1e-8 of Adam)."""
    weight_decay: float = 0.05
    """Decay of matrices; biases, norms and what the model names in no_weight_decay() are not decayed."""
    weight_decay_end: float | None = None
    """Decay at the end of the run, reached from weight_decay along half a cosine (0.04 to 0.4 in DINO). Null: it stays as it is."""
    layer_decay: float | None = None
    """Learning-rate factor from one layer to the layer below it. Null: the same rate everywhere."""
    clip_norm: float | None = None
    """Clip the global gradient norm to this value. Null: no clipping."""

    def __post_init__(self) -> None:
        if self.weight_decay_end is not None and not (self.weight_decay > 0 and self.weight_decay_end >= 0):
            raise ConfigError(
                f"optim.weight_decay_end={self.weight_decay_end} is reached from optim.weight_decay={self.weight_decay}: "
                "the one must be at least 0 and the other above 0."
            )

    def peak_lr(self, batch_size: int) -> float:
        """The peak learning rate for a global batch of `batch_size` samples."""
        ratio = batch_size / 256
        return self.lr if self.lr is not None else self.base_lr * (ratio if self.scaling == "linear" else ratio**0.5)

    def decay_factor(self, step: int, steps: float) -> float | None:
        """Weight decay at a step as a multiple of that at the beginning; None when it stays. `steps`: length of the whole curve."""
        if self.weight_decay_end is None:
            return None
        return fall(self.weight_decay, self.weight_decay_end, steps, "cosine")(step) / self.weight_decay


def parameter_groups(module: nn.Module, weight_decay: float, layer_decay: float | None = None) -> list[dict[str, Any]]:
    """Optimizer groups of the trainable parameters of `module`.

    No decay for 1-D parameters (biases, norms) and for the names that `module`, or a module inside it, gives
    in `no_weight_decay()`. With `layer_decay`, a parameter of layer i out of L gets
    `lr_scale = layer_decay ** (L - i)` by the model's own map `layer_ids()` (name -> i; the head, and what
    the map does not name, is L and keeps the full rate; as MAE and BEiT do it).
    Each group: `params`, `names`, `weight_decay`, `lr_scale`.
    """
    undecayed: set[str] = set()
    ids: dict[str, int] = {}
    for path, part in module.named_modules():
        prefix = f"{path}." if path else ""
        if hasattr(part, "no_weight_decay"):
            undecayed |= {prefix + name for name in part.no_weight_decay()}
        if layer_decay is not None and hasattr(part, "layer_ids"):
            ids.update({prefix + name: i for name, i in part.layer_ids().items()})
    if layer_decay is not None and not ids:
        raise ConfigError(
            f"optim.layer_decay={layer_decay} needs a model that knows the depth of its parameters "
            f"(layer_ids()); nothing in {type(module).__name__} does. Set it to null."
        )
    top = max(ids.values(), default=0)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = 0.0 if parameter.ndim <= 1 or name in undecayed else weight_decay
        scale = layer_decay ** (top - ids.get(name, top)) if layer_decay is not None else 1.0
        group = groups.setdefault((scale, decay), {"params": [], "names": [], "weight_decay": decay, "lr_scale": scale})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def divide(groups: list[dict[str, Any]], chosen: Callable[[str], bool], scale: float = 1.0, frozen: float = 0.0) -> list[dict[str, Any]]:
    """Groups in which the parameters whose names are `chosen` have a learning rate `scale` times as high, 0 for the first `frozen` share of the run."""
    divided = []
    for group in groups:
        options = {key: value for key, value in group.items() if key not in ("params", "names")}
        for wanted in (False, True):
            pairs = [(p, name) for p, name in zip(group["params"], group["names"]) if chosen(name) is wanted]
            if pairs:
                params, names = map(list, zip(*pairs))
                changed = {"lr_scale": group["lr_scale"] * scale, "frozen": max(frozen, group.get("frozen", 0.0))} if wanted else {}
                divided.append({"params": params, "names": names, **options, **changed})
    return divided


FUSED = ("adam", "adamw", "sgd", "momentum")
"""Names of timm's factory behind which stands an optimizer of torch with a fused step: one kernel for all weights."""


def build_optimizer(groups: list[dict[str, Any]], config: OptimConfig, lr: float) -> Optimizer:
    """The optimizer of timm's factory over `groups`. ConfigError for a name that the factory does not know."""
    known = list_optimizers()
    if config.name not in known:
        raise ConfigError(f"optim.name is {config.name!r}, which timm does not know.{did_you_mean(config.name, known)}")
    if get_optimizer_info(config.name).second_order:
        raise ConfigError(f"optim.name={config.name!r} needs second derivatives of the loss, which this trainer does not take. Choose another.")
    options = {}
    if config.betas is not None:
        if not get_optimizer_info(config.name).has_betas:  # timm would drop them without a word
            raise ConfigError(f"optim.name={config.name!r} has no betas, found optim.betas={config.betas}. Set it to null.")
        options["betas"] = config.betas
    if config.eps is not None:
        if not get_optimizer_info(config.name).has_eps:  # as above
            raise ConfigError(f"optim.name={config.name!r} has no eps, found optim.eps={config.eps}. Set it to null.")
        options["eps"] = config.eps
    fusable = all(p.device.type in ("cuda", "cpu") and p.is_floating_point() for group in groups for p in group["params"])
    if config.name in FUSED and fusable:
        options["fused"] = True
    optimizer = create_optimizer_v2(groups, opt=config.name, lr=lr, weight_decay=0.0, **options)
    if isinstance(optimizer, torch.optim.SGD) and options.get("fused"):
        # torch leaves the momentum of the first step uninitialised when that step is skipped; from zero the sums are the same
        for parameter in (p for group in optimizer.param_groups if group["momentum"] for p in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """`optimizer.load_state_dict`, with each moment laid out in memory as its parameter is.

    A file holds tensors in plain order, and torch's fused steps go through parameter and moments side by side without
    asking: with channels_last they would pair the wrong elements.
    """
    optimizer.load_state_dict(state)
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                moments[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
