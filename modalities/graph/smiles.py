"""Molecules from SMILES, with the atoms and bonds of Hu et al. (ICLR 2020)."""

from types import ModuleType

import torch
from torch_geometric.data import Data

from trainer.errors import DataError, shorten

CHIRALITIES = ("CHI_UNSPECIFIED", "CHI_TETRAHEDRAL_CW", "CHI_TETRAHEDRAL_CCW")
BONDS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
DIRECTIONS = ("NONE", "ENDUPRIGHT", "ENDDOWNRIGHT")
"""In the order of the rows of the tables."""
HEAVIEST = 118


def molecule(Chem: ModuleType, smiles: str, where: str) -> Data:  # noqa: N803
    """A SMILES as a graph: x (N, 2) atoms, edge_attr (E, 2) bonds, both int64. `Chem` is rdkit's module. DataError for one that rdkit cannot read or that has no atoms."""
    from rdkit import rdBase

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
    if mol is None or mol.GetNumAtoms() == 0:
        raise DataError(f"{where}: {shorten(smiles)} is no valid SMILES. Correct it, or leave the row out.")
    atoms = []
    for atom in mol.GetAtoms():
        tag = str(atom.GetChiralTag())
        if not 1 <= atom.GetAtomicNum() <= HEAVIEST:
            raise DataError(f"{where}: {shorten(smiles)} has an atom without element.")
        atoms.append((atom.GetAtomicNum() - 1, CHIRALITIES.index(tag) if tag in CHIRALITIES else 0))
    ends, bonds = [], []
    for bond in mol.GetBonds():
        kind, direction = str(bond.GetBondType()), str(bond.GetBondDir())
        if kind not in BONDS:
            raise DataError(f"{where}: {shorten(smiles)} has a bond of the kind {kind}; known are {', '.join(BONDS)}.")
        for a, b in ((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()), (bond.GetEndAtomIdx(), bond.GetBeginAtomIdx())):
            ends.append((a, b))
            bonds.append((BONDS.index(kind), DIRECTIONS.index(direction) if direction in DIRECTIONS else 0))
    return Data(
        x=torch.tensor(atoms), edge_index=torch.tensor(ends, dtype=torch.long).reshape(-1, 2).T.contiguous(), edge_attr=torch.tensor(bonds, dtype=torch.long).reshape(-1, 2),
        node_type=torch.tensor([number for number, _ in atoms]),
    )  # fmt: skip


def scaffold(smiles: str) -> str:
    """The Bemis-Murcko scaffold of a molecule, chirality included, as SMILES; "" of one without rings."""
    from rdkit.Chem.Scaffolds import MurckoScaffold

    return MurckoScaffold.MurckoScaffoldSmiles(smiles=smiles, includeChirality=True)


def scaffold_split(scaffolds: list[str], train: float = 0.8, valid: float = 0.1) -> tuple[list[int], list[int], list[int]]:
    """(training, validation, test) indices: molecules of one scaffold stay together, the largest groups go into training (Hu et al. 2020).

    Groups are sorted by size, then by their first index.
    """
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(scaffolds):
        groups.setdefault(name, []).append(index)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    total = len(scaffolds)
    for group in sorted(groups.values(), key=lambda g: (len(g), g[0]), reverse=True):
        if len(parts[0]) + len(group) <= train * total:
            parts[0].extend(group)
        elif len(parts[0]) + len(parts[1]) + len(group) <= (train + valid) * total:
            parts[1].extend(group)
        else:
            parts[2].extend(group)
    return parts
