"""Molecule-like graphs: rings, chains and functional groups joined at random within their valences, in a chemistry of six elements.

Elements of one column of the periodic table form the same bonds, and here they stand for one another: wherever a fragment is drawn with O there is O or S.
That they are of a kind shows in every molecule, labelled or not. The class is decided by how columns are bound and not by elements.

Atoms and bonds are numbered as Hu et al. (ICLR 2020) number them: an atom is (atomic number - 1, chirality), a bond (kind, direction).
"""

from typing import NamedTuple

import numpy as np
import torch
from torch_geometric.data import Data

ATOMS = {"C": 5, "Si": 13, "N": 6, "P": 14, "O": 7, "S": 15}
"""Atom -> atomic number - 1."""
COLUMNS = {"C": ("C", "C", "Si"), "N": ("N", "P"), "O": ("O", "S")}
"""Element of a drawing -> what may stand there, each as likely."""
SINGLE, DOUBLE, TRIPLE, AROMATIC = 0, 1, 2, 3
"""Kinds of bonds."""
GROUPS = {"carbamate": "*OC(=O)NC*", "amino ester": "*OC(=O)CN*", "alkoxy amide": "*NC(=O)CO*", "hydroxamate": "*C(=O)NOC*"}
"""Class -> the group that decides it: isomers, the same atoms with the same bonds in another order."""

# What molecules are made of, drawn in SMILES, and how often each is taken; `*` is where a group is bound to a carbon of a ring or chain.
RINGS = {
    "c1ccccc1": 8, "c1ccncc1": 3, "c1cncnc1": 2, "c1cnccn1": 1, "c1ccoc1": 2, "c1cnoc1": 1, "C1CCCCC1": 2, "C1CCCC1": 1, "C1CCNCC1": 3, "C1CNCCN1": 1,
    "C1COCCN1": 2, "C1CCOC1": 1, "C1CCNC1": 2,
}  # fmt: skip
CHAINS = {"C": 4, "CC": 3, "C(C)C": 1, "CCC": 1}
LINKERS = {"*O*": 3, "*N*": 2, "*C(=O)N*": 6, "*C(=O)O*": 4, "*C(=O)*": 1, "*NC(=O)N*": 1}
ENDS = {"*O": 3, "*N": 3, "*C#N": 2, "*C(=O)O": 2, "*C(=O)N": 2, "*N(=O)O": 2, "*C=O": 1}


class Fragment(NamedTuple):
    """A part of a molecule. Atoms are numbered from 0."""

    atoms: tuple[str, ...]
    """Element of each in the drawing."""
    bonds: tuple[tuple[int, int, int], ...]
    """(atom, atom, kind)."""
    ends: tuple[int, ...]
    """Of a group, the atoms that are bound to a carbon outside. Rings and chains have none."""
    free: tuple[int, ...]
    """Bonds that each can still have: those of carbons in rings and chains."""
    bare: tuple[bool, ...]
    """Whether a group may be bound to it: to carbons with free bonds that are aromatic or have no neighbour but carbons."""


def read(drawing: str) -> Fragment:
    """A drawing in a small part of SMILES: C, N, O, c, n, o, branches, `=`, `#`, one ring, and `*` at the ends of a group."""
    signs, bonds, ends = "", [], []
    last, kind, ring, branches = -1, SINGLE, -1, []
    for sign in drawing:
        if sign == "(":
            branches.append(last)
        elif sign == ")":
            last = branches.pop()
        elif sign in "=#":
            kind = DOUBLE if sign == "=" else TRIPLE
        elif sign == "1" and ring < 0:
            ring = last
        elif sign == "1":
            bonds.append((ring, last, AROMATIC if signs[last].islower() else SINGLE))
        elif sign == "*":
            ends.append(max(last, 0))
        else:
            if signs:
                bonds.append((last, len(signs), AROMATIC if sign.islower() else kind))
            signs += sign
            last, kind = len(signs) - 1, SINGLE
    near = ["".join(signs[b if a == atom else a] for a, b, _ in bonds if atom in (a, b)) for atom in range(len(signs))]
    free = tuple({"c": 3, "C": 4}.get(sign, 0) - len(others) if sign in "cC" and not ends else 0 for sign, others in zip(signs, near))
    bare = tuple(count > 0 and (sign == "c" or set(others) <= {"C"}) for sign, count, others in zip(signs, free, near))
    return Fragment(tuple(signs.upper()), tuple(bonds), tuple(ends), free, bare)


_FRAGMENTS = {drawing: read(drawing) for drawings in (GROUPS.values(), RINGS, CHAINS, LINKERS, ENDS) for drawing in drawings}
_STANDING = {element: [list(ATOMS).index(atom) for atom in atoms] for element, atoms in COLUMNS.items()}


class _Growing:
    """A molecule in the making. A group is bound to carbons that have no other one and no neighbour but carbons, or are aromatic: so two groups never make a third."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.atoms: list[str] = []
        self.bonds: list[tuple[int, int, int]] = []
        self.free: list[int] = []
        self.bare: list[bool] = []

    def one_of(self, drawings: dict[str, int]) -> str:
        """A drawing, each as often as its number says."""
        until = np.cumsum(list(drawings.values()))
        return list(drawings)[int(np.searchsorted(until, self.rng.integers(until[-1]), side="right"))]

    def add(self, drawing: str) -> int:
        """A fragment, bound to nothing; the number of its first atom."""
        first, fragment = len(self.atoms), _FRAGMENTS[drawing]
        self.atoms += fragment.atoms
        self.bonds += [(first + a, first + b, kind) for a, b, kind in fragment.bonds]
        self.free += fragment.free
        self.bare += fragment.bare
        return first

    def bind(self, a: int, b: int) -> None:
        """A single bond."""
        self.bonds.append((a, b, SINGLE))
        for atom in (a, b):
            self.free[atom] -= 1

    def place(self, since: int = 0) -> int:
        """A random carbon with a free bond, of the atoms from a number on."""
        free = [atom for atom in range(since, len(self.atoms)) if self.free[atom] > 0]
        return free[self.rng.integers(len(free))]

    def grow(self, drawings: dict[str, int], since: int = 0) -> int:
        """A ring or chain, bound to a random place; the number of its first atom."""
        place, first = self.place(since), self.add(self.one_of(drawings))
        self.bind(place, self.place(first))
        return first

    def attach(self, end: int, since: int = 0) -> None:
        """Bind an atom of a group to a random carbon that may have it, or to one more where there is none."""
        bare = [atom for atom in range(since, len(self.atoms)) if self.free[atom] > 0 and self.bare[atom]]
        carbon = bare[self.rng.integers(len(bare))] if bare else self.grow({"C": 1}, since)
        self.bind(carbon, end)
        self.bare[carbon] = False

    def link(self, drawing: str, drawings: dict[str, int]) -> None:
        """A group with two ends, either way round, between the molecule and a new ring or chain."""
        first = self.add(drawing)
        near, far = self.rng.permutation(_FRAGMENTS[drawing].ends)
        self.attach(first + int(near))
        self.attach(first + int(far), self.add(self.one_of(drawings)))


def draw_molecule(rng: np.random.Generator, label: int) -> Data:
    """A molecule with one group of a class, and other rings, chains and groups around it, whatever the class.

    Entries: `x` (N, 2) int64 atoms, `edge_attr` (E, 2) int64 bonds, `node_type` (N,) int64 index into ATOMS, `edge_index` (2, E), both ways.
    """
    molecule = _Growing(rng)
    molecule.add(molecule.one_of(RINGS))
    molecule.grow(CHAINS)
    for part in rng.permutation(["group"] + ["ring"] * int(rng.integers(2)) + ["part"] * int(rng.integers(3, 7))):
        kind = rng.random()
        if part == "group":
            molecule.link(tuple(GROUPS.values())[label], RINGS if kind < 0.5 else CHAINS)
        elif part == "ring" and kind < 0.7:
            molecule.link(molecule.one_of(LINKERS), RINGS)
        elif part == "ring":
            molecule.grow(RINGS)
        elif kind < 0.35:
            molecule.grow(CHAINS)
        elif kind < 0.6:
            molecule.link(molecule.one_of(LINKERS), CHAINS)
        else:
            end = molecule.one_of(ENDS)
            molecule.attach(molecule.add(end) + _FRAGMENTS[end].ends[0])
    nodes = len(molecule.atoms)
    place = rng.permutation(nodes)
    ends = np.array([(place[a], place[b]) for a, b, _ in molecule.bonds]).repeat(2, axis=0)
    ends[1::2] = ends[1::2, ::-1]
    kinds = np.zeros((len(ends), 2), np.int64)
    kinds[:, 0] = np.repeat([kind for _, _, kind in molecule.bonds], 2)
    types = np.empty(nodes, np.int64)
    types[place] = [_STANDING[atom][int(draw * len(_STANDING[atom]))] for atom, draw in zip(molecule.atoms, rng.random(nodes))]
    numbers = np.array(list(ATOMS.values()))
    return Data(
        x=torch.from_numpy(np.stack([numbers[types], np.zeros(nodes, np.int64)], axis=1)), edge_index=torch.from_numpy(np.ascontiguousarray(ends.T)),
        edge_attr=torch.from_numpy(kinds), node_type=torch.from_numpy(types),
    )  # fmt: skip
