"""How convolutional networks are trained that no paper at hand says it of: the same for LOOK and Selfie."""

from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig

WARMUP = 0.05
"""Share of a run."""


def by_momentum(batch_size: int, epochs: int, base_lr: float) -> TrainConfig:
    """SGD with momentum and a cosine, as ResNets are usually trained; the rate is per 256 samples."""
    optim = OptimConfig(name="momentum", base_lr=base_lr, betas=None, weight_decay=1e-4)
    return TrainConfig(batch_size=batch_size, epochs=epochs, optim=optim, schedule=ScheduleConfig(warmup=WARMUP))


def on_a_laptop(**changes: int) -> TrainConfig:
    """150 small steps by AdamW; `changes` are further fields."""
    optim = OptimConfig(lr=1e-3, weight_decay=0.05)
    return TrainConfig(batch_size=32, steps=150, log_every=10, optim=optim, schedule=ScheduleConfig(warmup=WARMUP), **changes)
