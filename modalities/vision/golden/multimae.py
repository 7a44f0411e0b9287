"""Recomputes golden files of MultiMAE and of its fine-tuned classifier."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from modalities import registry
from modalities.common.golden import Golden, gradients_of, pick
from modalities.common.masking import Masking
from modalities.common.positions import sincos_table
from modalities.vision.interop import multimae as interop
from modalities.vision.models.multi_input import KEYS, MultiInputEncoder
from modalities.vision.objectives.multimae import MultiMAEObjective, MultiMAEObjectiveConfig
from trainer.config import from_dict
from trainer.errors import CheckpointError

DEFAULTS: dict[str, Any] = {"num_heads": 12, "decoder_num_heads": 8}
"""What the official classes take when their config does not say it and no shape shows it."""


def _load(golden: Golden) -> MultiInputEncoder:
    """The model of a file, every parameter with gradient."""
    where = str(golden.path)
    config = {k: v for k, v in golden.config.items() if k != "input_size"}  # perhaps that of the images; the position tables say theirs themselves
    described = interop.read(golden.state, {**DEFAULTS, **config}, where)
    if described.system != golden.model:
        raise CheckpointError(f"{where} says it holds a {golden.model}, but its weights are those of a {described.system}.")
    cls = registry.system_class(described.system)
    return cls.from_state(from_dict(cls.config_class, described.fields, where), golden.state, where).requires_grad_(True)


def _batch(golden: Golden) -> dict[str, Tensor]:
    """The maps of the file, in our names; ids as whole numbers."""
    found = {domain: golden.inputs[domain] for domain in KEYS if domain in golden.inputs}
    return {KEYS[domain]: x.long() if domain == "semseg" else x for domain, x in found.items()}


def _multimae(golden: Golden) -> dict[str, Tensor]:
    model = _load(golden)
    c, batch = model.config, _batch(golden)
    masking = None
    if "ids_keep" in golden.inputs:
        masking = Masking(golden.input("ids_keep").long(), golden.input("ids_restore").long(), golden.input("task_masks"))
    out = model(batch, masking)
    objective = MultiMAEObjective(model, MultiMAEObjectiveConfig(num_encoded_tokens=1, loss_on_unmasked=bool(golden.config.get("loss_on_unmasked"))))
    parts = objective.losses(out, batch)
    total = sum(parts.values())
    tables = {"encoder": c.embed_dim, "decoder": c.decoder_dim}
    computed = {
        "output.encoder_tokens": out.latent,
        "output.loss": total,
        **{f"output.pred.{output}": found for output, found in out.predictions.items()},
        **{f"output.loss.{output}": loss for output, loss in parts.items()},
        **{f"output.sincos_{name}": sincos_table(width, c.grid, "row-first", 0).transpose(1, 2).unflatten(2, c.grid) for name, width in tables.items()},
    }
    return pick(computed, golden.expected) | golden.gradients(gradients_of(total, model))


def _multivit(golden: Golden) -> dict[str, Tensor]:
    model = _load(golden)
    batch = _batch(golden)
    tokens = model.tokens(batch)
    features = model.pooled(tokens)
    computed = {"output.logits": model.output_adapters["cls"]["head"](features), "output.features": features, "output.encoder_tokens": tokens}
    gradients: dict[str, Tensor] = {}
    if "label" in golden.inputs:
        computed["output.loss"] = F.cross_entropy(computed["output.logits"], golden.input("label").long())
        gradients = gradients_of(computed["output.loss"], model)
    return pick(computed, golden.expected) | golden.gradients(gradients) | golden.layer_decay(model)


RUNNERS: dict[str, Callable[[Golden], dict[str, Tensor]]] = {"vision/multimae": _multimae, "vision/multivit": _multivit}
