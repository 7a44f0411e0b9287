"""The sets of the proof that W2PGNN's score holds."""

import numpy as np
import pytest

from modalities.graph.data import read_table
from modalities.graph.feasibility import FeasibilityConfig
from modalities.graph.graphons import GraphonConfig
from tools.learn_w2pgnn import communities, drawn, fitted, scores, written
from trainer.errors import UnknownNameError


@pytest.mark.parametrize("density", [0.2, 0.5])
def test_communities_have_their_density_in_every_class(density):
    graphs, labels = communities(density, 80, (0, 0))
    found = np.array([graph.num_edges / (graph.num_nodes * (graph.num_nodes - 1)) for graph in graphs])
    for label in range(4):
        assert found[np.array(labels) == label].mean() == pytest.approx(density, rel=0.15)


def test_a_set_is_written_and_read_as_it_is(tmp_path):
    graphs, labels = drawn("trees+communities-0.3", 6, (0, 0))
    table = read_table(str(written(tmp_path / "set", graphs, range(6))))
    assert [graph.num_nodes for graph in table.graphs] == [graph.num_nodes for graph in graphs] and table.labels.tolist() == [*range(6)] and labels == [0] * 6
    assert all(set(map(tuple, a.edge_index.T.tolist())) == set(map(tuple, b.edge_index.T.tolist())) for a, b in zip(table.graphs, graphs))
    with pytest.raises(UnknownNameError, match="no set of graphs"):
        drawn("tres", 4, (0, 0))


def test_the_score_falls_with_the_difference_of_densities():
    config = FeasibilityConfig(GraphonConfig(tv_weight=0.05), kinds=("integral",), resolution=8)
    found = scores([fitted(name, config) for name in ("trees", "communities-0.5", "communities-0.25")], "communities-0.5", config)
    assert found[1] > found[2] > found[0]
