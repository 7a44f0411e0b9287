"""Sets of pictures with maps beside them that show the same pixels: depth, and classes of a segmentation.

- a folder with a sub-folder for each domain, and the same path below for the same scene: `rgb/a/1.jpg`, `depth/a/1.png`, `semseg/a/1.png`
  (`images` does for rgb, `masks` and `annotations` for semseg); the folders below `rgb` are the classes of a labelled set;
- a table with the columns `path` (the picture), `depth` and `semseg`, and `label` where it is labelled;
- tars whose samples have, beside the picture `x.jpg`, the members `x.depth.png` and `x.semseg.png`.

Maps are one-channel pictures of 8 or 16 bits, or .npy files (see `maps`).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from modalities.common.folders import PARTS, is_table
from modalities.common.sources import Encoded
from modalities.vision.augment_paired import shift_batch
from modalities.vision.bands import USUAL
from modalities.vision.files import ImageShards, open_images, require_table
from modalities.vision.images import to_tensor
from modalities.vision.preprocess_paired import PairedPreprocess
from modalities.vision.sources import ImageArray, ImageFolder, ImageSource
from trainer.errors import DataError, did_you_mean
from trainer.image_files import EXTENSIONS
from trainer.objective import Batch
from trainer.randomness import draws
from trainer.remote import local_copy
from trainer.shards import is_shards

FOLDERS = {"rgb": ("rgb", "images"), "depth": ("depth",), "semseg": ("semseg", "masks", "annotations")}
"""Domain -> names that its folder may have."""
STORED = {"rgb": "rgb", "depth": "depth", "semseg": "semseg", "segmentation": "semseg"}
"""Domain -> as what it is stored: a segmentation to be predicted is no other file than one to be read."""
ENDINGS = (*EXTENSIONS, ".npy")
"""Endings of files with maps."""


@dataclass(frozen=True)
class Beside:
    """The maps of one domain that lie beside pictures."""

    domain: str
    place: str
    """The folder or table that they are in, for errors."""
    found: list[list[Path]]
    """Of each picture: one file, where all is well."""

    def file(self, index: int, picture: str) -> Path:
        """The map of a picture, by the number of the picture and its name. DataError when it has none, or more than one."""
        found = self.found[index]
        if not found:
            raise DataError(f"The picture {picture} has no {self.domain} in {self.place}. Add the map ({', '.join(ENDINGS)}), or leave the picture out.")
        if len(found) > 1:
            raise DataError(f"{self.place} has more than one {self.domain} for {picture}: {', '.join(path.name for path in found)}. Keep one.")
        return found[0]

    def take(self, indices: Sequence[int]) -> "Beside":
        """The maps of these pictures."""
        return replace(self, found=[self.found[i] for i in indices])


def in_folder(files: Sequence[str], root: Path, domain: str) -> Beside:
    """For each picture the maps at the same path below the folder of a domain, whatever their endings."""
    folder = folder_of(root, domain)
    there: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in ENDINGS and not path.name.startswith("."):
            there.setdefault(path.relative_to(folder).with_suffix("").as_posix(), []).append(path)
    return Beside(domain, str(folder), [there.get(Path(file).with_suffix("").as_posix(), []) for file in files])


def in_table(table: ImageFolder, path: str, domain: str) -> Beside:
    """For each picture of a table the file that the column of a domain names."""
    place = table.table.table.parent
    cells = table.table.columns[domain]
    return Beside(domain, f"{path}, column {domain}", [[place / local_copy(cell)] if isinstance(cell, str) and cell else [] for cell in cells])


def domain_of(ending: str, arrays: bool = False) -> str | None:
    """The domain of a member of a tar by its ending: `jpg` is a picture, with `arrays` also `npy`, and `depth.png` a depth map; None for anything else."""
    first, _, last = ending.rpartition(".")
    known = ENDINGS if first or arrays else EXTENSIONS
    return (first or "rgb") if (first or "rgb") in FOLDERS and f".{last}" in known else None


def open_pairs(
    path: str | Path, preprocess: PairedPreprocess, labelled: bool = True, classes: Sequence[str] | None = None, columns: Sequence[str] = ()
) -> ImageSource:
    """The scenes that a path or URL names, with all domains of `preprocess`. DataError when they are not as this module says.

    `columns` of a table hold several labels per scene, as `open_images` says.
    """
    path = str(path)
    if columns:
        require_table(path)
    if is_shards(path):
        return PairedShards(path, preprocess, labelled, classes)
    wanted = [domain for domain in dict.fromkeys(STORED[d] for d in preprocess.domains) if domain != "rgb"]
    if is_table(path):
        table = open_images(path, preprocess.image, labelled, classes, columns)
        found = table.table.columns
        lacking = [domain for domain in wanted if domain not in found]
        if lacking:
            names = ", ".join(("path", *found))
            raise DataError(f"{path} has no column {lacking[0]!r} with the files of the maps, only {names}.{did_you_mean(lacking[0], found)}")
        return PairedFiles(table, {domain: in_table(table, path, domain) for domain in wanted}, preprocess)
    root = Path(path)
    place = folder_of(root, "rgb")
    pictures = ImageFolder(place, preprocess.image, labelled, classes)
    pictures.name = root.resolve().parent.name if root.name in PARTS else root.resolve().name
    return PairedFiles(pictures, {domain: in_folder(pictures.files, root, domain) for domain in wanted}, preprocess, f"{place.name}/")


class PairedSource(ImageSource):
    """What sets of paired maps share: an item is a mapping from domains to raw maps."""

    preprocess: PairedPreprocess

    def check(self, index: int) -> None:
        self.preprocess.read(self.item(index))


class PairedFiles(PairedSource):
    """Files: those of `pictures` and, for each other domain, one file for each of them."""

    def __init__(self, pictures: ImageFolder, maps: dict[str, Beside], preprocess: PairedPreprocess, inside: str = "") -> None:
        """`inside`: the folder of the pictures, as it stands before the names of samples."""
        self.pictures, self.maps, self.preprocess, self.inside = pictures, maps, preprocess, inside
        self.name, self.classes, self.labels = pictures.name, pictures.classes, pictures.labels

    def __len__(self) -> int:
        return len(self.pictures)

    def item(self, index: int) -> dict[str, Any]:
        files = {"rgb": self.pictures.item(index), **{domain: maps.file(index, self.pictures.files[index]) for domain, maps in self.maps.items()}}
        return {domain: files[STORED[domain]] for domain in self.preprocess.domains}

    def require_files(self) -> None:
        for domain, maps in self.maps.items():
            lacking = sum(not found for found in maps.found)
            try:
                for index, file in enumerate(self.pictures.files):
                    maps.file(index, file)
            except DataError as error:
                raise DataError(f"{error}" + (f" In all {lacking} of {len(self)} pictures have none: zoo data check lists them." if lacking else "")) from None

    def id(self, index: int) -> str:
        return self.inside + self.pictures.id(index)

    def take(self, indices: Sequence[int]) -> Self:
        part = copy.copy(self)
        part.pictures = self.pictures.take(indices)
        part.labels = part.pictures.labels
        part.maps = {domain: maps.take(indices) for domain, maps in self.maps.items()}
        return part

    def describe(self) -> dict[str, Any]:
        return {**self.pictures.describe(), "name": self.name, "domains": ", ".join(("rgb", *self.maps))}


class PairedShards(PairedSource, ImageShards):
    """Tars: the member with one ending (`jpg`) is the picture, the one that ends in `depth.png`, `semseg.npy`, ... a map."""

    def item(self, index: int) -> dict[str, Any]:
        place = int(self.chosen[index])
        found: dict[str, Any] = {}
        for ending in self.shards.endings(place):
            domain = domain_of(ending, arrays=self.preprocess.image.channels not in USUAL)
            if domain is not None:
                if domain in found:
                    raise DataError(f"{self.shards.where(place, ending)} is not the only {domain} of its sample. Expected one.")
                found[domain] = Encoded(self.shards.read(place, (ending,))[ending], self.shards.where(place, ending))
        lacking = [STORED[domain] for domain in self.preprocess.domains if STORED[domain] not in found]
        if lacking:
            expected = "jpg, png, ..." if lacking[0] == "rgb" else f"{lacking[0]}.png, {lacking[0]}.npy, ..."
            raise DataError(f"{self.shards.where(place, '*')} has no {lacking[0]} ({expected}), only {', '.join(self.shards.endings(place))}.")
        return {domain: found[STORED[domain]] for domain in self.preprocess.domains}


class PairedArray(ImageArray):
    """Scenes in memory: pictures as `ImageArray` takes them, and maps (N, H, W) by domain."""

    preprocess: PairedPreprocess

    def __init__(
        self, images: Tensor, maps: dict[str, Tensor], preprocess: PairedPreprocess, labels: Tensor | None = None, classes: Sequence[str] = (),
        name: str = "array", about: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(images, preprocess.image, labels, classes, name, about)
        self.preprocess = preprocess
        self.maps = {domain: self.images if domain == "rgb" else maps[domain][:, None] for domain in preprocess.domains}
        self.fitted: dict[str, Tensor] | None = None
        """What `fetch` reads, once it was called: maps of the model's size."""

    def item(self, index: int) -> dict[str, Any]:
        return {domain: found[index] for domain, found in self.maps.items()}

    check = PairedSource.check

    def fetch(self, indices: list[int], keys: np.ndarray | None = None) -> Batch:
        if self.fitted is None:
            self.fitted = self._fit()
        chosen = torch.as_tensor(indices, dtype=torch.long)
        maps = {domain: found[chosen] for domain, found in self.fitted.items()}
        if self.shift and keys is not None:
            offsets = torch.from_numpy((draws(keys, 2) * (2 * self.shift + 1)).astype(np.int64))  # (B, 2) in 0..2*shift
            maps = shift_batch(maps, offsets, self.shift)
        batch = self.preprocess.finish(maps)
        if self.labels is not None:
            batch["label"] = self.labels[chosen]
        return batch

    def take(self, indices: Sequence[int]) -> Self:
        part = super().take(indices)
        chosen = torch.as_tensor(indices, dtype=torch.long)
        part.maps, part.fitted = {domain: found[chosen] for domain, found in self.maps.items()}, None
        return part

    def _fit(self) -> dict[str, Tensor]:
        image = self.preprocess.image
        if self.images.shape[1:] == (image.channels, *image.size) and image.crop_pct == 1:
            return self.maps
        fitted = [self.preprocess.fit(self.preprocess.read(self.item(i))) for i in range(len(self))]
        return {domain: torch.stack([_tensor(maps[domain]) for maps in fitted]) for domain in self.maps}


def _tensor(found: Any) -> Tensor:
    return found if isinstance(found, Tensor) else to_tensor(found)


def folder_of(root: Path, domain: str) -> Path:
    """The folder of a domain below `root`."""
    found = [root / name for name in FOLDERS[domain] if (root / name).is_dir()]
    if len(found) != 1:
        names = " or ".join(FOLDERS[domain])
        if found:
            raise DataError(f"{root} has both {' and '.join(place.name for place in found)}; expected one of them, with the {domain} maps.")
        there = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
        raise DataError(
            f"{root} has no folder {names}{' with the pictures' if domain == 'rgb' else ' with the maps of the pictures'}; "
            f"its folders: {', '.join(there[:8]) or 'none'}. Expected {root}/rgb/... and, at the same path, {root}/{FOLDERS[domain][0]}/..."
        )
    return found[0]
