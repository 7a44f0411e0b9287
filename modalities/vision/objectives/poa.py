"""POA's pre-training: a teacher, an intact student and an elastic student in each step (Zhang et al. 2024, arXiv 2408.01031, section 3).

The losses are those of alipay/POA@00d9074 `poa/train/ssl_meta_arch.py`: DINO's between crops, iBOT's on masked patches and KoLeo for
both students, and the distillation of the elastic student from the intact one on the same crops, each averaged over the heads.
Letters: B samples, G = 2 large crops, n small crops, L patches, K prototypes.
"""

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from modalities.common.masking import block_masks
from modalities.vision.models.poa import POA, Size
from modalities.vision.multicrop import GLOBAL
from modalities.vision.objectives.self_distillation import cross_entropy, sinkhorn, soften, spread
from trainer.errors import ConfigError, DataError
from trainer.objective import Batch, Losses, Objective
from trainer.optim import divide, parameter_groups
from trainer.parallel import local
from trainer.phases import fall
from trainer.randomness import draws_on_device, key


@dataclass(frozen=True)
class POAObjectiveConfig:
    """Weights and schedules of the losses. The defaults are the paper's; shares of the run are those of its 346 epochs."""

    intact_weight: float = 0.8
    """Weight of the intact student; the elastic one, and its distillation from the intact one, have the rest."""
    student_temperature: float = 0.1
    """Divides the logits of both students."""
    teacher_temperature: tuple[float, float] = (0.04, 0.07)
    """Divides the teacher's logits: at the beginning, and after `temperature_warmup`."""
    temperature_warmup: float = 30 / 346
    """Share of the run in which the teacher's temperature rises."""
    momentum: tuple[float, float] = (0.992, 0.9999)
    """Share of the teacher's weights that stays in a step: at the beginning and at the end, along half a cosine."""
    horizon: float = 1.0
    """How many times as long as the run that cosine is (as train.schedule.horizon)."""
    masked_patches: float = 1.0
    """Weight of the loss on masked patches (iBOT)."""
    masked_start: float = 30 / 346
    """Share of the run before patches are masked."""
    mask_chance: float = 0.5
    """Chance that a large crop is masked."""
    mask_ratio: tuple[float, float] = (0.1, 0.5)
    """Smallest and largest share of its patches that is then hidden, in rectangles."""
    spread: float = 0.1
    """Weight of KoLeo, which keeps the class tokens of different samples apart."""
    fixed_gains: bool = False
    """Keep the gain of every prototype as it is (DINO's norm_last_layer). In short runs gains may else shrink until all targets are alike."""
    last_layer_frozen: float = 1 / 346
    """Share of the run in which the prototypes do not move."""
    patch_lr: float = 0.2
    """Learning rate of the patch embedding, relative to the others'."""

    def __post_init__(self) -> None:
        shares = ("intact_weight", "temperature_warmup", "masked_start", "mask_chance", "last_layer_frozen")
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"objective.{name} must lie within 0..1, found {getattr(self, name)}.")
        if min(self.student_temperature, *self.teacher_temperature) <= 0 or self.horizon < 1 or min(self.masked_patches, self.spread, self.patch_lr) < 0:
            raise ConfigError("objective needs temperatures above 0, horizon at least 1, and masked_patches, spread and patch_lr at least 0.")
        if not 0 <= self.mask_ratio[0] <= self.mask_ratio[1] < 1 or not all(0 <= m <= 1 for m in self.momentum):
            raise ConfigError(f"objective needs mask_ratio as (smallest, largest) within 0..1 and momentum within 0..1, found {self.mask_ratio} and {self.momentum}.")

    def build(self, model: POA, seed: int = 0) -> "SelfDistillation":
        """The objective around a network; `seed` decides the order of the sub-networks."""
        return SelfDistillation(model, self, seed)


class SelfDistillation(Objective):
    """Batch: "global" (B, 2, C, H, W) and "local" (B, n, C, h, w), as `MultiCropImages` gives them. The teacher is what is exported.

    The elastic student's size follows from the seed and the step, so that it is the same on all processes and after a restart. Targets
    are balanced over all samples of a step, except that micro-batches (train.accumulate) are balanced one by one.
    """

    def __init__(self, model: POA, config: POAObjectiveConfig, seed: int = 0) -> None:
        super().__init__()
        if not model.heads:
            raise ConfigError("Self-distillation needs heads: give model.prototypes at least one number.")
        self.model, self.config, self.seed = model, config, seed
        for head in model.heads:
            head.gain.requires_grad_(not config.fixed_gains)
        self.teacher = copy.deepcopy(model).requires_grad_(False).eval()
        self.networks = model.config.networks()
        self.step, self.steps = 0, 1

    def before_step(self, step: int, steps: int) -> None:
        self.step, self.steps = step, steps

    def train(self, mode: bool = True) -> "SelfDistillation":
        """Training mode of the student; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def network(self, step: int) -> Size:
        """The elastic student's size in a step. All sub-networks but the intact one are drawn in a random order, then again in another."""
        others = self.networks[:-1]
        if not others:
            return self.model.config.intact
        turn, place = divmod(step, len(others))
        return others[_order(self.seed, turn, len(others))[place]]

    def temperature(self) -> float:
        """The teacher's in this step."""
        first, last = self.config.teacher_temperature
        return fall(first, last, self.config.temperature_warmup * self.steps)(self.step)

    def forward(self, batch: Batch) -> Losses:
        config = self.config
        crops = self._read(batch)
        masking = config.masked_patches > 0 and self.step >= config.masked_start * self.steps
        mask = self._masks(batch, crops["global"], masking)
        targets = self._targets(crops["global"], mask, masking)
        intact, intact_spread = self._student(crops, mask, masking, self.model.config.intact)
        elastic, elastic_spread = self._student(crops, mask, masking, self.network(self.step))
        dino, masked, distilled = (torch.zeros((), device=mask.device) for _ in range(3))
        for target, first, second in zip(targets, intact, elastic):
            for weight, student in ((config.intact_weight, first), (1 - config.intact_weight, second)):
                dino = dino + weight * self._between_crops(student, target)
                if masking:
                    masked = masked + weight * self._on_patches(student["patch"], target["patch"], mask)
            distilled = distilled + sum(self._mean(second[kind], soften(first[kind], config.student_temperature)) for kind in crops)
        heads = len(targets)
        koleo = (intact_spread + elastic_spread) / 2
        parts = {"dino": dino / heads, "masked": masked / heads, "distilled": distilled / heads, "koleo": koleo}
        loss = parts["dino"] + config.masked_patches * parts["masked"] + (1 - config.intact_weight) * parts["distilled"] + config.spread * koleo
        return Losses(loss, {name: part.detach() for name, part in parts.items()})

    def after_step(self, step: int) -> None:
        """Move the teacher towards the student."""
        first, last = self.config.momentum
        momentum = fall(first, last, self.steps * self.config.horizon, "cosine")(step - 1)
        with torch.no_grad():
            torch._foreach_lerp_([local(p) for p in self.teacher.parameters()], [local(p) for p in self.model.parameters()], 1 - momentum)

    def parameter_groups(self, weight_decay: float, layer_decay: float | None) -> list[dict[str, Any]]:
        groups = divide(parameter_groups(self, weight_decay, layer_decay), lambda name: ".patch_embed." in name, scale=self.config.patch_lr)
        return divide(groups, lambda name: name.endswith((".direction", ".gain")), frozen=self.config.last_layer_frozen)

    def export(self) -> POA:
        return self.teacher

    def after_warm_start(self) -> None:
        self.model.load_state_dict(self.teacher.state_dict())

    def _read(self, batch: Batch) -> dict[str, Tensor]:
        """The crops, (B * G, C, H, W) and (B * n, C, h, w): all first ones, then all second ones, ..."""
        found = {kind: batch[kind] for kind in ("global", "local") if kind in batch}
        if "global" not in found or found["global"].ndim != 5 or found["global"].shape[1] != GLOBAL:
            raise DataError(f"Self-distillation reads batch['global'] (B, {GLOBAL}, C, H, W) as MultiCropImages gives it; this batch holds: {', '.join(batch)}.")
        return {kind: crops.transpose(0, 1).flatten(0, 1) for kind, crops in found.items()}

    def _masks(self, batch: Batch, crops: Tensor, masking: bool) -> Tensor:
        """Which patches of the large crops are hidden, (B * G, L) bool, by the keys of the samples; none while nothing is masked."""
        if not masking:
            return torch.zeros(len(crops), self.model.patch_embed.length, dtype=torch.bool, device=crops.device)
        keys = batch.get("sample_key")
        if keys is None:
            keys = torch.randint(2**62, (len(crops) // GLOBAL,), device=crops.device)
        keys = torch.cat([keys + i for i in range(GLOBAL)])  # a hash follows: neighbours have nothing in common
        low, high = self.config.mask_ratio
        chosen, ratio = draws_on_device(~keys, 2).unbind(1)
        count = ((low + ratio * (high - low)) * self.model.patch_embed.length).long() * (chosen < self.config.mask_chance)
        return block_masks(count, keys, self.model.config.grid)

    @torch.no_grad()
    def _targets(self, crops: Tensor, mask: Tensor, masking: bool) -> list[dict[str, Tensor]]:
        """For each head what the students shall say: of the class token by the other large crop (B * G, K), of hidden patches (M, K)."""
        tokens = self.teacher.features(crops)
        other = torch.cat(tokens[:, 0].chunk(GLOBAL)[::-1])
        temperature, found = self.temperature(), []
        for head in self.teacher.heads:
            target = {"global": sinkhorn(head(other), temperature)}
            if masking:
                target["patch"] = sinkhorn(head(tokens[:, 1:][mask]), temperature)
            found.append(target)
        return found

    def _student(self, crops: dict[str, Tensor], mask: Tensor, masking: bool, size: Size) -> tuple[list[dict[str, Tensor]], Tensor]:
        """Logits of each head: "global" (B * G, K), "local" (B * n, K), "patch" (M, K); and KoLeo of the class tokens, summed over the large crops."""
        tokens = self.model.features(crops["global"], mask, size)
        seen = {"global": tokens[:, 0]}
        if "local" in crops:
            seen["local"] = self.model.features(crops["local"], size=size)[:, 0]
        if masking:
            seen["patch"] = tokens[:, 1:][mask]
        lengths = [len(part) for part in seen.values()]
        together = torch.cat(list(seen.values()))
        logits = [dict(zip(seen, head(together).split(lengths))) for head in self.model.heads]
        return logits, sum(spread(part) for part in tokens[:, 0].chunk(GLOBAL))

    def _between_crops(self, student: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
        """DINO's loss: each small crop against both large ones, each large one against the other, divided by the number of such pairs."""
        views = target["global"].unflatten(0, (GLOBAL, -1))
        total, pairs = GLOBAL * self._mean(student["global"], target["global"]), GLOBAL * (GLOBAL - 1)
        if "local" in student:
            small = student["local"].unflatten(0, (-1, views.shape[1]))  # (n, B, K)
            total = total + len(small) * self._mean(small, views.sum(dim=0))  # linear in the target: both views at once
            pairs += GLOBAL * len(small)
        return total / pairs

    def _on_patches(self, logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """iBOT's loss: the mean over the hidden patches of a crop, then over all crops, also those of which nothing is hidden."""
        weight = (1 / mask.sum(dim=1, keepdim=True).clamp(min=1)).expand_as(mask)[mask]
        return (cross_entropy(logits, target, self.config.student_temperature) * weight).sum() / len(mask)

    def _mean(self, logits: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(logits, target, self.config.student_temperature).mean()


@lru_cache(maxsize=4)
def _order(seed: int, turn: int, count: int) -> list[int]:
    generator = torch.Generator().manual_seed(key(seed, turn))
    return torch.randperm(count, generator=generator).tolist()
