"""Fine-tuning a graph encoder on labelled graphs: `python -m modalities.graph.finetune DATA --model NAME`.

The recipe is that of Hu et al. (ICLR 2020): the pooled embedding, dropout, a linear layer; Adam at a constant rate; or, with `--head probe`, a
linear layer on the frozen, batch-normalised embedding.
"""

import logging
import sys
from dataclasses import dataclass, field
from typing import Literal

from modalities import registry
from modalities.common import pretrained
from modalities.common.confusion import confusion_view
from modalities.common.evaluation import ReportedEvaluator
from modalities.common.run import Draw, ModelRecipe
from modalities.graph.data import LabelledGraphs
from modalities.graph.evaluation import supervised
from modalities.graph.models.classifier import GraphClassifier
from modalities.graph.models.encoder import GraphEncoder
from modalities.graph.objectives.supervised import Supervised
from modalities.graph.sources import GraphSource
from trainer.errors import ConfigError, ModelError
from trainer.optim import OptimConfig
from trainer.recipe import TrainConfig
from trainer.schedule import ScheduleConfig

log = logging.getLogger("zoo")


@dataclass(frozen=True)
class FinetuneRecipe(ModelRecipe):
    """Train a classifier on labelled graphs, starting from a pre-trained encoder."""

    model: str = ""
    """Where the encoder's weights come from: a folder, or a name of the zoo."""
    scratch: bool = False
    """Start from random weights of the same architecture instead (the comparison that shows what pre-training gave)."""
    head: Literal["linear", "probe"] = "linear"
    """linear: the whole network is trained. probe: only a linear layer on the frozen, batch-normalised embedding."""
    dropout: float = 0.0
    """Share of the features before each layer that are set to zero (Hu et al.: 0.5)."""
    head_dropout: float = 0.0
    """Share of the embedding before the head that is set to zero."""
    data: LabelledGraphs = field(default_factory=LabelledGraphs)
    """Which labelled graphs."""

    def __post_init__(self) -> None:
        if self.head == "probe" and (self.dropout or self.head_dropout):
            raise ConfigError(f"A probe reads a frozen network: head='probe' needs dropout=0 and head_dropout=0, found {self.dropout} and {self.head_dropout}.")

    def build(self) -> tuple[GraphSource, Supervised]:
        if not self.model:
            raise ConfigError("Say which encoder to start from: --model FOLDER_OR_NAME (`zoo list graph` shows the names).")
        architecture_only = self.scratch and self.model in registry.entries()
        encoder = pretrained.create(self.model) if architecture_only else pretrained.load(self.model)
        if not isinstance(encoder, GraphEncoder):
            raise ModelError(f"{self.model} is a {type(encoder).__name__}; fine-tuning on graphs needs a graph encoder.")
        if architecture_only:
            encoder.preprocess = self.data.preprocess(encoder.config)
        if self.scratch:
            fresh = type(encoder)(encoder.config)
            fresh.preprocess, encoder = encoder.preprocess, fresh
        train, test = self.data.build(encoder.preprocess)
        model = GraphClassifier.from_encoder(
            encoder, len(train.classes), dropout=self.dropout, head_dropout=self.head_dropout, head=self.head, class_names=train.classes, multi_label=train.multi_label
        )
        model.name = f"graph/classifier-{train.name}"
        log.info("%d training and %d test graphs of %d %s", len(train), len(test), len(train.classes), "labels" if train.multi_label else "classes")
        return train, Supervised(model)

    def evaluators(self, source: GraphSource, objective: Supervised) -> list[ReportedEvaluator]:
        """Accuracy and cross-entropy on the test graphs; of several labels the mean area under the ROC curve."""
        return supervised(source.held_out, source.multi_label)

    def views(self, objective: Supervised, source: GraphSource) -> dict[str, Draw]:
        """Which classes are taken for which."""
        return {} if source.multi_label else confusion_view(source.held_out, source.label_key)


def default_recipe(model: str, head: str = "linear", data: str = "") -> FinetuneRecipe:
    """Fine-tuning as Hu et al. do it (batch 32, Adam 1e-3, 100 epochs, dropout 0.5), or, for head="probe", a linear probe."""
    shared = dict(recipe="graph/finetune", model=model, data=LabelledGraphs(data))
    optim = OptimConfig(name="adam", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0)
    if head == "probe":
        return FinetuneRecipe(**shared, head="probe", train=TrainConfig(batch_size=64, epochs=50, optim=optim, schedule=ScheduleConfig(warmup=0.0)))
    return FinetuneRecipe(**shared, dropout=0.5, train=TrainConfig(batch_size=32, epochs=100, optim=optim, schedule=ScheduleConfig(name="constant", warmup=0.0)))


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    from modalities.common.commandline import finetune_command, guarded

    arguments = sys.argv[1:] if arguments is None else arguments
    return guarded(lambda: finetune_command("python -m modalities.graph.finetune", default_recipe, arguments))


if __name__ == "__main__":
    sys.exit(main())
