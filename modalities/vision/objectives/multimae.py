"""Pre-training of MultiMAE: few visible tokens, shared among the inputs at random, and a loss for each output (arXiv 2204.01678, section 3).

Letters: B batch, T inputs, L patches of one input, N of all.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.masking import Masking, mask_from_noise
from modalities.common.patches import patchify, unpatchify
from modalities.vision.models.multi_input import KEYS
from modalities.vision.models.multimae import OWN, MultiMAE, MultiReconstruction
from trainer.errors import ConfigError, DataError
from trainer.objective import Batch, Losses, Objective
from trainer.randomness import draws_on_device

TRIES = 8
"""Proposals for one gamma variate; each is taken with a probability above 0.95."""


@dataclass(frozen=True)
class MultiMAEObjectiveConfig:
    """What is hidden and how the losses are added up."""

    num_encoded_tokens: int | None = None
    """Patches that stay visible, of all inputs together. Null: a sixth of them, as in the paper (98 of 3 x 196)."""
    alpha: float = 1.0
    """Concentration of the Dirichlet distribution that shares them among the inputs: below 1 mostly one input is seen, far above 1 all evenly."""
    sample_tasks_uniformly: bool = False
    """First choose a set of inputs (any but the empty one, all equally often), and share the visible patches among these alone."""
    loss_on_unmasked: bool = False
    """Let visible patches count in the losses, too."""
    norm_pix_eps: float = 1e-6
    """Added to a patch's variance before the root, for norm_rgb."""
    task_balancer: Literal["none", "uncertainty"] = "none"
    """none: the plain sum of the losses (paper). uncertainty: each loss is weighted by exp(-s) and s added, with a learned s per output."""

    def __post_init__(self) -> None:
        if self.num_encoded_tokens is not None and self.num_encoded_tokens < 1:
            raise ConfigError(f"num_encoded_tokens must be at least 1, found {self.num_encoded_tokens}.")
        if not 0 < self.alpha < math.inf:
            raise ConfigError(f"alpha must be above 0 and finite, found {self.alpha}.")

    def build(self, model: MultiMAE) -> "MultiMAEObjective":
        """The objective around a model."""
        return MultiMAEObjective(model, self)


class MultiMAEObjective(Objective):
    """Batch: every input and every output of the model, as `MultiInputEncoder` says.

    The loss is the sum over the outputs; each is the mean over the hidden pixels of a sample and then over the samples. (With the published
    sizes fewer patches are visible than one input has, so every sample counts in every output.) An output that is no input has no mask, and
    all its pixels count.
    """

    def __init__(self, model: MultiMAE, config: MultiMAEObjectiveConfig) -> None:
        super().__init__()
        length = math.prod(model.config.grid)
        total = len(model.config.in_domains) * length
        visible = max(total // 6, 1) if config.num_encoded_tokens is None else config.num_encoded_tokens
        nothing_hidden = visible == total and set(model.config.in_domains) >= {OWN[output] for output in model.config.out_domains}
        if visible > total or nothing_hidden:
            raise ConfigError(
                f"num_encoded_tokens={visible} patches shall be visible, and there are {total} "
                f"({len(model.config.in_domains)} inputs of {length}); at most {total - 1} leave something to predict. The paper shows a sixth."
            )
        if "norm_rgb" in model.config.out_domains and math.prod(model.config.patch_of("rgb")) * model.config.in_chans < 2:
            raise ConfigError("The output norm_rgb needs patches of at least 2 values, found 1. Leave it out of out_domains or use larger patches.")
        self.model = model
        self.config = config
        self.visible = visible
        """Patches that stay visible."""
        balanced = config.task_balancer == "uncertainty"
        self.log_variances = nn.ParameterDict({output: nn.Parameter(torch.zeros(())) for output in model.config.out_domains} if balanced else {})

    def forward(self, batch: Batch, masking: Masking | None = None) -> Losses:
        self._require(batch)
        if masking is None:
            masking = self.draw_masking(self.model.input(batch), batch.get("sample_key"))
        out = self.model(batch, masking)
        parts = self.losses(out, batch)
        total = sum(self._balanced(output, loss) for output, loss in parts.items())
        return Losses(total, {f"loss_{output}": loss.detach() for output, loss in parts.items()})

    def draw_masking(self, first: Tensor, keys: Tensor | None = None) -> Masking:
        """Which patches are visible, for a batch like that of the first input. With sample keys (B,) the draw depends on them alone."""
        domains, length = len(self.model.config.in_domains), math.prod(self.model.grid_in(self.model.config.in_domains[0], first))
        count = draws_needed(domains, length)
        if keys is None:
            draws = torch.rand(first.shape[0], count, device=first.device)
        else:
            draws = draws_on_device(keys, count)
        return shared_masking(draws, domains, length, self.visible, self.config.alpha, self.config.sample_tasks_uniformly)

    def losses(self, out: MultiReconstruction, batch: Batch) -> dict[str, Tensor]:
        """Output -> loss."""
        found = {}
        for output, prediction in out.predictions.items():
            target = batch[KEYS[OWN[output]]]
            if output == "semseg":
                per_pixel = F.cross_entropy(prediction.float(), target, reduction="none")  # (B, H, W)
            elif output == "depth":
                per_pixel = (prediction.float() - target.float()).abs().mean(dim=1)
            else:
                wanted = self.normalised(target) if output == "norm_rgb" else target.float()
                per_pixel = (prediction.float() - wanted).square().mean(dim=1)
            found[output] = masked_mean(per_pixel, None if self.config.loss_on_unmasked else out.masks.get(OWN[output]))
        return found

    def normalised(self, image: Tensor) -> Tensor:
        """A picture (B, C, H, W), each patch less its mean and by its deviation (unbiased, over all its values)."""
        patch = self.model.config.patch_of("rgb")
        patches = patchify(image.float(), patch)
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        patches = (patches - mean) / (variance + self.config.norm_pix_eps).sqrt()
        return unpatchify(patches, patch, self.model.grid_in("rgb", image), image.shape[1])

    def export(self) -> MultiMAE:
        return self.model

    def _balanced(self, output: str, loss: Tensor) -> Tensor:
        if output not in self.log_variances:
            return loss
        s = self.log_variances[output]
        return torch.where(loss == 0, torch.zeros_like(loss), (-s).exp() * loss + s)

    def _require(self, batch: Batch) -> None:
        wanted = [KEYS[domain] for domain in dict.fromkeys([*self.model.config.in_domains, *(OWN[output] for output in self.model.config.out_domains)])]
        missing = [key for key in wanted if key not in batch]
        if missing:
            raise DataError(f"Pre-training needs {', '.join(map(repr, missing))} in every batch; this one holds: {', '.join(batch) or 'nothing'}.")


def masked_mean(per_pixel: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of values (B, H, W) over the hidden patches, (B, h, w) with 1 = hidden, of each sample, then over the samples that have any.

    Without a mask over everything; 0 when nothing at all is hidden.
    """
    if mask is None:
        return per_pixel.mean()
    weights = F.interpolate(mask[:, None].float(), size=per_pixel.shape[1:], mode="nearest")[:, 0]
    counts = weights.sum(dim=(1, 2))
    means = (per_pixel * weights).sum(dim=(1, 2)) / counts.clamp(min=1)
    return (means * (counts > 0)).sum() / (counts > 0).sum().clamp(min=1)


def draws_needed(domains: int, length: int) -> int:
    """Uniform numbers that `shared_masking` takes for one sample."""
    return 1 + domains * (3 * TRIES + 1) + 2 * domains * length


def shared_masking(draws: Tensor, domains: int, length: int, visible: int, alpha: float = 1.0, some_inputs: bool = False) -> Masking:
    """The visible patches of T inputs of L patches each, from uniform numbers in [0, 1) (B, draws_needed(T, L)).

    Shares of the inputs are Dirichlet distributed; each input first keeps round(share * visible) random patches; then all are ranked by
    (hidden, noise) and exactly `visible` kept, which repairs the rounding. `some_inputs`: a random set of inputs gets all of them.
    """
    choice, gammas, inside, ranks = draws.split([1, domains * (3 * TRIES + 1), domains * length, domains * length], dim=1)
    alphas = torch.full((len(draws), domains), alpha, device=draws.device)
    if some_inputs:
        number = 1 + (choice * (2**domains - 1)).long()  # (B, 1): a set of inputs as the bits of a number
        alphas = alphas * (number >> torch.arange(domains, device=draws.device) & 1) + 1e-5
    shares = log_gammas(gammas.unflatten(1, (domains, -1)), alphas).softmax(dim=1)  # (B, T)
    wanted = (shares * visible).round()
    places = inside.unflatten(1, (domains, length)).argsort(dim=2, stable=True).argsort(dim=2)  # rank of each patch in its input
    hidden = (places >= wanted[:, :, None]).flatten(1)  # (B, N)
    return mask_from_noise(hidden + ranks, visible)


def log_gammas(draws: Tensor, alphas: Tensor) -> Tensor:
    """Logarithms of gamma variates (B, T) of shape `alphas` (B, T), from uniform numbers (B, T, 3 * TRIES + 1).

    Marsaglia and Tsang 2000 for alpha + 1, with a fixed number of proposals so that the draws belong to the sample, and their
    reduction to alpha: Gamma(a) = Gamma(a + 1) * U ** (1 / a). The logarithm holds what would be 0 as a number.
    """
    draws = draws.double().clamp(min=2.0**-25)  # 24-bit numbers: 0 stands for a half of their step
    boost, (first, second, test) = draws[:, :, -1], draws[:, :, :-1].unflatten(2, (3, TRIES)).unbind(2)
    normal = (-2 * first.log()).sqrt() * (2 * math.pi * second).cos()
    d = alphas.double()[:, :, None] + 2 / 3
    v = (1 + normal / (9 * d).sqrt()) ** 3
    log_v = v.clamp(min=1e-300).log()
    taken = (v > 0) & (test.log() < normal.square() / 2 + d - d * v + d * log_v)
    index = taken.int().argmax(dim=2, keepdim=True)  # the first that is taken
    gamma = (d.log() + log_v).gather(2, index)[:, :, 0]
    return gamma + boost.log() / alphas.double()
