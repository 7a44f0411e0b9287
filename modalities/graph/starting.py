"""What every fine-tuning on graphs starts from: an encoder with its weights and preprocessing, and a head on it."""

from dataclasses import dataclass
from typing import Any, Literal

from modalities import registry
from modalities.common import pretrained
from modalities.common.confusion import confusion_view
from modalities.common.evaluation import ReportedEvaluator
from modalities.common.run import Draw, ModelRecipe
from modalities.graph.evaluation import supervised
from modalities.graph.models.classifier import GraphClassifier
from modalities.graph.models.encoder import GraphEncoder
from modalities.graph.objectives.supervised import Supervised
from modalities.graph.sampling import OneGraph
from modalities.graph.sources import GraphSource
from trainer.errors import ConfigError, ModelError


@dataclass(frozen=True)
class ClassifierRecipe(ModelRecipe):
    """Train a classifier, starting from a pre-trained encoder. A subclass adds the field `data`."""

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

    def __post_init__(self) -> None:
        if self.head == "probe" and (self.dropout or self.head_dropout):
            raise ConfigError(f"A probe reads a frozen network: head='probe' needs dropout=0 and head_dropout=0, found {self.dropout} and {self.head_dropout}.")

    def encoder(self) -> GraphEncoder:
        """The encoder of `model`; with `scratch` fresh, and of a registered name with the preprocessing that the data need."""
        if not self.model:
            raise ConfigError("Say which encoder to start from: --model FOLDER_OR_NAME (`zoo list graph` shows the names).")
        architecture_only = self.scratch and self.model in registry.entries()
        encoder = pretrained.create(self.model) if architecture_only else pretrained.load(self.model)
        if not isinstance(encoder, GraphEncoder):
            raise ModelError(f"{self.model} is a {type(encoder).__name__}; fine-tuning on graphs needs a graph encoder.")
        if architecture_only:
            encoder.preprocess = self.data.preprocess(encoder.config)
        if encoder.preprocess is None:
            raise ModelError(f"{self.model} has no preprocessor_config.json, so it cannot read graphs. Export it with its preprocessing.")
        if self.scratch:
            fresh = type(encoder)(encoder.config)
            fresh.preprocess, encoder = encoder.preprocess, fresh
        return encoder

    def classifier(self, encoder: GraphEncoder, train: GraphSource | OneGraph, **changes: Any) -> GraphClassifier:
        """A classifier on the encoder for the classes or labels of the training data; `changes` are further fields of its config."""
        dropout = {"dropout": self.dropout, "head_dropout": self.head_dropout}
        model = GraphClassifier.from_encoder(encoder, len(train.classes), **dropout, head=self.head, class_names=train.classes, multi_label=train.multi_label, **changes)
        model.name = f"graph/classifier-{train.name}"
        return model

    def evaluators(self, source: GraphSource | OneGraph, objective: Supervised) -> list[ReportedEvaluator]:
        """Accuracy and cross-entropy on the test graphs or nodes, and those for choosing; of several labels the mean area under the ROC curve."""
        return supervised(source.held_out, source.valid)

    def views(self, objective: Supervised, source: GraphSource | OneGraph) -> dict[str, Draw]:
        """Which classes are taken for which."""
        return {} if source.multi_label else confusion_view(source.held_out, source.label_key)
