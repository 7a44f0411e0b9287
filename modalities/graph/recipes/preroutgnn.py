"""Recipes of PreRoutGNN: the auto-encoder of circuits, and the timing network on it."""

from dataclasses import dataclass, field
from typing import TypeVar

import torch

from modalities import registry
from modalities.common import pretrained
from modalities.common.evaluation import HeldOut, ReportedEvaluator, Row, result
from modalities.common.run import ModelRecipe
from modalities.graph.circuit_sets import CircuitSet, CircuitSource
from modalities.graph.circuits import CORNERS
from modalities.graph.evaluation import FEATURES
from modalities.graph.models.circuit_autoencoder import CircuitAutoEncoder, CircuitAutoEncoderConfig
from modalities.graph.models.preroutgnn import PreRoutGNN, PreRoutGNNConfig
from modalities.graph.objectives.circuit_reconstruction import CircuitReconstruction, CircuitReconstructionConfig
from modalities.graph.objectives.timing import TimingConfig, TimingObjective
from modalities.graph.preprocess import collate
from modalities.graph.recipes.base import adam
from trainer.config import replace
from trainer.errors import ConfigError

C = TypeVar("C", bound=CircuitAutoEncoderConfig)


@dataclass(frozen=True)
class CircuitAutoEncoderRecipe(ModelRecipe):
    """Pre-train the auto-encoder of circuits (Zhong et al. 2024, arXiv 2403.00012)."""

    model: CircuitAutoEncoderConfig = field(default_factory=CircuitAutoEncoderConfig)
    """The network."""
    data: CircuitSet = field(default_factory=CircuitSet)
    """Which circuits."""
    objective: CircuitReconstructionConfig = field(default_factory=CircuitReconstructionConfig)
    """The loss."""

    def build(self) -> tuple[CircuitSource, CircuitReconstruction]:
        model = CircuitAutoEncoder(self.model)
        model.name, model.preprocess = self.recipe, model.default_preprocess()
        return self.data.build(model.preprocess), self.objective.build(model)

    def evaluators(self, source: CircuitSource, objective: CircuitReconstruction) -> list[ReportedEvaluator]:
        """The loss on held-out circuits."""
        return [] if source.held_out is None else [HeldOut(source.held_out, FEATURES, "squared error of pins")]


@dataclass(frozen=True)
class PreRoutGNNRecipe(ModelRecipe):
    """Train the timing network, and the encoder with it (Zhong et al. 2024, arXiv 2403.00012)."""

    model: PreRoutGNNConfig = field(default_factory=PreRoutGNNConfig)
    """The network."""
    data: CircuitSet = field(default_factory=CircuitSet)
    """Which circuits."""
    objective: TimingConfig = field(default_factory=TimingConfig)
    """How times are learned."""
    encoder: str = ""
    """A trained auto-encoder whose encoder is taken: a run or a model folder. Empty: the encoder starts fresh."""

    def build(self) -> tuple[CircuitSource, TimingObjective]:
        model = self._model()
        model.name = self.recipe
        return self.data.build(model.preprocess), self.objective.build(model)

    def _model(self) -> PreRoutGNN:
        if not self.encoder:
            model = PreRoutGNN(self.model)
            model.preprocess = model.default_preprocess()
            return model
        coder = pretrained.load(self.encoder)
        if not isinstance(coder, CircuitAutoEncoder):
            raise ConfigError(f"encoder: {self.encoder} holds a {type(coder).__name__}; expected an auto-encoder of circuits, as the recipe graph/circuit-autoencoder-tiny makes.")
        return PreRoutGNN.built_on(coder, self.model)

    def evaluators(self, source: CircuitSource, objective: TimingObjective) -> list[ReportedEvaluator]:
        """The loss on held-out circuits, and how well their arrival times are found level by level."""
        return [] if source.held_out is None else [HeldOut(source.held_out, FEATURES, "squared error of times and delays"), ArrivalR2(source.held_out)]


class ArrivalR2:
    """R2 of arrival times, found level by level from the primary inputs: the mean over corners, then over circuits. Pins without label are left out."""

    higher_is_better = {"r2": True}

    def __init__(self, source: CircuitSource) -> None:
        self.source = source
        self.name = f"arrival times on {source.name}"

    @torch.no_grad()
    def __call__(self, objective: TimingObjective) -> dict[str, float]:
        model, found = objective.export(), []
        for index in range(len(self.source)):
            batch = collate([self.source[index]]).to(model.device)
            known = batch.valid > 0
            true, times = (pins[known, :CORNERS].double() for pins in (batch.timing, model.timing_of(batch).pins))
            found.append((1 - (times - true).square().sum(dim=0) / (true - true.mean(dim=0)).square().sum(dim=0).clamp(min=1e-12)).mean())
        return {"r2": float(torch.stack(found).mean())}

    def row(self, name: str, value: float) -> Row:
        return result(self.source, FEATURES, "R2 of arrival times", round(value, 4))


def _sized(name: str, config: C) -> C:
    """The config of a registered model."""
    return replace(config, registry.find(name).fields)


def circuit_autoencoder_tiny() -> CircuitAutoEncoderRecipe:
    """The auto-encoder of a small size on generated circuits."""
    name = "graph/circuit-autoencoder-tiny"
    return CircuitAutoEncoderRecipe(recipe=name, model=_sized(name, CircuitAutoEncoderConfig()), train=adam(2e-3, batch_size=4, steps=300, log_every=20))


def preroutgnn_tiny() -> PreRoutGNNRecipe:
    """The timing network of a small size on generated circuits."""
    name = "graph/preroutgnn-tiny"
    return PreRoutGNNRecipe(recipe=name, model=_sized(name, PreRoutGNNConfig()), train=adam(2e-3, batch_size=4, steps=600, log_every=20))
