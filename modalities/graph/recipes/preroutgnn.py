"""Recipes of PreRoutGNN: the auto-encoder of circuits, and the timing network on it."""

from dataclasses import dataclass, field
from pathlib import Path

from modalities import registry
from modalities.common import pretrained
from modalities.common.evaluation import HeldOut, ReportedEvaluator
from modalities.common.run import Draw, ModelRecipe
from modalities.graph.circuit_evaluation import timing_evaluators
from modalities.graph.circuit_pictures import draw_timing
from modalities.graph.circuit_sets import CircuitSet, CircuitSource
from modalities.graph.evaluation import FEATURES
from modalities.graph.models.circuit_autoencoder import CircuitAutoEncoder, CircuitAutoEncoderConfig
from modalities.graph.models.preroutgnn import PreRoutGNN, PreRoutGNNConfig
from modalities.graph.objectives.circuit_reconstruction import CircuitReconstruction, CircuitReconstructionConfig
from modalities.graph.objectives.timing import TimingConfig, TimingObjective
from modalities.graph.recipes.base import adam
from trainer.errors import ConfigError
from trainer.schedule import ScheduleConfig

PICTURES = 4
"""Circuits in a picture."""


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
        return [] if source.held_out is None else [HeldOut(source.held_out, FEATURES, "squared error of pins", batch=1)]


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
    freeze_encoder: bool = False
    """The encoder stays as the auto-encoder had it, and only the timing network is trained."""

    def __post_init__(self) -> None:
        if self.freeze_encoder and not self.encoder:
            raise ConfigError("freeze_encoder=True keeps a trained encoder as it is, and there is none: give encoder=RUN, a run of graph/circuit-autoencoder-tiny.")
        if self.encoder and not self.model.latent_dim:
            raise ConfigError(f"model.latent_dim=0 is a timing network without encoder, and encoder={self.encoder!r} gives it one. Leave one of the two out.")

    def build(self) -> tuple[CircuitSource, TimingObjective]:
        model = self._model()
        model.name = self.recipe
        source = self.data.build(model.preprocess)
        if source.divided and not self.objective.teacher:
            raise ConfigError("objective.teacher=False carries times from level to level through whole circuits, and circuits here are divided into parts. Set data.parts.pins to 0, or keep the teacher.")
        return source, self.objective.build(model)

    def _model(self) -> PreRoutGNN:
        if not self.encoder:
            model = PreRoutGNN(self.model)
            model.preprocess = model.default_preprocess()
            return model
        coder = pretrained.load(self.encoder)
        if not isinstance(coder, CircuitAutoEncoder):
            raise ConfigError(f"encoder: {self.encoder} holds a {type(coder).__name__}; expected an auto-encoder of circuits, as the recipe graph/circuit-autoencoder-tiny makes.")
        model = PreRoutGNN.built_on(coder, self.model)
        model.encoder.requires_grad_(not self.freeze_encoder)
        return model

    def evaluators(self, source: CircuitSource, objective: TimingObjective) -> list[ReportedEvaluator]:
        """The loss on held-out circuits, and how well their times are found level by level."""
        return [] if source.held_out is None else timing_evaluators(source.held_out)

    def draw(self, objective: TimingObjective, source: CircuitSource) -> Draw:
        """Draws found and true times of the first held-out circuits, else of the first for training."""
        shown = source.held_out or source
        circuits = [shown.circuits[i] for i in range(min(len(shown.circuits), PICTURES))]

        def draw(objective: TimingObjective, path: Path, title: str) -> None:
            draw_timing(objective.model, circuits, path, title)

        return draw


def circuit_autoencoder_tiny() -> CircuitAutoEncoderRecipe:
    """The auto-encoder of a small size on generated circuits."""
    name = "graph/circuit-autoencoder-tiny"
    return CircuitAutoEncoderRecipe(recipe=name, model=registry.config_of(name), train=adam(2e-3, batch_size=4, steps=500, log_every=20, schedule=ScheduleConfig(warmup=0.0)))


def preroutgnn_tiny() -> PreRoutGNNRecipe:
    """The timing network of a small size on generated circuits."""
    name = "graph/preroutgnn-tiny"
    return PreRoutGNNRecipe(recipe=name, model=registry.config_of(name), train=adam(4e-3, batch_size=4, steps=1500, log_every=20, schedule=ScheduleConfig(warmup=0.0)))
