"""W2PGNN: graphons, their distances, and which pre-training set to choose."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch_geometric.data import Data

from modalities.graph.barycenters import BARYCENTERS, BarycenterConfig, smoothing
from modalities.graph.block_approximation import approximate
from modalities.graph.choosing import neighbourhoods
from modalities.graph.feasibility import FeasibilityConfig, feasibility, select
from modalities.graph.files import write_graph
from modalities.graph.graphons import GraphonConfig, adjacency, align, fit, resize, sample
from modalities.graph.statistics import topology
from modalities.graph.transport import entropic_gw, gromov_wasserstein
from trainer.errors import ConfigError, DataError
from trainer.files import read_json
from zoo.cli import main

STEPS = np.array([[0.9, 0.1], [0.1, 0.4]])
FAST = FeasibilityConfig(GraphonConfig(tv_weight=0.05), resolution=8, epochs=8)


def drawn(steps, count=6, nodes=40, seed=0):
    return [sample(np.array(steps), nodes, seed + number) for number in range(count)]


ROBUST = [{"tv_weight": 0.05}, {"method": "USVT", "threshold": 0.1}, {"method": "LG", "falling_gaps": True}, {"method": "MC"}, {"method": "SBA"}]


@pytest.mark.parametrize("options", [*ROBUST, *({"method": method} for method in BARYCENTERS)])
def test_every_method_gives_a_symmetric_graphon_with_the_denser_part_first(options):
    steps = fit([adjacency(graph) for graph in drawn(STEPS)], GraphonConfig(**options))
    assert np.allclose(steps, steps.T) and steps.min() >= 0 and steps.max() <= 1
    if options in ROBUST:
        small = resize(steps, 4)
        assert small[0, 0] > small[-1, -1] + 0.2 and steps.mean() == pytest.approx(0.375, abs=0.1)


def test_the_official_smoothing_leaves_the_density():
    matrices = [adjacency(graph) for graph in drawn(STEPS)]
    assert np.ptp(fit(matrices)) < 0.02 < 0.3 < np.ptp(fit(matrices, GraphonConfig(tv_weight=0.05)))


def test_without_bending_nothing_is_smoothed_and_with_much_steps_fall_evenly():
    p, moved = np.array([0.4, 0.3, 0.2, 0.1]), np.diag([0.1, 0.0, 0.05, 0.02])
    assert np.allclose(smoothing(p, 0.0)(moved), moved / np.outer(p, p))
    kinks = [np.abs(np.diff(smoothing(p, bending)(moved), 2, axis=0)).sum() for bending in (0.0, 0.3)]
    assert kinks[1] < kinks[0]


def test_nodes_that_are_joined_alike_share_a_block():
    planted = np.kron(np.array([[0, 1], [1, 1]]), np.ones((4, 4))) - np.diag([0] * 4 + [1] * 4)
    for seed in range(3):
        steps = approximate([planted] * 4, 0.1, seed)
        assert steps[0, 1] == 0 and steps[0, 5] == 1 and steps[5, 6] == 0.75
    assert np.array_equal(approximate([np.ones((1, 1))], 0.1, 0), np.ones((1, 1)))


def test_samples_follow_the_graphon_and_the_seed():
    graph = sample(STEPS, 400, seed=1)
    assert adjacency(graph).mean() == pytest.approx(STEPS.mean(), abs=0.03)
    assert torch.equal(graph.edge_index, sample(STEPS, 400, seed=1).edge_index)
    assert not torch.equal(graph.edge_index, sample(STEPS, 400, seed=2).edge_index)


def test_alignment_orders_by_degree_and_fills_up():
    star = adjacency(Data(edge_index=torch.tensor([[2, 2, 2], [0, 1, 3]]), num_nodes=4))
    matrix, degrees = align(star, 6)
    assert matrix[0, 1:4].tolist() == [1, 1, 1] and matrix.sum() == 6
    assert degrees == pytest.approx([1 / 2, 1 / 6, 1 / 6, 1 / 6, 0, 0])


def test_gradient_of_the_entropic_distance():
    rng = np.random.default_rng(0)
    first, second = (torch.tensor(rng.random((4, 4)) * 0.1 + base) for base in (0.2, 0.6))
    first.requires_grad_(True)
    entropic_gw(first, second).backward()
    step = torch.zeros(4, 4, dtype=torch.float64)
    step[1, 2] = 1e-6
    with torch.no_grad():
        slope = (entropic_gw(first + step, second) - entropic_gw(first - step, second)) / 2e-6
    assert first.grad[1, 2].item() == pytest.approx(slope.item(), rel=1e-2)


def test_distance_is_a_root_and_nought_for_equals():
    half, whole = np.full((3, 3), 0.5), np.full((3, 3), 0.75)
    assert gromov_wasserstein(half, whole, "square") == pytest.approx(0.25)
    assert gromov_wasserstein(half, half, "square") == pytest.approx(0, abs=1e-6)


def test_the_nearer_set_is_chosen_and_shares_of_domains_are_found():
    dense, sparse = drawn(np.full((1, 1), 0.7)), drawn(np.full((1, 1), 0.1))
    down = drawn(np.full((1, 1), 0.6), seed=50)
    found = select({"sparse": sparse, "dense": dense, "both": {"sparse": sparse, "dense": dense}}, down, FAST)
    assert [*found].index("dense") < [*found].index("sparse")
    assert found["both"].score >= found["sparse"].score
    domains = found["both"].combinations["domain"]
    assert domains.alpha.sum() == pytest.approx(1, abs=1e-6) and domains.alpha[1] > domains.alpha[0] and domains.losses[-1] < domains.losses[0]
    assert "domain" not in found["dense"].combinations, "one domain is the same as all graphs together"


def test_equal_sets_are_nearest():
    graphs = drawn(STEPS)
    found = feasibility({"itself": graphs}, graphs, FeasibilityConfig(GraphonConfig(tv_weight=0.05), resolution=8, epochs=4, distance="square"))
    assert found.score == pytest.approx(0, abs=0.03)


def test_regular_graphs_have_no_correlation_of_degrees():
    ring = adjacency(Data(edge_index=torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]), num_nodes=4))
    assert topology(ring)[[0, 1, 4, 5]].tolist() == [2, 0, 0, 0]


def test_graphs_without_edges_do_not_shift_the_groups():
    empty = Data(edge_index=torch.empty(2, 0, dtype=torch.long), num_nodes=5)
    found = feasibility({"mixed": [empty, *drawn(np.full((1, 1), 0.1), 4), *drawn(np.full((1, 1), 0.9), 4)]}, drawn(STEPS), FAST)
    assert sum(int(name.partition("(")[2][:-1]) for name in found.bases.names["topology"]) == 8


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: GraphonConfig("UVST"), ConfigError, "Did you mean 'USVT'"),
        (lambda: GraphonConfig("USVT", tv_weight=0.1), ConfigError, "tv_weight changes only"),
        (lambda: GraphonConfig("GWB", barycenter=BarycenterConfig(bending=0.1)), ConfigError, "bending changes only the method SGWB and SFGWB"),
        (lambda: BarycenterConfig(edge_share=1.5), ConfigError, "edge_share between 0 and 1"),
        (lambda: FeasibilityConfig(kinds=()), ConfigError, "kinds must be"),
        (lambda: fit([np.zeros((3, 3))]), DataError, "with an edge"),
        (lambda: adjacency(Data(edge_index=torch.tensor([[0], [4]]), num_nodes=3), "a set, graph 7"), DataError, "a set, graph 7: edge 0 leads"),
        (lambda: feasibility({"pre": drawn(STEPS, 1)}, [], FAST), DataError, "the downstream set"),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_the_verb_prints_a_table_and_draws(tmp_path, capsys):
    for number, graph in enumerate(drawn(np.full((1, 1), 0.3), 3, 20)):
        (tmp_path / "mine").mkdir(exist_ok=True)
        write_graph(graph, tmp_path / "mine" / f"{number}.npz")
    options = ["--graphs", "8", "--resolution", "6", "--epochs", "2", "--iterations", "3", "--clusters", "2", "--tv_weight", "0.05"]
    assert main(["feasibility", "trees+blocks,molecules", f"{tmp_path / 'mine'},motifs", "--to", str(tmp_path / "out"), *options]) == 0
    printed = capsys.readouterr().out
    assert "for motifs" in printed and "trees+blocks" in printed and "domain" in printed
    written = read_json(tmp_path / "out" / "feasibility.json")["downstream"][str(tmp_path / "mine")]
    assert [*written] == sorted(written, key=lambda name: -written[name]["score"]) and all(one["score"] <= 0 for one in written.values())
    for name in ("heat_map.png", "graphons.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert picture.width > 300


def test_one_large_graph_is_cut_into_neighbourhoods():
    graph = sample(np.full((1, 1), 0.02), 300)
    found = neighbourhoods(graph, 20, "large")
    assert len(found) == 20 and all(part.num_nodes < 300 for part in found)
    assert neighbourhoods(graph, 300, "large") == [graph]
    with pytest.raises(DataError, match="more than 1,000"):
        neighbourhoods(Data(edge_index=torch.stack([torch.zeros(1500, dtype=torch.long), torch.arange(1, 1501)]), num_nodes=1501), 5, "hub")


@pytest.mark.parametrize(
    ("pre", "down", "message"),
    [("tres", "blocks", "Did you mean 'trees'"), ("trees,", "blocks", "found 'trees,'"), ("trees", "no/such", "no such folder"), ("trees", "blocks --graphs 0", "at least 1, found 0")],
)
def test_mistakes_on_the_command_line_are_named(pre, down, message, capsys):
    assert main(["feasibility", pre, *down.split()]) == 1
    assert message in capsys.readouterr().err
