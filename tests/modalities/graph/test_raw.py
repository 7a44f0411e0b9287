"""`zoo data` and `zoo pack` on sets of graphs: what is told and drawn, and that tars hold the same graphs."""

import numpy as np
import pytest
import torch

from modalities.graph.data import LabelledGraphs, read_table
from modalities.graph.preprocess import GraphPreprocess
from modalities.graph.raw import neighbourhood, raw_parts
from tests.modalities.graph.test_sampling import large
from tests.modalities.graph.test_tables import write_ogb, write_tu
from trainer.errors import DataError
from trainer.packing import pack
from trainer.shards import is_shards
from zoo import cli


def test_packed_graphs_are_the_same_graphs(tmp_path, capsys):
    folder = write_tu(tmp_path / "DS", node_attributes="0.5, 2\n" * 8)
    assert cli.main(["pack", str(folder), "--to", str(tmp_path / "tars"), "--samples_per_shard", "3", "--in_order"]) == 0
    assert is_shards(str(tmp_path / "tars"))
    here, there = read_table(str(folder)), read_table(str(tmp_path / "tars"))
    assert there.labels.equal(here.labels) and there.classes == here.classes and there.types == here.types == 3
    for a, b in zip(here.graphs, there.graphs):
        assert a.edge_index.equal(b.edge_index) and a.x.equal(b.x) and a.node_type.equal(b.node_type) and a.num_nodes == b.num_nodes
    train, test = LabelledGraphs(str(tmp_path / "tars"), test_fraction=0.5).build(GraphPreprocess("types", 3))
    assert len(train) == len(test) == 2
    assert cli.main(["data", "check", str(tmp_path / "tars")]) == 0 and "4 of 4 samples are fine" in capsys.readouterr().out


def test_what_a_set_is_is_told_and_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", "show", str(write_tu(tmp_path / "DS"))]) == 0
    said = capsys.readouterr().out
    assert "folder of TU text files, 4 samples" in said and "2 classes of 2 samples: -1 2, 1 2" in said and "degree 1 to 1" in said and (tmp_path / "DS-samples.png").exists()
    graph = large(400)
    np.savez("big.npz", edge_index=torch.cat([graph.edge_index, torch.tensor([[0, 0], [0, 0]])], 1).numpy(), y=graph.y.numpy())
    assert cli.main(["data", "show", "big.npz"]) == 0
    said = capsys.readouterr().out
    assert "labels of nodes: " in said and "self loops" in said and "isolated nodes" not in said and (tmp_path / "big-samples.png").exists()
    assert len(neighbourhood(graph, 50)) == 50 and len(neighbourhood(graph, 10**4)) == 400


def test_what_cannot_be_packed_or_is_no_graph_for_certain(tmp_path):
    several = raw_parts(str(write_ogb(tmp_path / "ogb")))[""]
    assert several.facts()[-1] == "label task 1: 1 yes, 0 no, 1 missing"
    with pytest.raises(DataError, match="2 yes-or-no label.* is not packed"):
        pack(several, tmp_path / "tars")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "a.txt").write_text("0 1\n")
    assert not raw_parts(str(tmp_path / "lists"))[""].fits() and several.fits()
    with pytest.raises(DataError, match="no graph|no folder|There are no images"):
        cli.VERBS["data"](["show", str(tmp_path / "lists")])
    (tmp_path / "parts").mkdir()
    for part, labels in (("train", "-1\n1\n-1\n1\n"), ("test", "-1\n5\n-1\n5\n")):
        write_tu(tmp_path / "parts" / part, graph_labels=labels)
    with pytest.raises(DataError, match="has the classes -1, 5, and the other part has -1, 1"):
        raw_parts(str(tmp_path / "parts"))
