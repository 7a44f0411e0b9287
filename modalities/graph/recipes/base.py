"""What the recipes of pre-training on graphs have in common: an encoder of any kind, graphs, and probes on labelled ones."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from modalities import registry
from modalities.common.evaluation import HeldOut, ProbeConfig, ReportedEvaluator
from modalities.common.run import ModelRecipe
from modalities.graph.data import LabelledGraphs, UnlabelledGraphs
from modalities.graph.evaluation import FEATURES, probed
from modalities.graph.models.encoder import GraphEncoderConfig, new_for
from modalities.graph.sampling import require_room
from modalities.graph.sources import GraphSource
from trainer.errors import ConfigError
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig


@dataclass(frozen=True)
class GraphRecipe(ModelRecipe):
    """Pre-train a graph encoder without labels."""

    system: ClassVar[str] = "graph/encoder"
    """What is trained."""
    loss: ClassVar[str] = ""
    """What the loss is, in words."""

    model: GraphEncoderConfig = field(default_factory=GraphEncoderConfig)
    """The network."""
    data: UnlabelledGraphs = field(default_factory=UnlabelledGraphs)
    """Which graphs."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """Labelled graphs for a linear probe and 5-NN on frozen features."""

    def build(self) -> tuple[GraphSource, Any]:
        preprocess = self.data.preprocess(self.model)
        new_for(self.model, preprocess)
        source = self.data.build(preprocess)
        if len(source) == 1 and self.train.batch_size > 1:
            raise ConfigError(f"{source.name} is one graph, and train.batch_size={self.train.batch_size} would put so many copies of it into a step. Set it to 1, or draw neighbours with data.fanouts.")
        if len(source) == 1:
            counts = source.packed.counts
            require_room(int(counts["node"]), int(counts["edge"]), self.model.embed_dim, source.name)
        model = registry.system_class(self.system)(self.model)
        model.name, model.preprocess = self.recipe, preprocess
        return source, self.objective.build(model)

    def evaluators(self, source: GraphSource, objective: Any) -> list[ReportedEvaluator]:
        """The loss on held-out graphs, where there are some, and the probes of `probe`."""
        found: list[ReportedEvaluator] = []
        if source.held_out is not None:
            found.append(HeldOut(source.held_out, FEATURES, self.loss))
        if self.probe.path:
            options = {"generated": self.data.generated} if self.probe.path == self.data.path else {}
            found.append(probed(*LabelledGraphs(self.probe.path, per_class=self.probe.per_class, **options).build(source.preprocess)))
        return found


def adam(lr: float, **train: Any) -> TrainConfig:
    """Adam at a constant rate, as the papers train graph networks; `train` are further fields."""
    schedule = train.pop("schedule", ScheduleConfig(name="constant", warmup=0.0))
    return TrainConfig(optim=OptimConfig(name="adam", lr=lr, betas=(0.9, 0.999), weight_decay=train.pop("weight_decay", 0.0)), schedule=schedule, **train)
