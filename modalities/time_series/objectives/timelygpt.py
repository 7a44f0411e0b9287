"""The two pre-training tasks of TimelyGPT (Song et al. 2024, arXiv 2312.00817) beside forecasting points: the next token, and the next code."""

from dataclasses import dataclass

from torch.nn import functional as F

from modalities.time_series.models.forecaster import require_series
from modalities.time_series.models.timelygpt import TimelyGPT
from modalities.time_series.models.timelygpt_codes import TimelyGPTCodes
from trainer.errors import ConfigError
from trainer.objective import Batch, Losses, Objective


@dataclass(frozen=True)
class TokenPredictionConfig:
    """Nothing is to be chosen."""

    def build(self, model: TimelyGPT) -> "TokenPrediction":
        """The objective around a model that predicts tokens. ConfigError for one that predicts points."""
        if model.config.target != "tokens":
            raise ConfigError('Tokens are predicted by a TimelyGPT with target="tokens"; one with target="points" is trained by forecasting.')
        return TokenPrediction(model)


class TokenPrediction(Objective):
    """Squared error of the next token. As in the authors' code the tokens are made by convolutions that train with the rest, and can all become alike."""

    def __init__(self, model: TimelyGPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Losses:
        series = self.model.checked_channels(require_series(batch)["series"])
        tokens, features = self.model.encode(series.transpose(1, 2))
        return Losses(F.mse_loss(self.model.predict(features)[:, :-1], tokens))

    def export(self) -> TimelyGPT:
        return self.model


@dataclass(frozen=True)
class NextCodeConfig:
    """Nothing is to be chosen."""

    def build(self, model: TimelyGPTCodes) -> "NextCode":
        """The objective around a model of codes."""
        return NextCode(model)


class NextCode(Objective):
    """Cross entropy of the next code, the mean over the codes that are no padding. Batch: `code` and `time` (B, L)."""

    def __init__(self, model: TimelyGPTCodes) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Losses:
        places = self.model.places(batch["code"])
        logits = self.model(batch)
        known = places < logits.shape[2] - 1
        count = known.sum()
        right = ((logits.detach().argmax(2) == places) & known).sum() / count.clamp(min=1)
        return Losses(self.model.loss(logits, places) / count.clamp(min=1), {"accuracy": right}, count)

    def export(self) -> TimelyGPTCodes:
        return self.model
