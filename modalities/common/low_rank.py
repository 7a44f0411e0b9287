"""Low-rank updates of weights (LoRA, Hu et al. 2021, arXiv 2106.09685), as CE-SSL fine-tunes with them (Zhou et al. 2024, arXiv 2406.14377).

A layer that is updated computes with W + B A, in which only A and B train. B starts at zero, so nothing changes at first. A convolution's product is
given the shape of its weights, which is not a convolution of low rank followed by another. While training and in evaluation, a layer may be left out at random in
each forward pass (random deactivation); when the update is merged, it is scaled by how often it was there. Ranks can follow from the gradients of
a first pass: the layers whose update matters least get half. Letters: O outputs, I inputs, R rank.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from modalities.common.linear import linear
from trainer.errors import ConfigError, ModelError

Importance = Literal["fisher", "taylor"]
"""fisher: mean square of the gradient of the update. taylor: of that times the weight."""


class LowRank:
    """Goes before the class of a layer whose `updated_weight` gives the weight that low rank updates."""

    lora_A: nn.Parameter | None
    lora_B: nn.Parameter | None
    skip = 0.0
    """Probability that a forward pass leaves the update out."""
    shares = 1
    """The outputs come in so many equal parts, each with an A and a B of its own (query, key and value)."""
    inputs_first = False
    """The weight is stored as (I, O)."""

    @property
    def updated_weight(self) -> nn.Parameter:
        """The weight W."""
        return self.weight

    def set_rank(self, rank: int, skip: float = 0.0) -> None:
        """Give the layer a fresh update of a rank that changes nothing yet, or none with rank 0."""
        if rank < 0 or not 0 <= skip < 1:
            raise ConfigError(f"A low-rank update needs a rank of at least 0 and a probability below 1 of being left out, found {rank} and {skip}.")
        weight, self.skip = self.updated_weight, skip
        outputs, inputs = (weight.shape[1], weight.shape[0]) if self.inputs_first else (weight.shape[0], weight.numel() // weight.shape[0])
        self.lora_A = nn.Parameter(weight.new_empty(self.shares * rank, inputs)) if rank else None
        self.lora_B = nn.Parameter(weight.new_zeros(outputs, rank)) if rank else None
        if rank:
            nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5)) if self.shares > 1 else nn.init.normal_(self.lora_A, std=0.02)

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """B (O, R) times A (shares * R, I), part by part, in the shape of the weight."""
        whole = (left.unflatten(0, (self.shares, -1)) @ right.unflatten(0, (self.shares, -1))).flatten(0, 1)
        return whole.T if self.inputs_first else whole.view(self.updated_weight.shape)

    def present_weight(self) -> Tensor:
        """What this forward pass computes with."""
        if self.lora_A is None or (self.skip and float(torch.rand(())) < self.skip):
            return self.updated_weight
        return self.updated_weight + self.product(self.lora_B, self.lora_A)

    @torch.no_grad()
    def merge(self) -> None:
        """Put the update into the weight, as much of it as there was on average, and drop it."""
        if self.lora_A is not None:
            self.updated_weight.add_((1 - self.skip) * self.product(self.lora_B, self.lora_A))
            self.set_rank(0)

    def importance(self, gradient: Tensor, kind: Importance = "taylor") -> Tensor:
        """How much the loss depends on the update, from the gradient (O, R) of B: a number."""
        change = self.product(gradient, self.lora_A)
        return ((change * self.updated_weight if kind == "taylor" else change) ** 2).mean()


class LowRankLinear(LowRank, nn.Linear):
    """A linear layer."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True, rank: int = 0, skip: float = 0.0) -> None:
        super().__init__(inputs, outputs, bias)
        self.set_rank(rank, skip)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        return linear(x, self.present_weight(), self.bias)


def low_rank_layers(model: nn.Module) -> dict[str, LowRank]:
    """The layers of a model that have an update, by their names."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LowRank) and layer.lora_A is not None}


def importances(loss: Tensor, model: nn.Module, kind: Importance = "taylor") -> dict[str, Tensor]:
    """Of each layer with an update, how much a loss depends on it. Take it before the first step, as a mean over batches: with B at zero A has no gradient."""
    layers = low_rank_layers(model)
    if not layers:
        raise ModelError("No layer of this model has a low-rank update. Give it ranks first.")
    gradients = torch.autograd.grad(loss, [layer.lora_B for layer in layers.values()], retain_graph=True, allow_unused=True, materialize_grads=True)
    return {name: layer.importance(gradient, kind).detach() for (name, layer), gradient in zip(layers.items(), gradients)}


def allocate(scores: Sequence[float], rank: int, share: float) -> list[int]:
    """Ranks for layers with such importances: `rank`, but for the `share` of them that matter least half of it, and an even number."""
    if rank < 2 or not 0 <= share <= 1:
        raise ConfigError(f"Ranks are allotted from one of at least 2, halved for a share of the layers between 0 and 1; found {rank} and {share}.")
    order = sorted(range(len(scores)), key=lambda i: scores[i])
    least = set(order[: int(len(scores) * share)])
    return [max(rank // 4 * 2, 1) if i in least else rank for i in range(len(scores))]
