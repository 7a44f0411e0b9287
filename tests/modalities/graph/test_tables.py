"""Sets of graphs as they lie on the disk, and what is said of damaged ones."""

import gzip

import numpy as np
import pytest
import torch

from modalities.graph.data import LabelledGraphs, UnlabelledGraphs, read_table
from modalities.graph.files import read_graph
from modalities.graph.models.encoder import GraphEncoderConfig
from modalities.graph.preprocess import GraphPreprocess
from modalities.graph.smiles import scaffold_split
from modalities.graph.tables import ogb_split, read_ogb
from trainer.errors import ConfigError, DataError

TU = {
    "A": "1, 2\n2, 1\n3, 4\n4, 3\n5, 6\n6, 5\n7, 8\n8, 7\n", "graph_indicator": "1\n1\n2\n2\n3\n3\n4\n4\n",
    "graph_labels": "-1\n1\n-1\n1\n", "node_labels": "0\n2\n2\n0\n5\n0\n0\n0\n",
}  # fmt: skip


def write_tu(folder, **changes):
    folder.mkdir()
    for part, text in {**TU, **changes}.items():
        (folder / f"DS_{part}.txt").write_text(text)
    return folder


def test_tu_files(tmp_path):
    table = read_table(str(write_tu(tmp_path / "DS")))
    assert len(table.graphs) == 4 and table.classes == ("-1", "1") and table.labels.tolist() == [0, 1, 0, 1] and table.types == 3
    assert table.graphs[2].node_type.tolist() == [2, 0] and table.graphs[1].edge_index.tolist() == [[0, 1], [1, 0]]
    data = LabelledGraphs(str(tmp_path / "DS"), test_fraction=0.5)
    preprocess = data.preprocess(GraphEncoderConfig())
    train, test = data.build(preprocess)
    assert preprocess == GraphPreprocess("types", 3) and len(train) == len(test) == 2 and sorted(train.labels.tolist()) == [0, 1]
    assert train.id(0).startswith("graph ") and UnlabelledGraphs(str(tmp_path / "DS")).build(preprocess).labels is None


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"A": "1, 2\n2, 9\n"}, r"DS_A.txt, line 2: nodes are numbered from 1 to 8, found \[2, 9\]"),
        ({"A": "1, 2\n0, 1\n"}, "DS_A.txt, line 2"),
        ({"A": "1, 3\n"}, "line 1: the edge .* joins nodes of two graphs"),
        ({"A": "1, x\n"}, "DS_A.txt, line 1: '1, x' does not hold numbers"),
        ({"graph_indicator": "1\n1\n3\n3\n3\n3\n4\n4\n", "A": "1, 2\n"}, "graph 2 of 4 has no nodes"),
        ({"graph_indicator": "1\n2\n1\n2\n3\n3\n4\n4\n"}, "line 3: graphs are numbered"),
        ({"graph_labels": "1\n2\n"}, "has 2 lines; expected 4"),
        ({"node_attributes": "1, 2\n" * 7 + "1, nan\n"}, "line 8 holds NaN"),
        ({"node_attributes": "1, 2\n" * 7 + "1\n"}, "line 8: .* has 1 numbers"),
    ],
)
def test_damaged_tu_files_are_told_by_file_and_line(changes, words, tmp_path):
    with pytest.raises(DataError, match=words):
        read_table(str(write_tu(tmp_path / "DS", **changes)))


def write_ogb(folder, **changes):
    parts = {
        "edge": "0,1\n1,0\n0,2\n", "num-node-list": "2\n3\n", "num-edge-list": "2\n1\n", "node-feat": "1,2\n" * 5, "edge-feat": "0\n" * 3, "graph-label": "1,\n0,1\n",
    }  # fmt: skip
    (folder / "raw").mkdir(parents=True)
    for part, text in {**parts, **changes}.items():
        (folder / "raw" / f"{part}.csv.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def test_ogb_folders(tmp_path):
    table = read_table(str(write_ogb(tmp_path / "ogb")))
    assert [g.num_nodes for g in table.graphs] == [2, 3] and table.graphs[1].edge_index.tolist() == [[0], [2]]
    assert table.labels[0, 0] == 1 and table.labels[0, 1].isnan() and table.labels[1].tolist() == [0, 1]
    with pytest.raises(DataError, match="'task 1' is missing for all"):
        read_table(str(write_ogb(tmp_path / "none", **{"graph-label": "1,\n0,\n"})))
    with pytest.raises(DataError, match="has 2 edges, and num-edge-list.csv.gz promises 3"):
        read_table(str(write_ogb(tmp_path / "short", edge="0,1\n1,0\n")))
    with pytest.raises(DataError, match="graph 1.*edge 0 leads from node 0 to node 7, and there are 3"):
        UnlabelledGraphs(str(write_ogb(tmp_path / "far", edge="0,1\n1,0\n0,7\n"))).build(GraphPreprocess(in_dim=2))


def test_the_division_of_an_ogb_folder_is_taken(tmp_path):
    many = {"edge": "0,1\n" * 9, "num-node-list": "2\n" * 9, "num-edge-list": "1\n" * 9, "node-feat": "1,2\n" * 18, "edge-feat": "0\n" * 9}
    folder = write_ogb(tmp_path / "ogb", **many, **{"graph-label": "0\n1\n2\n" * 3})
    for name, part in (("train", "0\n1\n2\n5\n"), ("valid", "3\n4\n"), ("test", "8\n6\n7\n")):
        (folder / "split" / "scaffold").mkdir(parents=True, exist_ok=True)
        (folder / "split" / "scaffold" / f"{name}.csv.gz").write_bytes(gzip.compress(part.encode()))
    train, test = LabelledGraphs(str(folder)).build(GraphPreprocess(in_dim=2))
    assert train.chosen.tolist() == [0, 1, 2, 5] and train.valid.chosen.tolist() == [3, 4] and test.chosen.tolist() == [8, 6, 7] and test.labels.tolist() == [2, 0, 1] and not train.multi_label
    for nothing in (b"nan", b"", b'""'):
        (folder / "raw" / "graph-label.csv.gz").write_bytes(gzip.compress(b"0\n1\n" + nothing + b"\n" + b"1\n" * 6))
        assert read_ogb(folder).labels.shape == (9, 1) and read_ogb(folder).labels[2].isnan() and read_ogb(folder).labels.isnan().sum() == 1  # yes or no, as MoleculeNet's
    for labels, words in ((b"0\n1.5\n2\n" * 3, "whole numbers, found 1.5"), (b"0\nnan\n2\n" * 3, "line 2: the class is missing"), (b"0,2\n" * 9, "line 1 holds 2; several labels are 1, 0 or nothing")):
        (folder / "raw" / "graph-label.csv.gz").write_bytes(gzip.compress(labels))
        with pytest.raises(DataError, match=words):
            read_ogb(folder)
    (folder / "split" / "scaffold" / "test.csv.gz").write_bytes(gzip.compress(b"9\n"))
    with pytest.raises(DataError, match="names sample 9, and there are 9"):
        ogb_split(folder, 9)
    (folder / "split" / "random").mkdir()
    (folder / "split" / "random" / "train.csv.gz").write_bytes(gzip.compress(b"1\n"))
    with pytest.raises(DataError, match="several divisions: random, scaffold"):
        ogb_split(folder, 9)


def test_tables_of_smiles(tmp_path):
    pytest.importorskip("rdkit")
    path = tmp_path / "mols.csv"
    path.write_text("smiles,tox,name,toxic\nc1ccccc1O,1,a,\nCC(=O)OC,0,b,1\nC/C=C/C,,c,0\nC[C@H](N)O,0,d,0\n")
    table = read_table(str(path))
    assert table.classes == ("tox", "toxic") and table.labels[2, 0].isnan() and table.labels[1].tolist() == [0, 1]
    ester = table.graphs[1]
    assert ester.x[:, 0].tolist() == [5, 5, 7, 7, 5] and ester.edge_attr[:, 0].unique().tolist() == [0, 1] and ester.is_undirected()
    assert table.graphs[2].edge_attr[:, 1].any() and table.graphs[3].x[:, 1].any() and table.scaffolds == ["c1ccccc1", "", "", ""]
    data = LabelledGraphs(str(path), labels=("tox",), scaffold=True)
    train, test = data.build(data.preprocess(GraphEncoderConfig("molecule", 2, activation="relu")))
    assert len(train) == 3 and len(test) == 1 and train.multi_label
    for text, words in (("smiles,y\nC1CC,1\n", "line 2: 'C1CC' is no valid SMILES"), ("smiles,y\nCC,\nC,\n", "'y' is missing for all"), ("smiles,y\n,1\n", "line 2"), ("a,b\n1,2\n", "no column smiles")):
        path = tmp_path / f"{len(text)}.csv"
        path.write_text(text)
        with pytest.raises(DataError, match=words):
            read_table(str(path))
    with pytest.raises(DataError, match="y is 'x'; expected 1, 0"):
        path.write_text("smiles,y\nCC,x\n")
        read_table(str(path), ("y",))


def test_scaffold_split_keeps_scaffolds_together():
    train, valid, test = scaffold_split(["a"] * 5 + ["b"] * 3 + ["c", "d"])
    assert sorted(train) == [0, 1, 2, 3, 4, 5, 6, 7] and valid == [9] and test == [8]


def test_folders_of_graph_files(tmp_path):
    for name, place in (("a", "x/1.edges"), ("b", "y/2.csv")):
        (tmp_path / place).parent.mkdir()
        (tmp_path / place).write_text("# two nodes\n0 1\n1 2\n")
    np.savez(tmp_path / "y" / "3.npz", edge_index=np.array([[0], [1]]), num_nodes=5)
    import networkx as nx
    import scipy.sparse

    nx.write_graphml(nx.path_graph(4), tmp_path / "x" / "4.graphml")
    scipy.sparse.save_npz(tmp_path / "x" / "5.npz", scipy.sparse.csr_matrix(np.eye(3, k=1) * 2))
    table = read_table(str(tmp_path))
    assert table.classes == ("x", "y") and table.names == ["x/1.edges", "x/4.graphml", "x/5.npz", "y/2.csv", "y/3.npz"] and [g.num_nodes for g in table.graphs] == [3, 4, 3, 3, 5]
    assert table.graphs[2].edge_attr.tolist() == [[2.0], [2.0]]


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.edges", "0 1\n1 x\n", "line 2"), ("a.edges", "0 1\n-1 2\n", "line 2: '-1 2'; expected two whole node numbers, counted from 0"), ("a.edges", "0\n", "line 1"), ("a.edges", "# nothing\n", "no edges"),
        ("a.edges", "0 1.5\n", "two whole node numbers"), ("a.graphml", "<graphml>", "no GraphML"), ("a.npz", "text", "a.npz"), ("a.pt", "x", "no graph file by its ending"),
    ],
)  # fmt: skip
def test_damaged_graph_files_are_told(name, content, words, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words):
        read_graph(tmp_path / name)


def test_pickles_are_not_opened_and_wrong_options_are_told(tmp_path):
    (tmp_path / "ind.cora.x").write_bytes(b"\x80\x04.")
    with pytest.raises(DataError, match="pickles"):
        read_table(str(tmp_path))
    with pytest.raises(DataError, match="no labels"):
        folder = tmp_path / "plain"
        folder.mkdir()
        (folder / "a.edges").write_text("0 1\n")
        LabelledGraphs(str(folder)).build(GraphPreprocess("degree", 4))
    with pytest.raises(DataError, match="Did you mean 'molecules'"):
        UnlabelledGraphs("molecule").build(GraphPreprocess("degree", 4))
    with pytest.raises(ConfigError, match="have no features"):
        LabelledGraphs(str(folder), nodes="features").preprocess(GraphEncoderConfig())
    assert torch.equal(read_table(str(folder)).graphs[0].edge_index, torch.tensor([[0], [1]]))
