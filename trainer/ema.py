"""An exponential moving average of the weights, kept beside training and exported in their place."""

from typing import TYPE_CHECKING, Any

from timm.utils import ModelEmaV3

from trainer.callback import Callback

if TYPE_CHECKING:
    from trainer.trainer import Trainer


class EMA(Callback):
    """timm's `ModelEmaV3` of the whole objective: average = decay * average + (1 - decay) * weights after each step.

    With `warmup` the decay grows with the steps, 1 - step ** (-2 / 3) up to `decay` (timm's rule), so that the first random
    weights are soon forgotten. Integer buffers are copied.
    """

    def __init__(self, decay: float, warmup: bool = True) -> None:
        self.decay, self.warmup = decay, warmup
        self.ema: ModelEmaV3 | None = None

    def prepare_model(self, trainer: "Trainer") -> None:
        self.ema = ModelEmaV3(trainer.objective, decay=self.decay, use_warmup=self.warmup)
        trainer.spread.place(self.ema.module)
        trainer.average = self.ema.module

    def after_step(self, trainer: "Trainer") -> None:
        self.ema.update(trainer.objective, step=trainer.step)

    def state_dict(self) -> dict[str, Any]:
        return {"module": self.ema.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ema.module.load_state_dict(state["module"])
