"""Learning rates as other libraries set them and as papers write them; golden files with values of our own choice."""

import json
import math

import torch
from safetensors.torch import save_file

PEAK = 3e-3


def of_torch(make, count, lr=PEAK):
    """What a scheduler of transformers sets at steps 0, 1, ..."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler, seen = make(optimizer), []
    for _ in range(count):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def of_timm(make, count, lr=PEAK):
    """What a scheduler of timm sets when it is called per update."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler, seen = make(optimizer), []
    for step in range(count):
        scheduler.step_update(step)
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


def infinite_as_published(i, total, warm, cool, const_end, base, const, low, style, task):
    """The rule of the specification of "Beyond Cosine Decay", written once more as cases."""
    warm, cool, const_end = int(total * warm), int(total * cool), int(total * const_end)
    if task == 0 and i <= warm:
        return base * i / warm
    if task == 0 and i <= cool:
        p = (i - warm) / (cool - warm)
        if style == "cosine":
            return const + (base - const) / 2 * (math.cos(math.pi * p) + 1)
        if style == "inverse_sqrt":
            return base + (const - base) * (1 / math.sqrt(1 + 10 * p) - 1) / (1 / math.sqrt(11) - 1)
        return base + (const - base) * p
    if i <= const_end:
        return const
    return const * (low / const) ** ((i - const_end) / (total - const_end))


def write_golden(path, model, config, tensors):
    """A golden file as the official ones are laid out."""
    metadata = {"model": model, "layout": "official", "config": json.dumps(config), "source": "tests", "notes": ""}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return str(path)
