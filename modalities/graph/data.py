"""Which graphs a run uses: the config of a data set, the built-in sets, splits and labelled subsets.

A batch of this modality is a PyG `Batch`, moved to the device as a whole:
"x" (N, F) float32 node features (int64 atoms (N, 2) for molecule networks), "edge_index" (2, E) int64, "edge_attr" (E, A) where edges have features,
"batch" (N,) int64 the graph of each node, "ptr" (B + 1,), and, when the set is labelled, "y": (B,) int64 an index into the source's
`classes`, or (B, T) float32 with 1, 0 and NaN where a label is missing. The trainer adds "sample_key" and "sample_index" (B,).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch_geometric.data import Data

from modalities.common.folders import train_and_test
from modalities.common.sources import stem_of
from modalities.common.splits import Splits
from modalities.graph.files import read_graph
from modalities.graph.generated import BUILT_IN, LICENCE, SETS, SOURCE, GeneratedConfig, Part
from modalities.graph.generated import graphs as generated_graphs
from modalities.graph.preprocess import GraphPreprocess
from modalities.graph.sampling import NeighbourSource
from modalities.graph.smiles import scaffold_split
from modalities.graph.sources import GraphSource
from modalities.graph.tables import PARTS, GraphTable, read_folder, read_ogb, read_shards, read_smiles, read_tu
from trainer.errors import ConfigError, DataError
from trainer.shards import is_shards


@dataclass(frozen=True)
class GraphSet:
    """Which graphs."""

    path: str = ""
    """A built-in set of generated graphs (motifs, blocks, geometric, trees, molecules), a folder with TU text files, an OGB folder, a folder of graph
    files (perhaps one folder for each class; perhaps `train` and `test`), a file of one graph, or a table (.csv) of SMILES."""
    labels: tuple[str, ...] = ()
    """Columns of a table of SMILES that are labels. Empty: all that hold only 1, 0 and blanks."""
    nodes: Literal["auto", "features", "types", "degree", "constant"] = "auto"
    """Node features of a new model: as given, one-hot types, one-hot degrees, or none. auto: types, else features, else degrees."""
    generated: GeneratedConfig = field(default_factory=GeneratedConfig)
    """Size of a built-in set; other sets have none."""

    def __post_init__(self) -> None:
        if self.path not in BUILT_IN and self.generated != GeneratedConfig():
            raise ConfigError(f"data.generated changes only the built-in sets ({', '.join(BUILT_IN)}), and data.path is {self.path!r}.")

    def preprocess(self, model: Any) -> GraphPreprocess:
        """The preprocessing of a new model of a config `model` for these graphs."""
        self._require_path()
        if self.path in BUILT_IN:
            return self.preprocess_for(None, model, SETS[self.path].types)
        if model.encoder == "molecule":
            return self.preprocess_for(None, model)
        table = self._table(train_and_test(self.path, BUILT_IN, "graphs")[0])
        return self.preprocess_for(table.graphs[0], model, table.types)

    def preprocess_for(self, graph: Data | None, model: Any, types: int = 0) -> GraphPreprocess:
        """The same by one of the graphs, where there is one that tells its features, and the number of types of nodes."""
        if model.encoder == "molecule":
            return GraphPreprocess("atoms", 2, self_loops=False)
        given = None if graph is None else graph.get("x")
        nodes = ("types" if types else "degree" if given is None else "features") if self.nodes == "auto" else self.nodes
        if (nodes == "types" and not types) or (nodes == "features" and given is None):
            raise ConfigError(f"The graphs of {self.path} have no {nodes}. Leave data.nodes at 'auto', or set it to 'degree'.")
        width = {"types": types, "constant": 1, "features": 0 if given is None else given[0].numel()}.get(nodes, model.in_dim)
        return GraphPreprocess(nodes, width, positions=model.positions, position_dim=model.position_dim)

    def _require_path(self) -> None:
        if not self.path:
            raise ConfigError(f"Say which graphs to use: --data.path PATH, or one of the built-in sets: {', '.join(BUILT_IN)}.")

    def _table(self, path: str) -> GraphTable:
        """The graphs of a path, read once."""
        return read_table(path, self.labels)

    def _open(self, path: str, preprocess: GraphPreprocess, classes: Sequence[str] | None = None, labelled: bool = True) -> GraphSource:
        """The graphs of a path as a source."""
        table = self._table(path)
        labels, names = (table.labels, table.classes) if labelled else (None, ())
        if labelled and labels is None:
            of_nodes = (Path(path) / "raw" / "node-label.csv.gz").exists() or (len(table.graphs) == 1 and "y" in table.graphs[0])
            raise DataError(f"The graphs of {path} have no labels. {'Their nodes have (fine-tuning: --task nodes).' if of_nodes else f'Expected {LABELLED}.'}")
        if classes is not None and labelled and tuple(classes) != names:
            raise DataError(f"{path} has the labels {', '.join(names)}, and the other part has {', '.join(classes)}.")
        source = GraphSource(table.graphs, preprocess, labels, names, stem_of(path), {"source": "graphs of the user"}, table.names)
        source.parts = table.parts or (dict(zip(PARTS, map(np.array, scaffold_split(table.scaffolds)))) if table.scaffolds else {})
        return source


LABELLED = "TU files with DS_graph_labels.txt, an OGB folder with graph-label.csv.gz, one folder of graph files for each class, or a table with label columns"
"""Where labels of graphs may come from."""


@dataclass(frozen=True)
class UnlabelledGraphs(GraphSet):
    """Graphs for pre-training."""

    fanouts: tuple[int, ...] = ()
    """For one large graph (a graph file): a sample is a node with so many random neighbours in the first step, in the second, ... Empty: graphs are taken whole."""

    def build(self, preprocess: GraphPreprocess) -> GraphSource | NeighbourSource:
        """The training graphs without labels. Held out: the test part of a built-in set, or the folder `test` beside `train`."""
        self._require_path()
        if self.fanouts:
            graphs = self._table(self.path).graphs if self.path not in BUILT_IN else ()
            if len(graphs) != 1:
                raise ConfigError(f"data.fanouts draws neighbours in one large graph, and {self.path} is none. Give a file of one graph, or leave it out.")
            return NeighbourSource(graphs[0], preprocess, self.fanouts, Path(self.path).stem)
        if self.path in BUILT_IN:
            source = built_in(self.path, "train", preprocess, self.generated, labelled=False)
            source.held_out = built_in(self.path, "test", preprocess, self.generated, labelled=False)
            return source
        train, test = train_and_test(self.path, BUILT_IN, "graphs")
        source = self._open(train, preprocess, labelled=False)
        source.held_out = None if test is None else self._open(test, preprocess, labelled=False)
        return source


@dataclass(frozen=True)
class LabelledGraphs(Splits, GraphSet):
    """Graphs in classes, or with several labels each, for fine-tuning and evaluation."""

    scaffold: bool = False
    """Divide a table of molecules by their scaffolds, 80 % for training, 10 % for choosing, 10 % for testing (MoleculeNet), instead of at random."""

    def build(self, preprocess: GraphPreprocess) -> tuple[GraphSource, GraphSource]:
        """(training set, test set); the first cut down with `per_class`. The second is held out from the first."""
        self._require_path()
        if self.path in BUILT_IN:
            train, test = (built_in(self.path, part, preprocess, self.generated) for part in ("train", "test"))
        else:
            train, test = self._divided(preprocess)
        train = self.few(train)
        train.held_out = test
        return train, test

    def _divided(self, preprocess: GraphPreprocess) -> tuple[GraphSource, GraphSource]:
        """Both parts of a set on the disk: by its scaffolds, as OGB divides it, by its folders, or at random. What OGB and scaffolds leave out for choosing is the first one's `valid`."""
        own = (Path(self.path) / "raw").is_dir() and (Path(self.path) / "split").is_dir() and self.test_path is None
        if not (self.scaffold or own):
            return self.divided(self.path, BUILT_IN, "graphs", lambda path, known: self._open(path, preprocess, known))
        whole = self._open(self.path, preprocess)
        if not whole.parts:
            raise ConfigError(f"data.scaffold divides tables of SMILES, and {self.path} is none." if self.scaffold else f"{self.path}/split holds no NAME/train.csv.gz.")
        train, valid, test = (whole.take(whole.parts[part]) for part in PARTS)
        train.valid = valid
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
    """What lies at a path, in any format, as graphs: see `modalities.graph.raw`."""
    from modalities.graph.raw import raw_parts as parts  # which draws, and reads by this module

    return parts(path, labelled)


@lru_cache(maxsize=4)
def read_table(path: str, labels: tuple[str, ...] = ()) -> GraphTable:
    """The set of graphs at a path, in whichever form. DataError when it is none."""
    if is_shards(path):
        return read_shards(path)
    place = Path(path)
    if not place.exists():
        raise DataError(f"{path} does not exist. Expected a set of graphs.")
    if place.is_file():
        if place.suffix.lower() == ".csv":
            return read_smiles(place, labels)
        return GraphTable([read_graph(place)], names=[place.name])
    if labels:
        raise ConfigError(f"data.labels names columns of a table of SMILES, and {path} is a folder. Leave it out.")
    if list(place.glob("ind.*")):
        raise DataError(
            f"{path} holds the ind.* files of Planetoid, which are pickles and may run code, so they are not opened. Read them once with PyG's "
            "Planetoid in an environment of your own and save edge_index, x and y with numpy.savez: such an .npz is read."
        )
    if list(place.glob("*_graph_indicator.txt")):
        return read_tu(place)
    return read_ogb(place) if (place / "raw" / "edge.csv.gz").exists() else read_folder(place)
