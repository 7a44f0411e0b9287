"""How long and how fast is trained, where it is the same in several modalities."""

from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig


def linear_probe(batch_size: int, epochs: int, warmup: float) -> TrainConfig:
    """LARS without weight decay for a linear layer on frozen features (He et al. 2021, arXiv 2111.06377, table 10), the rate per 256 samples; `warmup` is a share of the steps."""
    optim = OptimConfig(name="lars", base_lr=0.1, betas=None, weight_decay=0.0)
    return TrainConfig(batch_size=batch_size, epochs=epochs, optim=optim, schedule=ScheduleConfig(warmup=warmup))


def few_labels(batch_size: int, steps: int, lr: float, seed: int) -> TrainConfig:
    """A short training on few labels, for demos and comparisons: our own choice."""
    optim = OptimConfig(lr=lr, betas=(0.9, 0.999), weight_decay=0.05)
    return TrainConfig(batch_size=batch_size, steps=steps, seed=seed, log_every=50, pictures=1, optim=optim, schedule=ScheduleConfig(warmup=0.05))
