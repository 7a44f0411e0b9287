"""Which graphs a run uses: the config of a data set, the built-in sets, splits and labelled subsets.

A batch of this modality is a PyG `Batch`, moved to the device as a whole:
"x" (N, F) float32 node features (int64 atoms (N, 2) for molecule networks), "edge_index" (2, E) int64, "edge_attr" (E, A) where edges have features,
"batch" (N,) int64 the graph of each node, "ptr" (B + 1,), and, when the set is labelled, "y": (B,) int64 an index into the source's
`classes`, or (B, T) float32 with 1, 0 and NaN where a label is missing. The trainer adds "sample_key" and "sample_index" (B,).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from modalities.common.splits import Splits
from modalities.graph.generated import BUILT_IN, LICENCE, SETS, SOURCE, GeneratedConfig, Part
from modalities.graph.generated import graphs as generated_graphs
from modalities.graph.preprocess import GraphPreprocess
from modalities.graph.sources import GraphSource
from trainer.errors import ConfigError, DataError, UnknownNameError, did_you_mean


@dataclass(frozen=True)
class GraphSet:
    """Which graphs."""

    path: str = ""
    """A built-in set of generated graphs: motifs, blocks, geometric, trees, molecules."""
    nodes: Literal["auto", "features", "types", "degree", "constant"] = "auto"
    """Node features of a new model: as given, one-hot types, one-hot degrees, or none. auto: the first of these that the set has."""
    generated: GeneratedConfig = field(default_factory=GeneratedConfig)
    """Size of a built-in set; other sets have none."""

    def __post_init__(self) -> None:
        if self.path not in BUILT_IN and self.generated != GeneratedConfig():
            raise ConfigError(f"data.generated changes only the built-in sets ({', '.join(BUILT_IN)}), and data.path is {self.path!r}.")

    def preprocess(self, model: Any) -> GraphPreprocess:
        """The preprocessing of a new model of a config `model` for these graphs."""
        self._require_path()
        if model.encoder == "molecule":
            return GraphPreprocess("atoms", 2, self_loops=False)
        kind = SETS[self.path]
        nodes = ("types" if kind.types else "degree") if self.nodes == "auto" else self.nodes
        width = {"types": kind.types, "constant": 1}.get(nodes, model.in_dim)
        return GraphPreprocess(nodes, width, positions=model.positions, position_dim=model.position_dim)


    def _require_path(self) -> None:
        if not self.path:
            raise ConfigError(f"Say which graphs to use: --data.path NAME, one of the built-in sets: {', '.join(BUILT_IN)}.")
        if self.path not in BUILT_IN:
            raise UnknownNameError(f"{self.path!r} is no set of graphs.{did_you_mean(self.path, BUILT_IN)} Built-in sets: {', '.join(BUILT_IN)}.")


@dataclass(frozen=True)
class UnlabelledGraphs(GraphSet):
    """Graphs for pre-training."""

    def build(self, preprocess: GraphPreprocess) -> GraphSource:
        """The training graphs without labels. Held out: the test part of a built-in set."""
        self._require_path()
        source = built_in(self.path, "train", preprocess, self.generated, labelled=False)
        source.held_out = built_in(self.path, "test", preprocess, self.generated, labelled=False)
        return source


@dataclass(frozen=True)
class LabelledGraphs(Splits, GraphSet):
    """Graphs in classes for fine-tuning and evaluation."""

    def build(self, preprocess: GraphPreprocess) -> tuple[GraphSource, GraphSource]:
        """(training set, test set); the first cut down with `per_class`. The second is held out from the first."""
        self._require_path()
        train, test = (built_in(self.path, part, preprocess, self.generated) for part in ("train", "test"))
        train = self.few(train)
        train.held_out = test
        return train, test

    def build_plain(self, preprocess: GraphPreprocess, classes: Sequence[str] | None = None) -> tuple[GraphSource, GraphSource]:
        """The same: nothing is changed at random. DataError when the classes are not `classes`, where given."""
        train, test = self.build(preprocess)
        if classes is not None and tuple(classes) != train.classes:
            raise DataError(f"{train.name} has the classes {', '.join(train.classes)}, and the classifier knows {', '.join(classes)}.")
        return train, test


def built_in(name: str, part: Part, preprocess: GraphPreprocess, config: GeneratedConfig, labelled: bool = True) -> GraphSource:
    """The train or test part of a built-in set."""
    graphs, labels = generated_graphs(name, part, config)
    kind = SETS[name]
    about = {"source": SOURCE, "licence": LICENCE, "derivation": f"{len(graphs):,} graphs: {kind.what}."}
    return GraphSource(graphs, preprocess, labels if labelled else None, kind.classes if labelled else (), name, about)


def raw_parts(path: str, labelled: bool = True) -> dict[str, Any]:
    """Graphs are read as a whole, not sample by sample, so there are no files to pack: DataError says so."""
    raise DataError(f"{path}: sets of graphs are read as a whole and are not packed into tars. Give the path to a recipe as it is.")
