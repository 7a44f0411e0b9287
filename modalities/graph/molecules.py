"""Molecule-like graphs: atoms and bonds drawn at random within their valences, with functional groups that decide the class.

Atoms and bonds are numbered as Hu et al. (ICLR 2020) number them: an atom is (atomic number - 1, chirality), a bond (kind, direction).
"""

import numpy as np
import torch
from torch_geometric.data import Data

ATOMS = {"C": (5, 4), "N": (6, 3), "O": (7, 2), "F": (8, 1), "S": (15, 2), "Cl": (16, 1)}
"""Atom -> (atomic number - 1, bonds that it has)."""
SINGLE, DOUBLE, AROMATIC = 0, 1, 3
"""Kinds of bonds."""
GROUPS = ("ester", "hydroxyketone", "amide", "aminoketone")
"""Classes. Esters and hydroxyketones have the same atoms in another order, as have amides and aminoketones."""
_NAMES = tuple(ATOMS)


class _Growing:
    """A molecule in the making."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.atoms: list[str] = []
        self.free: list[int] = []
        """Bonds that each atom can still have."""
        self.bonds: list[tuple[int, int, int]] = []

    def add(self, atom: str, to: int | None = None, kind: int = SINGLE) -> int:
        """A new atom, bound to an earlier one; its number."""
        self.atoms.append(atom)
        self.free.append(ATOMS[atom][1])
        number = len(self.atoms) - 1
        if to is not None:
            self.bind(to, number, kind)
        return number

    def bind(self, a: int, b: int, kind: int = SINGLE) -> None:
        """A bond between two atoms."""
        self.bonds.append((a, b, kind))
        for end in (a, b):
            self.free[end] -= 2 if kind == DOUBLE else 1

    def place(self, atoms: str = "C") -> int:
        """A random atom of one of some elements that can have another bond; a new carbon where there is none."""
        open_ones = [i for i, atom in enumerate(self.atoms) if self.free[i] > 0 and atom in atoms]
        return int(self.rng.choice(open_ones)) if open_ones else self.add("C", self.place("CNOS") if self.atoms else None)

    def ring(self, size: int, aromatic: bool) -> None:
        """A ring on a random atom. In an aromatic one every atom keeps one bond less, and one may be nitrogen."""
        first = self.add("C", self.place() if self.atoms else None)
        members = [first]
        for i in range(1, size):
            members.append(self.add("N" if aromatic and i == 2 and self.rng.random() < 0.3 else "C", members[-1], AROMATIC if aromatic else SINGLE))
        self.bind(members[-1], first, AROMATIC if aromatic else SINGLE)
        if aromatic:
            for member in members:
                self.free[member] -= 1

    def group(self, name: str) -> None:
        """A functional group on a random carbon: C(=O)-X-C or C(=O)-C-X."""
        last = "O" if name in ("ester", "hydroxyketone") else "N"
        carbonyl = self.add("C", self.place())
        self.add("O", carbonyl, DOUBLE)
        if name in ("ester", "amide"):
            self.add("C", self.add(last, carbonyl))
        else:
            self.add(last, self.add("C", carbonyl))


def draw_molecule(rng: np.random.Generator, label: int) -> Data:
    """A molecule with one functional group of a class, and random rings, chains, ethers, amines and halogens around them.

    Entries: `x` (N, 2) int64 atoms, `edge_attr` (E, 2) int64 bonds, `node_type` (N,) int64 index into ATOMS, `edge_index` (2, E), both ways.
    """
    molecule = _Growing(rng)
    for _ in range(int(rng.integers(1, 3))):
        molecule.ring(int(rng.integers(5, 7)), bool(rng.random() < 0.6))
    for _ in range(int(rng.integers(2, 6))):
        molecule.add("C", molecule.place("CN"))
    molecule.group(GROUPS[label])
    for _ in range(int(rng.integers(6, 11))):  # what the classes have in common, whatever the group
        kind = int(rng.integers(4))
        if kind == 0:
            molecule.add("C", molecule.add(str(rng.choice(["O", "S"])), molecule.place()))
        elif kind == 1:
            molecule.add("C", molecule.add("N", molecule.place()))
        elif kind == 2:
            molecule.add(str(rng.choice(["F", "Cl"])), molecule.place())
        else:
            molecule.add("O", molecule.add("C", molecule.place()), DOUBLE)
    nodes = len(molecule.atoms)
    place = rng.permutation(nodes)
    ends = np.array([(place[a], place[b]) for a, b, _ in molecule.bonds]).repeat(2, axis=0)
    ends[1::2] = ends[1::2, ::-1]
    kinds = np.zeros((len(ends), 2), np.int64)
    kinds[:, 0] = np.repeat([kind for _, _, kind in molecule.bonds], 2)
    types = np.empty(nodes, np.int64)
    types[place] = [_NAMES.index(atom) for atom in molecule.atoms]
    numbers = np.array([number for number, _ in ATOMS.values()])
    return Data(
        x=torch.from_numpy(np.stack([numbers[types], np.zeros(nodes, np.int64)], axis=1)), edge_index=torch.from_numpy(np.ascontiguousarray(ends.T)),
        edge_attr=torch.from_numpy(kinds), node_type=torch.from_numpy(types),
    )  # fmt: skip
