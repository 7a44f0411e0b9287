"""How much arithmetic a sample takes, counted without doing it."""

import logging

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from trainer.data import Source, batches, to_device
from trainer.randomness import seeded

log = logging.getLogger("zoo")
SAMPLES = 2
"""Samples in the batch that is counted; some objectives refuse a single one."""


def flops_per_sample(objective: nn.Module, source: Source, seed: int) -> float | None:
    """FLOPs of the forward and backward pass for one sample, as torch's counter counts them (matrix products, convolutions, attention).

    The pass runs on the meta device, so it computes nothing, changes nothing and draws nothing from the global
    generators. None when the objective cannot run there (it reads values of tensors, for instance).
    """
    meta = torch.device("meta")
    tensors = {name: torch.empty_like(t, device=meta).requires_grad_(t.requires_grad) for name, t in (*objective.named_parameters(), *objective.named_buffers())}
    was_training = objective.training
    try:
        with seeded(seed), FlopCounterMode(display=False) as counter:
            batch = to_device(next(batches(source, SAMPLES, seed, 0, 1, workers=0)), meta)
            functional_call(objective.train(), tensors, (batch,)).loss.backward()
        return counter.get_total_flops() / SAMPLES or None
    except Exception as error:  # whatever goes wrong here is no reason not to train; a real fault shows in the first step
        log.debug("FLOPs are not counted: %s", error)
        return None
    finally:
        objective.train(was_training)
