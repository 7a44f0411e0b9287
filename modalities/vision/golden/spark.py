"""Recomputes golden files of SparK."""

from collections.abc import Callable

import torch
from torch import Tensor

from modalities.common import pretrained
from modalities.common.golden import Golden, gradients_of, pick
from modalities.common.patches import patchify
from modalities.vision.interop.spark import to_official
from modalities.vision.models.spark import SparK
from modalities.vision.objectives.spark import SparKObjectiveConfig, SparKReconstruction
from trainer.errors import CheckpointError

FIRST_ONLY = ("feat", "to_dec")
"""Maps of which a file may hold the first samples and channels only."""


def _spark(golden: Golden) -> dict[str, Tensor]:
    image, where = golden.input("image"), str(golden.path)
    model = pretrained.from_tensors(golden.state, {**golden.config, "input_size": list(image.shape[2:])}, where, golden.layout)
    if not isinstance(model, SparK):
        raise CheckpointError(f"{where} says it holds a {golden.model}, but its weights are those of a {model.system}.")
    computed: dict[str, Tensor] = {}
    with torch.no_grad():
        _, found = _pass(model.eval(), golden)
        computed |= {f"output.eval_{name}": value for name, value in found.items()}
    loss, found = _pass(model.train(), golden)
    computed |= {f"output.train_{name}": value for name, value in found.items()}
    buffers = to_official(model, dict(model.named_buffers()))
    computed |= {f"output.{name.rpartition('.')[2]}_after_train_step.{name}": value for name, value in buffers.items()}
    gradients = to_official(model, gradients_of(loss, model))
    return pick(computed, golden.expected) | golden.gradients(gradients)


class _Given(SparKReconstruction):
    """The objective for the masks of files, which may hide nothing or all."""

    def check(self, model: SparK, config: SparKObjectiveConfig) -> None:
        pass


def _pass(model: SparK, golden: Golden) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and everything that a file may hold of one pass, by its name without the mode."""
    batch, active = {"image": golden.input("image")}, golden.input("active").bool()
    mode = "train" if model.training else "eval"
    out = model.see(batch, active)
    objective = _Given(model, SparKObjectiveConfig())
    prediction = patchify(out.image, model.config.patch_size)
    loss = objective.loss(prediction, objective.target(batch), (~active).flatten(1).float())
    found = {f"feat{i}": x for i, x in enumerate(out.maps)} | {f"to_dec{i}": x for i, x in enumerate(out.densified)}
    found |= {"loss": loss, "rec_sum_per_channel": out.image.sum(dim=(2, 3)), "rec_patch0": prediction[:, 0]}
    for name, value in found.items():
        wanted = golden.expected.get(f"output.{mode}_{name}")
        if wanted is None or wanted.ndim != value.ndim:
            continue
        if name == "rec_patch0":
            found[name] = value[: len(wanted), :: max(value.shape[1] // max(wanted.shape[1], 1), 1)]
        elif name.startswith(FIRST_ONLY):
            found[name] = value[: wanted.shape[0], : wanted.shape[1]]
    return loss, found


RUNNERS: dict[str, Callable[[Golden], dict[str, Tensor]]] = {"vision/spark": _spark}
