"""Sets of graphs as `zoo data` and `zoo pack` take them: one sample is one graph, packed as `KEY.npz` with its class in `KEY.cls`."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch_geometric.data import Data

from modalities.common.folders import is_table
from modalities.common.raw import parts_of
from modalities.common.sources import stem_of
from modalities.graph.checks import check_graph, clean_edges
from modalities.graph.data import read_table
from modalities.graph.files import as_bytes
from modalities.graph.generated import BUILT_IN
from modalities.graph.pictures import draw_graphs
from modalities.graph.tables import GraphTable
from trainer.errors import DataError
from trainer.packing import Seen
from trainer.shards import is_shards

PART = 150
"""Nodes of a larger graph that are drawn."""
SHOWN = 12
"""Graphs on a sheet."""
PLAIN = (".csv", ".txt", ".tsv")
"""Endings of edge lists that other data have, too."""


class RawGraphs:
    """A set of graphs, read; see `trainer.packing.RawData`."""

    modality = "graph"

    def __init__(self, path: str, table: GraphTable) -> None:
        self.path, self.table, self.name, self.format = path, table, stem_of(path), _form(path, table)
        self.several = table.labels is not None and table.labels.ndim == 2
        self.classes = () if self.several else table.classes

    def __len__(self) -> int:
        return len(self.table.graphs)

    def id(self, index: int) -> str:
        return self.table.names[index] if self.table.names else f"graph {index}"

    def stamp(self, index: int) -> str:
        return hashlib.sha256(as_bytes(self.table.graphs[index])).hexdigest()

    def members(self, index: int) -> dict[str, bytes]:
        """The arrays of the graph, and its class. DataError for a set with several labels for each graph, which a class file cannot hold."""
        if self.several:
            raise DataError(f"{self.path} has {len(self.table.classes)} yes-or-no label(s) for each graph and is not packed. Give the path to a recipe as it is.")
        content = {"npz": as_bytes(self.table.graphs[index])}
        return content if self.table.labels is None else {**content, "cls": str(int(self.table.labels[index])).encode()}

    def fits(self) -> bool:
        """Whether these are graphs for certain: lists of two numbers in a .csv or .txt may be anything."""
        return self.table.labels is not None or Path(self.id(0)).suffix.lower() not in PLAIN

    def check(self, index: int) -> Seen:
        """Nodes and edges of a graph. DataError when it is damaged."""
        graph = check_graph(self.table.graphs[index], f"{self.path}, {self.id(index)}")
        return Seen(f"graph with {_features(graph)}", (graph.num_nodes, graph.num_edges), len(as_bytes(graph)))

    def problems(self) -> dict[str, str]:
        """None: a set that cannot be read is an error at once."""
        return {}

    def class_counts(self) -> list[int] | None:
        """Graphs of each class."""
        return None if not self.classes else torch.bincount(self.table.labels, minlength=len(self.classes)).tolist()

    def facts(self) -> list[str]:
        """Degrees, what the preprocessing will merge or take away, and labels of nodes, in lines."""
        degrees, loops, repeated, alone = [], 0, 0, 0
        for i, graph in enumerate(self.table.graphs):
            check_graph(graph, f"{self.path}, {self.id(i)}")
            own = int((graph.edge_index[0] == graph.edge_index[1]).sum())
            directed = clean_edges(Data(edge_index=graph.edge_index), graph.num_nodes, undirected=False)[0].shape[1]
            both = clean_edges(Data(edge_index=graph.edge_index), graph.num_nodes, undirected=True)[0]
            count = torch.bincount(both[0], minlength=graph.num_nodes)
            degrees.append(count)
            loops, repeated, alone = loops + own, repeated + graph.num_edges - own - directed, alone + int((count == 0).sum())
        degree = torch.cat(degrees).float()
        lines = [f"degree {int(degree.min())} to {int(degree.max())}, {float(degree.mean()):.2f} on average (every edge both ways)"]
        lines += [f"{count:,} {what}" for count, what in ((alone, "isolated nodes"), (loops, "self loops"), (repeated, "repeated edges")) if count]
        if self.several:
            lines += [f"label {name}: {int((column == 1).sum()):,} yes, {int((column == 0).sum()):,} no, {int(column.isnan().sum()):,} missing" for name, column in zip(self.table.classes, self.table.labels.T)]
        if len(self) == 1 and self.table.graphs[0].get("y") is not None:
            counts = Counter(self.table.graphs[0].y.flatten().tolist())
            lines.append(f"labels of nodes: {', '.join(f'{value:g} {count:,}' for value, count in counts.most_common(SHOWN))}")
        return lines

    def draw(self, indices: Sequence[int], path: Path, title: str) -> None:
        """Some graphs, of large ones the nodes around the one with most edges, coloured by type, by label or by degree."""
        graphs, values, captions = [], [], []
        for index in indices[:: max(-(-len(indices) // SHOWN), 1)]:
            graph = self.table.graphs[index]
            part = neighbourhood(graph, PART) if graph.num_nodes > PART else torch.arange(graph.num_nodes)
            kept = graph.edge_index[:, torch.isin(graph.edge_index, part).all(dim=0)]
            graphs.append(Data(edge_index=torch.searchsorted(part, kept), num_nodes=len(part)))
            values.append(self._colours(graph)[part].numpy())
            label = "" if self.table.labels is None or self.several else f", {self.classes[int(self.table.labels[index])]}"
            captions.append(f"{self.id(index)}{label}" if len(part) == graph.num_nodes else f"{len(part)} of {graph.num_nodes:,} nodes of {self.id(index)}")
        draw_graphs(graphs, values, captions, path, title, self._scale())

    def _scale(self) -> str:
        first = self.table.graphs[0]
        return "type of node" if "node_type" in first else "label of node" if self._labelled_nodes(first) else "degree"

    def _colours(self, graph: Data) -> torch.Tensor:
        """What nodes are coloured by, (N,)."""
        if "node_type" in graph:
            return graph.node_type.float()
        return graph.y.float() if self._labelled_nodes(graph) else torch.bincount(graph.edge_index.flatten(), minlength=graph.num_nodes).float()

    @staticmethod
    def _labelled_nodes(graph: Data) -> bool:
        return graph.get("y") is not None and graph.y.shape == (graph.num_nodes,)


def raw_parts(path: str, labelled: bool = True) -> dict[str, RawGraphs]:
    """The graphs at a path, or of its parts `train` and `val`: see `modalities.common.raw.parts_of`."""
    return parts_of(path, labelled, BUILT_IN, "graphs", _opened)


def _opened(path: str, labelled: bool = True, classes: Sequence[str] | None = None) -> RawGraphs:
    """One part. DataError when it has other classes than `classes`, where given."""
    table = read_table(path)
    if not labelled:
        table = GraphTable(table.graphs, None, (), table.names, table.types)
    if classes and tuple(classes) != table.classes:
        raise DataError(f"{path} has the classes {', '.join(table.classes)}, and the other part has {', '.join(classes)}.")
    return RawGraphs(path, table)


def _form(path: str, table: GraphTable) -> str:
    """What the set is, in words."""
    place = Path(path)
    if is_shards(path):
        return "tar shards"
    if is_table(path):
        return "table of SMILES" if table.scaffolds else "list of edges"
    if place.is_file():
        return f"one graph in a {place.suffix} file"
    if (place / "raw").is_dir():
        return "OGB folder"
    return "folder of TU text files" if any(place.glob("*_graph_indicator.txt")) else "folder of graph files"


def _features(graph: Data) -> str:
    """Which features nodes and edges have, in words."""
    found = [f"{graph[key].reshape(len(graph[key]), -1).shape[1]} feature(s) of {what}" for key, what in (("x", "nodes"), ("edge_attr", "edges")) if graph.get(key) is not None and len(graph[key])]
    return ", ".join(found + (["types of nodes"] if "node_type" in graph else [])) or "edges alone"


def neighbourhood(graph: Data, most: int) -> torch.Tensor:
    """The nodes of a part of a graph, sorted: the one with most edges, its neighbours, theirs, ... up to `most`."""
    ends = graph.edge_index
    part = torch.bincount(ends.flatten(), minlength=graph.num_nodes).argmax()[None]
    while len(part) < most:
        near = ends[:, torch.isin(ends, part).any(dim=0)].unique()
        grown = torch.cat([part, near[~torch.isin(near, part)]])[:most]
        if len(grown) == len(part):
            break
        part = grown
    return part.sort().values
