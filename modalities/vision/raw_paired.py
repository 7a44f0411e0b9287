"""Pictures with depth and segmentation beside them, as the files that they are stored in: for packing, checking and showing."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from modalities.common.folders import is_table
from modalities.common.raw import RawFiles, RawSamples, RawShards
from modalities.common.sources import Encoded
from modalities.vision import raw
from modalities.vision.bands import USUAL, own_channels
from modalities.vision.files import ImageTable
from modalities.vision.images import to_tensor
from modalities.vision.masks import BLANK
from modalities.vision.paired import ENDINGS, FOLDERS, Beside, domain_of, folder_of, in_folder, in_table
from modalities.vision.pictures import row_sheet
from modalities.vision.pictures_maps import coloured
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.preprocess_paired import PairedPreprocess
from modalities.vision.sources import ImageFolder
from trainer.errors import DataError
from trainer.packing import Seen
from trainer.shards import is_shards
from trainer.sources import FileTable

MAPS = tuple(domain for domain in FOLDERS if domain != "rgb")
WIDEST = 2**16
"""Class ids lie below this: how many classes there are is known in training only."""
DRAWN = 12
"""Samples on a sheet."""


class PairedRaw(RawSamples):
    """A sample is a picture and a map for each other domain, the members `jpg`, `depth.png`, `semseg.npy`, ..."""

    def maps(self, index: int) -> dict[str, Encoded]:
        """Domain -> content of its file, of all that the sample has. DataError when there is no picture or two of one kind."""
        found: dict[str, Encoded] = {}
        for ending, content in self.members(index).items():
            domain = domain_of(ending, arrays=self.kind is raw.ARRAYS)
            if domain is None:
                continue
            if domain in found:
                raise DataError(f"{self.where(index, ending)} is not the only {domain} of its sample. Expected one.")
            found[domain] = Encoded(content, self.where(index, ending))
        if "rgb" not in found:
            raise DataError(f"{self.id(index)} has maps and no picture ({', '.join(self.members(index))}).")
        return {domain: found[domain] for domain in FOLDERS if domain in found}

    def check(self, index: int) -> Seen:
        members, maps = self.members(index), self.maps(index)
        reader(maps).read(maps)
        form, sides = self.kind.look(maps["rgb"], maps["rgb"].where)
        if "cls" in members:
            self._class(index, members["cls"])
        return Seen(" + ".join([form, *(domain for domain in maps if domain != "rgb")]), sides, sum(map(len, members.values())))

    def draw(self, indices: Sequence[int], path: Path, title: str) -> None:
        """A sheet of samples in columns: the picture, and below it its maps in colours; what cannot be read is grey."""
        shown = [self._drawn(index) for index in indices[:: max(len(indices) // DRAWN, 1)][:DRAWN]]
        grey = np.full((raw.SIDE, raw.SIDE, 3), BLANK[0], np.uint8)
        rows = {domain: np.stack([sample.get(domain, grey) for sample in shown]) for domain in FOLDERS if any(domain in sample for sample in shown)}
        row_sheet(rows or {"cannot be read": np.stack([grey] * len(shown))}, path, title)

    def _drawn(self, index: int) -> dict[str, np.ndarray]:
        """Domain -> picture (SIDE, SIDE, 3); of a sample that cannot be read nothing."""
        try:
            maps = self.maps(index)
            preprocess, picture = reader(maps), raw.visible(maps["rgb"], maps["rgb"].where)
            fitted = preprocess.fit({**preprocess.read(maps), "rgb": picture})
        except DataError:
            return {}
        tensors = {domain: found if isinstance(found, Tensor) else to_tensor(found) for domain, found in fitted.items()}
        ready = preprocess.finish({domain: found[None] for domain, found in tensors.items() if domain != "rgb"}) | {"rgb": tensors["rgb"][None]}
        return {domain: coloured(domain, ready[domain], None, size=(raw.SIDE, raw.SIDE))[0] for domain in maps}


class RawPairs(PairedRaw, RawFiles):
    """Files on this disk."""

    def __init__(self, pictures: RawFiles, form: str, maps: dict[str, Beside], inside: str = "") -> None:
        """`inside`: what stands before the names of samples."""
        super().__init__(pictures.kind, pictures.source, form)
        self.beside, self.inside = maps, inside

    def id(self, index: int) -> str:
        return self.inside + super().id(index)

    def where(self, index: int, ending: str) -> str:
        domain = domain_of(ending)
        return str(self._files(index)[domain]) if domain in self.beside else super().where(index, ending)

    def stamp(self, index: int) -> str:
        return " ".join([super().stamp(index), *(f"{domain} {path.name} {path.stat().st_mtime_ns}" for domain, path in self._files(index).items() if path.exists())])

    def members(self, index: int) -> dict[str, bytes]:
        found = super().members(index)
        for domain, path in self._files(index).items():
            try:
                found[f"{domain}{path.suffix.lower()}"] = path.read_bytes()
            except OSError as error:
                raise DataError(f"{path} cannot be read ({error.strerror}).") from error
        return found

    def _files(self, index: int) -> dict[str, Path]:
        """Domain -> the file of its map. DataError when there is none or more than one."""
        return {domain: maps.file(index, self.source.files[index]) for domain, maps in self.beside.items()}


class RawPairShards(PairedRaw, RawShards):
    """Tars."""

    format = "tar shards of pictures with maps"


def reader(maps: dict[str, Encoded]) -> PairedPreprocess:
    """What reads and fits the maps of a sample, of any classes, for looking at them; the picture with channels of other numbers than 1 and 3 as they are."""
    channels = own_channels(maps["rgb"], maps["rgb"].where)
    return PairedPreprocess(ImagePreprocess.default(raw.SIDE, 3 if channels in (0, *USUAL) else channels), tuple(maps), WIDEST, semseg_stride=1)


def open_raw(path: str, labelled: bool = True, classes: Sequence[str] | None = None) -> RawSamples:
    """The pictures of a path or URL as files, with the maps beside them where there are some (see `modalities.vision.paired`)."""
    plain = raw.open_raw
    if is_shards(path):
        found = plain(path, labelled, classes)
        if not any(domain_of(ending) in MAPS for ending in found.shards.endings(0)):
            return found
        plain_members = [ending for ending in found.shards.endings(0) if "." not in ending]
        return RawPairShards(raw.ARRAYS if raw.arrays_count(plain_members) else raw.KIND, path)
    if is_table(path):
        columns = FileTable(path).columns
        wanted = [domain for domain in MAPS if domain in columns]
        if not wanted:
            return plain(path, labelled, classes)
        pictures = plain(path, labelled, classes)
        maps = {domain: in_table(pictures.source, path, domain) for domain in wanted}
        return RawPairs(pictures, f"table of {ImageTable.noun} files with {' and '.join(wanted)}", maps)
    root = Path(path)
    wanted = [domain for domain in MAPS if _has_maps(root, domain)]
    if not wanted or not any((root / name).is_dir() for name in FOLDERS["rgb"]):
        return plain(path, labelled, classes)
    place = folder_of(root, "rgb")
    pictures = plain(str(place), labelled, classes)
    pictures.source.name = root.resolve().name
    maps = {domain: in_folder(pictures.source.files, root, domain) for domain in wanted}
    return RawPairs(pictures, f"folder of {ImageFolder.noun}s with {' and '.join(wanted)}", maps, f"{place.name}/")


def _has_maps(root: Path, domain: str) -> bool:
    """Whether a folder of a domain lies below `root` with a file in it that could be a map."""
    places = [root / name for name in FOLDERS[domain] if (root / name).is_dir()]
    return any(path.suffix.lower() in ENDINGS for place in places for path in place.rglob("*"))
