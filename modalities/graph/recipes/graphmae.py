"""Recipes of GraphMAE: the paper's, and tiny ones that run in a minute on a laptop."""

from dataclasses import dataclass, field
from pathlib import Path

from modalities import registry
from modalities.common.evaluation import ProbeConfig, ReportedEvaluator
from modalities.common.run import Draw, ModelRecipe
from modalities.common.sheets import spread
from modalities.graph.data import LabelledGraphs, UnlabelledGraphs
from modalities.graph.evaluation import probed, reconstructed
from modalities.graph.models.encoder import new_for
from modalities.graph.models.graphmae import GraphMAE, GraphMAEConfig
from modalities.graph.objectives.graphmae import GraphMAEObjective, GraphMAEObjectiveConfig
from modalities.graph.pictures import draw_errors
from modalities.graph.sources import GraphSource
from trainer.config import replace
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig

PICTURES = 4
"""Graphs in a picture."""


@dataclass(frozen=True)
class GraphMAERecipe(ModelRecipe):
    """Pre-train a masked graph auto-encoder without labels (Hou et al. 2022, arXiv 2205.10803)."""

    model: GraphMAEConfig = field(default_factory=GraphMAEConfig)
    """The network."""
    objective: GraphMAEObjectiveConfig = field(default_factory=GraphMAEObjectiveConfig)
    """Masking and loss."""
    data: UnlabelledGraphs = field(default_factory=UnlabelledGraphs)
    """Which graphs."""
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """Labelled graphs for a linear probe and 5-NN on frozen features."""

    def build(self) -> tuple[GraphSource, GraphMAEObjective]:
        preprocess = self.data.preprocess(self.model.in_dim)
        new_for(self.model, preprocess)
        source = self.data.build(preprocess)
        model = GraphMAE(self.model)
        model.name, model.preprocess = self.recipe, preprocess
        return source, self.objective.build(model)

    def evaluators(self, source: GraphSource, objective: GraphMAEObjective) -> list[ReportedEvaluator]:
        """The loss on held-out graphs, where there are some, and the probes of `probe`."""
        found: list[ReportedEvaluator] = []
        if source.held_out is not None:
            found.append(reconstructed(source.held_out, objective))
        if self.probe.path:
            options = {"generated": self.data.generated} if self.probe.path == self.data.path else {}
            found.append(probed(*LabelledGraphs(self.probe.path, per_class=self.probe.per_class, **options).build(source.preprocess)))
        return found

    def draw(self, objective: GraphMAEObjective, source: GraphSource) -> Draw:
        """Draws a few graphs, their hidden nodes coloured by the error of the reconstruction, always with the same nodes hidden."""
        graphs = [source[i] for i in spread(len(source), PICTURES)]

        def draw(objective: GraphMAEObjective, path: Path, title: str) -> None:
            draw_errors(objective.model, self.objective, graphs, path, title)

        return draw


def graphmae_tiny_molecules() -> GraphMAERecipe:
    """Generated molecule-like graphs, about a minute on one core."""
    return GraphMAERecipe(
        recipe="graph/graphmae-tiny-molecules",
        model=replace(GraphMAEConfig(), registry.find("graph/graphmae-tiny-molecules").fields),
        objective=GraphMAEObjectiveConfig(mask_rate=0.25, alpha=1.0),
        data=UnlabelledGraphs("molecules"),
        train=TrainConfig(
            batch_size=128,
            steps=600,
            log_every=20,
            optim=OptimConfig(name="adam", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0),
            schedule=ScheduleConfig(warmup=0.0),
        ),
    )
