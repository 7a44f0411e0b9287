"""A graph encoder with a linear head: classes or yes-or-no labels of whole graphs or of single nodes."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch_geometric.data import Batch

from modalities.common.classifier import Classifier, HeadFields
from modalities.common.loading import Change, Rule
from modalities.common.model import Model
from modalities.graph.models.encoder import GraphEncoder, GraphEncoderConfig
from trainer.errors import ConfigError


@dataclass(frozen=True)
class GraphClassifierConfig(HeadFields, GraphEncoderConfig):
    """An encoder and a linear head."""

    level: Literal["graph", "node"] = "graph"
    """What gets an output: every graph, from its pooled embedding, or every node."""
    head_dropout: float = 0.0
    """Share of the embedding that is set to zero before the head in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_head()
        if not 0 <= self.head_dropout < 1:
            raise ConfigError(f"model.head_dropout must be at least 0 and below 1, found {self.head_dropout}.")


class GraphClassifier(Classifier, GraphEncoder):
    """Input as that of `GraphEncoder`; `forward` gives logits (graphs, num_classes), or (N, num_classes) with level "node", of a batch with `root` for the nodes that it names."""

    system = "graph/classifier"
    config_class = GraphClassifierConfig
    encoder_config = GraphEncoderConfig
    parts = {"encoder.": "encoder", "head.": "classification head"}

    def __init__(self, config: GraphClassifierConfig) -> None:
        super().__init__(config)
        self.head_drop = nn.Dropout(config.head_dropout)
        self.head = self.new_head()
        self.freeze()

    @property
    def head_width(self) -> int:
        return self.config.width

    def embed(self, batch: Batch) -> Tensor:
        """What the head sees: one vector per graph (graphs, width), or per node with level "node" (N, width), of a batch with `root` per node that it names."""
        return self.head_drop(self._features(self.tokens(batch), batch))

    def _features(self, tokens: Tensor, batch: Batch) -> Tensor:
        """What has an output, of all node embeddings."""
        if self.config.level == "graph":
            return self.pooled(tokens, batch)
        return tokens[batch["root"]] if "root" in batch else tokens

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        tokens = self.tokens(batch)
        features = self._features(tokens, batch)
        return {"features": features, "tokens": tokens} | ({"logits": self.head(features)} if self.config.num_classes else {})

    @classmethod
    def change_from(cls, source: type[Model], old: Any, new: Any, new_head: bool = False) -> Change:
        """The encoder stays as it is; what only pre-training needs, and an old head, stay behind."""
        unused = () if issubclass(source, GraphClassifier) or source is GraphEncoder else (Rule(r"(?!encoder\.).*", "only pre-training needs it"),)
        return cls.head_change(Change(unused=unused), old, new, new_head)
