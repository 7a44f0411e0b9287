"""Molecule-like graphs: they keep to valences, the class's group is there and no other one, and nothing but the order of atoms tells the class."""

from collections import Counter

import networkx as nx
import numpy as np
import pytest

from modalities.graph.molecules import ATOMS, COLUMNS, DOUBLE, GROUPS, SINGLE, TRIPLE, draw_molecule, read

COLUMN = [next(column for column, atoms in COLUMNS.items() if atom in atoms) for atom in ATOMS]
VALENCE = {"C": 4, "N": 3, "O": 2}


def plain(graph):
    """(networkx graph with columns and kinds of bonds, its counts of columns, bonds and degrees)."""
    made = nx.Graph()
    made.add_nodes_from((node, {"column": COLUMN[kind]}) for node, kind in enumerate(graph.node_type.tolist()))
    made.add_edges_from((a, b, {"kind": kind}) for (a, b), (kind, _) in zip(graph.edge_index.T.tolist(), graph.edge_attr.tolist()))
    columns = nx.get_node_attributes(made, "column")
    bonds = Counter((min(columns[a], columns[b]), kind) if kind != SINGLE else kind for a, b, kind in made.edges(data="kind"))
    return made, (Counter(columns.values()), bonds, Counter((columns[node], degree) for node, degree in made.degree()))


def pattern(drawing):
    """A group with the carbons that it is bound to."""
    atoms, bonds, ends, _, _ = read(drawing)
    made = nx.Graph()
    made.add_nodes_from((i, {"column": atom}) for i, atom in enumerate((*atoms, "C", "C")))
    made.add_edges_from((a, b, {"kind": kind}) for a, b, kind in bonds)
    made.add_edges_from((end, len(atoms) + i, {"kind": SINGLE}) for i, end in enumerate(ends))
    return made


PATTERNS = [pattern(drawing) for drawing in GROUPS.values()]


def has(graph, wanted):
    return nx.isomorphism.GraphMatcher(graph, wanted, lambda a, b: a["column"] == b["column"], lambda a, b: a["kind"] == b["kind"]).subgraph_is_monomorphic()


def test_drawings_are_read():
    assert read("*C(=O)NOC*")[:3] == (("C", "O", "N", "O", "C"), ((0, 1, DOUBLE), (0, 2, SINGLE), (2, 3, SINGLE), (3, 4, SINGLE)), (0, 4))
    assert read("*C#N")[1:3] == (((0, 1, TRIPLE),), (0,))
    morpholine = read("C1COCCN1")
    assert len(morpholine.bonds) == 6 and morpholine.free == (2, 2, 0, 2, 2, 0) and not any(morpholine.bare)
    assert read("c1cnoc1").bare == (True, True, False, False, True) and read("C1CCNCC1").bare == (True, True, False, False, False, True)


@pytest.mark.parametrize("number", range(6))
def test_the_order_of_the_atoms_alone_tells_the_class(number):
    drawn = [draw_molecule(np.random.default_rng([7, number]), label) for label in range(len(GROUPS))]
    found = [plain(graph) for graph in drawn]
    counts = [(columns, bonds) for _, (columns, bonds, _) in found]
    assert all(count == counts[0] for count in counts) and len({graph.num_nodes for graph in drawn}) == 1
    assert [[has(graph, wanted) for wanted in PATTERNS] for graph, _ in found] == np.eye(len(GROUPS), dtype=bool).tolist()
    assert [sorted(degree for _, degree in graph.degree()) for graph, _ in found] == [sorted(degree for _, degree in found[0][0].degree())] * len(found)


def test_valences_are_kept():
    for number in range(30):
        graph, _ = plain(draw_molecule(np.random.default_rng([8, number]), number % 4))
        assert nx.is_connected(graph)
        for node, column in graph.nodes(data="column"):
            kinds = [kind for _, _, kind in graph.edges(node, data="kind")]
            bonds = sum({SINGLE: 1, DOUBLE: 2, TRIPLE: 3}.get(kind, 1) for kind in kinds)
            nitro = column == "N" and DOUBLE in kinds and len(kinds) == 3
            assert bonds <= VALENCE[column] + nitro - (column == "C" and any(kind not in (SINGLE, DOUBLE, TRIPLE) for kind in kinds)), (number, node)


def test_all_elements_of_a_column_stand_in_its_places():
    kinds = Counter(int(kind) for number in range(40) for kind in draw_molecule(np.random.default_rng([9, number]), 0).node_type)
    assert set(kinds) == set(range(len(ATOMS))) and 1.5 < kinds[0] / kinds[1] < 3 and 0.7 < kinds[4] / kinds[5] < 1.4
