"""Pictures in other places than a folder: tar shards, and tables that name image files."""

from collections.abc import Sequence
from pathlib import Path

from modalities.common.findings import FindingsSource
from modalities.common.folders import is_table
from modalities.common.sources import ShardSource, TableSource
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.sources import ImageFolder, ImageSource, endings_for
from trainer.errors import ConfigError
from trainer.image_files import EXTENSIONS
from trainer.mixture import Mixture, MixtureConfig
from trainer.shards import is_shards

ENDINGS = tuple(ending.removeprefix(".") for ending in EXTENSIONS)


def open_images(
    path: str | Path, preprocess: ImagePreprocess, labelled: bool = True, classes: Sequence[str] | None = None, columns: Sequence[str] = ()
) -> ImageSource:
    """The pictures that a path or URL names: shards, a table (.csv, .tsv, .jsonl, .parquet), or a folder with image files. DataError when they are not as expected.

    `columns` of a table hold several labels per picture, a yes or no each; ConfigError where there is no table.
    """
    path = str(path)
    if columns:
        require_table(path)
        return ImageFindings(path, preprocess, columns)
    if is_shards(path):
        return ImageShards(path, preprocess, labelled, classes)
    if is_table(path):
        return ImageTable(path, preprocess, labelled, classes)
    return ImageFolder(path, preprocess, labelled, classes)


def require_table(path: str) -> None:
    """Raise ConfigError unless several labels per picture can be read from what lies at a path."""
    if is_shards(path) or not is_table(path):
        raise ConfigError(f"data.label_columns are columns of a table (.csv, .tsv, .jsonl, .parquet), and {path} is none.")


class ImageShards(ShardSource, ImageSource):
    """Pictures in tars."""

    noun = "pictures"

    @property
    def endings(self) -> tuple[str, ...]:
        return tuple(ending.removeprefix(".") for ending in endings_for(self.preprocess.channels))


class ImageTable(TableSource, ImageFolder):
    """Image files that a table names."""


class ImageFindings(FindingsSource, ImageFolder):
    """Image files that a table names, with several labels each."""


class ImageMixture(Mixture):
    """Several sets of pictures without labels as one. What any of them holds out is held out."""

    def __init__(self, parts: Sequence[ImageSource], config: MixtureConfig = MixtureConfig()) -> None:
        names: dict[str, ImageSource] = {}
        for part in parts:
            names[part.name if part.name not in names else f"{part.name}-{len(names) + 1}"] = part
        super().__init__(names, config)
        self.name, self.preprocess, self.classes, self.labels = " + ".join(names), parts[0].preprocess, (), None
        held_out = [part.held_out for part in parts if part.held_out is not None]
        self.held_out = ImageMixture(held_out) if held_out else None
