"""Recomputes golden files of POA: the intact and an elastic network, heads, Sinkhorn targets and losses."""

from collections.abc import Callable

import torch
from torch import Tensor

from modalities.common.golden import Golden, gradients_of, pick
from modalities.vision.interop import poa as interop
from modalities.vision.models.elastic import block_indices
from modalities.vision.models.poa import POA, POAConfig
from modalities.vision.objectives.self_distillation import cross_entropy, sinkhorn, soften
from trainer.config import from_dict
from trainer.errors import CheckpointError

TEMPERATURES = {"teacher": 0.07, "student": 0.1}
"""With which the files were made."""


def _poa(golden: Golden) -> dict[str, Tensor]:
    where = str(golden.path)
    fields, state = interop.from_layout(golden.state, golden.config, where)
    model = POA.from_state(from_dict(POAConfig, fields, where), state, where).requires_grad_(True)
    image, mask = golden.input("image"), golden.input("mask")
    elastic = golden.config.get("elastic")
    if not isinstance(elastic, list) or len(elastic) != 2:
        raise CheckpointError(f"{where}: config must give the elastic network as [width, depth], found {elastic!r}.")
    sizes = {"full": model.config.intact, "elastic": tuple(elastic)}
    computed: dict[str, Tensor] = {
        "output.block_idx": torch.tensor(block_indices(model.config.depth, elastic[1])),
        "output.networks": torch.tensor(model.config.networks()),
    }
    logits: dict[str, list[Tensor]] = {}
    for name, size in sizes.items():
        tokens = model.features(image, mask, size)
        logits[name] = [head(tokens[:, 0]) for head in model.heads]
        computed |= {f"output.{name}_cls": tokens[:, 0], f"output.{name}_patch": tokens[:, 1:]}
        computed |= {f"output.{name}_head{i}": found for i, found in enumerate(logits[name])}
    with torch.no_grad():
        seen = model.features(image)[:, 0]
    loss = torch.zeros(())
    for i, head in enumerate(model.heads):
        with torch.no_grad():
            target = sinkhorn(head(seen), TEMPERATURES["teacher"])
        computed[f"output.teacher_sinkhorn{i}"] = target
        for name in sizes:
            computed[f"output.dino_{name}{i}"] = cross_entropy(logits[name][i], target, TEMPERATURES["student"]).mean()
            loss = loss + computed[f"output.dino_{name}{i}"]
        distilled = cross_entropy(logits["elastic"][i], soften(logits["full"][i], TEMPERATURES["student"]), TEMPERATURES["student"]).mean()
        computed[f"output.distill{i}"] = distilled
        loss = loss + distilled
    gradients: dict[str, Tensor] = {}
    if any(name.startswith(("grad.", "output.grad.")) for name in golden.expected):
        single = model.config.head_layers == 1
        gradients = {interop.official_name(name, single): gradient for name, gradient in gradients_of(loss, model).items()}
    return pick(computed, golden.expected) | golden.gradients(gradients)


RUNNERS: dict[str, Callable[[Golden], dict[str, Tensor]]] = {"vision/poa": _poa}
