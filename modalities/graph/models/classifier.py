"""A graph encoder with a linear head: classes or yes-or-no labels of whole graphs or of single nodes."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn.aggr import AttentionalAggregation, Set2Set

from modalities.common.classifier import Classifier, HeadFields
from modalities.common.loading import Change, Rule
from modalities.common.model import Model
from modalities.graph.models.encoder import GraphEncoder, GraphEncoderConfig, membership
from trainer.errors import ConfigError

LEARNED = ("attention", "set2set")
"""Ways of pooling that have weights of their own."""


@dataclass(frozen=True)
class GraphClassifierConfig(HeadFields, GraphEncoderConfig):
    """An encoder and a linear head."""

    level: Literal["graph", "node"] = "graph"
    """What gets an output: every graph, from its pooled embedding, or every node."""
    head_dropout: float = 0.0
    """Share of the embedding that is set to zero before the head in training."""
    pool: Literal["mean", "sum", "max", "attention", "set2set"] = "mean"
    """How the embeddings of a graph's nodes become one vector. attention and set2set are learned with the head; set2set gives twice the width."""
    pool_steps: int = 3
    """Steps of set2set, at least 1; only with it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_head()
        if not 0 <= self.head_dropout < 1:
            raise ConfigError(f"model.head_dropout must be at least 0 and below 1, found {self.head_dropout}.")
        if self.pool_steps < 1 or (self.pool_steps != 3 and self.pool != "set2set"):
            raise ConfigError(f"model.pool_steps={self.pool_steps} is for model.pool='set2set': at least 1, and 3 for other ways of pooling.")
        if self.pool in LEARNED and (self.level == "node" or self.head == "probe"):
            raise ConfigError(f"model.pool={self.pool!r} is learned, for whole graphs: it goes with neither model.level='node' nor model.head='probe'. Use mean, sum or max.")


class GraphClassifier(Classifier, GraphEncoder):
    """Input as that of `GraphEncoder`; `forward` gives logits (graphs, num_classes), or (N, num_classes) with level "node", of a batch with `root` for the nodes that it names."""

    system = "graph/classifier"
    config_class = GraphClassifierConfig
    encoder_config = GraphEncoderConfig
    parts = {"encoder.": "encoder", "pool.": "pooling", "head.": "classification head"}

    def __init__(self, config: GraphClassifierConfig) -> None:
        super().__init__(config)
        self.head_drop = nn.Dropout(config.head_dropout)
        self.pool = self._new_pool()
        self.head = self.new_head()
        self.freeze()

    @property
    def head_width(self) -> int:
        return self.config.width * (2 if self.config.pool == "set2set" else 1)

    def _new_pool(self) -> nn.Module | None:
        """Pooling that is learned, with its first values; None for the other ways."""
        width = self.config.width
        if self.config.pool == "attention":
            return AttentionalAggregation(nn.Linear(width, 1))
        return Set2Set(width, self.config.pool_steps) if self.config.pool == "set2set" else None

    def pooled(self, tokens: Tensor, batch: Batch) -> Tensor:
        """Node embeddings (N, width) as one vector per graph, (graphs, head_width)."""
        if self.pool is None:
            return super().pooled(tokens, batch)
        whose, count = membership(batch, len(tokens))
        return self.pool(tokens, whose, dim_size=count)

    def embed(self, batch: Batch) -> Tensor:
        """What the head sees: one vector per graph (graphs, width), or per node with level "node" (N, width), of a batch with `root` per node that it names."""
        return self.head_drop(self._features(self.tokens(batch), batch))

    def _features(self, tokens: Tensor, batch: Batch) -> Tensor:
        """What has an output, of all node embeddings."""
        if self.config.level == "graph":
            return self.pooled(tokens, batch)
        return tokens[batch["root"]] if "root" in batch else tokens

    def card_tags(self) -> tuple[str, ...]:
        return (f"{self.config.level}-classification",) if self.config.num_classes else ()

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        tokens = self.tokens(batch)
        features = self._features(tokens, batch)
        return {"features": features, "tokens": tokens} | ({"logits": self.head(features)} if self.config.num_classes else {})

    @classmethod
    def change_from(cls, source: type[Model], old: Any, new: Any, new_head: bool = False) -> Change:
        """The encoder stays as it is; what only pre-training needs, and an old head, stay behind."""
        unused = () if issubclass(source, GraphClassifier) or source is GraphEncoder else (Rule(r"(?!encoder\.).*", "only pre-training needs it"),)
        before, after = ((c.pool, getattr(c, "pool_steps", None)) if c.pool in LEARNED else None for c in (old, new))
        changed = before != after
        fresh = (Rule(r"pool\..*", "for this way of pooling"),) if after and changed else ()
        if before and changed:
            unused += (Rule(r"pool\..*", "another way of pooling was asked for"),)
        return cls.head_change(Change(new=fresh, unused=unused), old, new, new_head)

    def init_new(self, names: set[str]) -> None:
        """New pooling starts as in a new model, like a new head."""
        if any(name.startswith("pool.") for name in names):
            self.pool = self._new_pool()
        super().init_new(names)
