"""Which pictures a run uses: the config of a data set, the built-in sets, splits and labelled subsets.

The batch keys of this modality: "image" (B, C, H, W) float32, normalised by `ImagePreprocess`; "label" (B,) int64,
an index into the source's `classes`, when the set is labelled; and for models of several inputs, as `PairedPreprocess` makes them, "depth"
(B, 1, H, W) float32, "semseg" (B, H / stride, W / stride) int64 and "segmentation" (B, H, W) int64.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from modalities.common.folders import train_and_test
from modalities.common.raw import RawSamples, parts_of
from modalities.common.sources import Augmented, some_of, without_excluded
from modalities.common.splits import Splits
from modalities.vision import digits
from modalities.vision.augment import FinetuneAugment, PretrainAugment
from modalities.vision.bands import USUAL
from modalities.vision.files import ImageMixture, open_images
from modalities.vision.images import as_picture, to_tensor
from modalities.vision.paired import PairedArray, open_pairs
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.preprocess_paired import PairedPreprocess
from modalities.vision.raw_paired import open_raw
from modalities.vision.sources import ImageArray, ImageSource
from trainer.corrupt import SkipCorrupt, check_policy
from trainer.errors import ConfigError, DataError, did_you_mean
from trainer.mixture import MixtureConfig

log = logging.getLogger("zoo")

BUILT_IN = ("digits", "digits-cluttered")
MAX_ERRORS = 100
"""Unreadable pictures that a run puts up with, unless it says otherwise."""


@dataclass(frozen=True)
class ImageSet:
    """Which pictures."""

    path: str = ""
    """"digits", "digits-cluttered" (both built in), a folder, tar shards (`photos-{000..127}.tar`, a folder of tars, an index.json; also
    by http(s):// and hf://), or a table (.csv, .tsv, .jsonl, .parquet with a column `path`). A folder may hold `train` and `val` (or `test`)."""
    scenes: digits.SceneConfig = field(default_factory=digits.SceneConfig)
    """Drawing of "digits-cluttered"; other sets have no scenes."""
    on_error: Literal["raise", "skip"] = "raise"
    """When a picture cannot be read: stop, or take the next one that can be read in its place."""
    max_errors: int = MAX_ERRORS
    """With `on_error` "skip": how many pictures may be unreadable before the run stops."""
    exclude: str | None = None
    """A list of pictures of `path` to leave out, as `zoo data check` writes it."""

    def __post_init__(self) -> None:
        check_policy(self.on_error, self.max_errors, MAX_ERRORS)
        if self.path in BUILT_IN and (self.on_error != "raise" or self.exclude):
            raise ConfigError(f"data.on_error and data.exclude are for files, and {self.path!r} is built in.")
        if self.path != "digits-cluttered" and self.scenes != digits.SceneConfig():
            raise ConfigError(f"data.scenes changes only the built-in set 'digits-cluttered', and data.path is {self.path!r}.")

    def _require_path(self) -> None:
        if not self.path:  # Path("") would be the current folder
            raise ConfigError(f"Say which images to use: --data.path FOLDER, or one of the built-in sets: {', '.join(BUILT_IN)}.")

    def _open(self, path: str, preprocess: ImagePreprocess, **options: Any) -> ImageSource:
        """The pictures of a path without those of `exclude`, whose ids are as seen from `self.path`."""
        source = (open_pairs if isinstance(preprocess, PairedPreprocess) else open_images)(path, preprocess, **options)
        source = without_excluded(source, self.exclude, path, self.path) if self.exclude else source
        if self.on_error == "raise":
            check_images(source)
        return source

    def _tolerant(self, source: ImageSource) -> ImageSource:
        """The source, with the policy of `on_error`."""
        return source if self.on_error == "raise" else SkipCorrupt(source, self.max_errors)


@dataclass(frozen=True)
class UnlabelledImages(ImageSet):
    """Pictures for pre-training, and how they are changed at random."""

    also: tuple[str, ...] = ()
    """More sets to train on together with `path`, named in the same ways."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    """How `path` and `also` are mixed."""
    augment: PretrainAugment = field(default_factory=PretrainAugment)
    """Random changes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.also and self.mixture != MixtureConfig():
            raise ConfigError("data.mixture says how several sets are mixed, and there is only data.path. Name the others: --data.also PATH [PATH ...].")

    def build(self, preprocess: ImagePreprocess) -> ImageSource | ImageMixture:
        """The training pictures without labels, augmented: all images of the folder (of `train`, where there is one).

        Held out: the test part of a built-in set, the folder `val` (or `test`) beside `train`, else nothing.
        """
        alone = replace(self, also=(), mixture=MixtureConfig())
        if self.also:
            others = [replace(alone, path=path, exclude=None, scenes=digits.SceneConfig()) for path in self.also]
            return ImageMixture([part.build(preprocess) for part in (alone, *others)], self.mixture)
        self._require_path()
        if self.path in BUILT_IN:
            source: ImageSource = built_in(self.path, "train", preprocess, self.scenes, self.scenes.views)
            source.held_out = built_in(self.path, "test", preprocess, self.scenes, self.scenes.test_views)
            for part in (source, source.held_out):
                part.classes, part.labels = (), None
        else:
            train, test = train_and_test(self.path, BUILT_IN)
            source = self._open(train, preprocess, labelled=False)
            if test is not None:
                source.held_out = self._tolerant(self._open(test, preprocess, labelled=False))
        return self._tolerant(augmented(source, self.augment.build(preprocess)))


@dataclass(frozen=True)
class LabelledImages(Splits, ImageSet):
    """Pictures in classes for fine-tuning and evaluation: how they are divided, and changed at random in training."""

    label_columns: tuple[str, ...] = ()
    """Columns of a table with several labels per picture: 1 or 0 each, empty or -1 where it is not known. Empty: one class per picture."""
    augment: FinetuneAugment = field(default_factory=FinetuneAugment)
    """Random changes in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.per_class is not None and self.label_columns:
            raise ConfigError("data.per_class counts pictures of one class each, and with data.label_columns they have several labels. Set one of the two back.")
        if len(set(self.label_columns)) < len(self.label_columns):
            raise ConfigError(f"data.label_columns names a column twice: {', '.join(self.label_columns)}.")

    def build(self, preprocess: ImagePreprocess) -> tuple[ImageSource, ImageSource]:
        """(training set, test set); the first augmented and, with `per_class`, cut down. The second is held out from the first."""
        train, test = self._parts(preprocess)
        train.held_out = test = self._tolerant(test)
        if isinstance(train, ImageArray) and self.augment == replace(FinetuneAugment.none(), shift=self.augment.shift):
            train.shift = self.augment.shift  # the array does it itself, a batch at a time
            return train, test
        return self._tolerant(augmented(train, self.augment.build(preprocess))), test

    def build_plain(self, preprocess: ImagePreprocess, classes: Sequence[str] | None = None) -> tuple[ImageSource, ImageSource]:
        """The same two sets without augmentation, as probes and nearest neighbours need them.

        `classes` fixes names and numbers of the classes of a folder.
        """
        train, test = self._parts(preprocess, classes)
        return self._tolerant(train), self._tolerant(test)

    def _parts(self, preprocess: ImagePreprocess, classes: Sequence[str] | None = None) -> tuple[ImageSource, ImageSource]:
        """(training set, test set) as they lie there: no augmentation, no policy."""
        self._require_path()
        if self.path in BUILT_IN:
            if self.label_columns:
                raise ConfigError(f"data.label_columns are columns of a table, and {self.path!r} is built in.")
            train: ImageSource = built_in(self.path, "train", preprocess, self.scenes, 1)
            test: ImageSource = built_in(self.path, "test", preprocess, self.scenes, self.scenes.test_views)
        else:

            def open_part(path: str, known: Sequence[str] | None) -> ImageSource:
                return self._open(path, preprocess, classes=known or classes, columns=self.label_columns)

            train, test = self.divided(self.path, BUILT_IN, "images", open_part)
        return self.few(train), test


def built_in(
    name: str, part: digits.Part, preprocess: ImagePreprocess, scenes: digits.SceneConfig | None = None, views: int = 1
) -> ImageArray:
    """The train or test part of "digits" or "digits-cluttered" (`views` scenes of each digit), labelled."""
    about = {"source": digits.SOURCE, "licence": digits.LICENCE}
    if name == "digits":
        images, labels = digits.load_digits(part)
        images = (images * 255).round().to(torch.uint8)
        about["derivation"] = f"The {part} part of a fixed stratified split of the 1,797 digits, 8x8 pixels."
    elif name == "digits-cluttered":
        scenes = scenes or digits.SceneConfig()
        images, labels = digits.scenes(part, scenes, views)
        about["derivation"] = (
            f"{views} scene(s) of {scenes.canvas}x{scenes.canvas} pixels for each digit of the {part} part of a fixed stratified "
            f"split of the 1,797 digits: centre up to {scenes.travel:g} pixels off the middle, size {scenes.digit_size[0]:g} to {scenes.digit_size[1]:g} pixels, turn of up to "
            f"{scenes.rotation:g} degrees, {scenes.fragments} fragments of train digits, noise {scenes.noise:g}."
        )
    else:
        raise DataError(f"{name!r} is no built-in set.{did_you_mean(name, BUILT_IN)} Built in: {', '.join(BUILT_IN)}.")
    if not isinstance(preprocess, PairedPreprocess):
        return ImageArray(images, preprocess, labels, digits.CLASSES, name, about)
    if name == "digits":
        raise DataError("The built-in set 'digits' has neither depth nor segmentation. Use 'digits-cluttered', whose scenes have both (synthetic).")
    depth, segmentation = digits.scene_layers(part, scenes, views)
    about["derivation"] += " Depth is synthetic: the order of the layers, at random distances; the segmentation says background, digit or fragment."
    maps = {"depth": depth, "semseg": segmentation, "segmentation": segmentation}
    return PairedArray(images, maps, preprocess, labels, digits.CLASSES, name, about)


def raw_parts(path: str, labelled: bool = True) -> dict[str, RawSamples]:
    """What lies at a path or URL, in any format, as files: see `modalities.common.raw.parts_of`."""
    return parts_of(path, labelled, BUILT_IN, "images", open_raw)


def check_images(source: ImageSource, count: int = 16) -> None:
    """Read the first, the last and `count` random images, so that a bad folder is told about at once (DataError)."""
    source.require_files()
    for index in some_of(source, count):
        source.check(index)


def pixel_statistics(source: ImageSource, limit: int = 1000) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of pixels in 0..1, over `limit` samples spread over the source.

    For the `mean` and `std` of an `ImagePreprocess` where ImageNet's do not fit.
    """
    p, step = source.preprocess, max(len(source) // limit, 1)
    pixels = torch.cat([to_tensor(p.fit(as_picture(source.item(i), p.channels))).flatten(1) for i in range(0, len(source), step)], 1)
    return tuple(round(v, 4) for v in pixels.mean(1).tolist()), tuple(round(v, 4) for v in pixels.std(1).tolist())


def measured(data: ImageSet, preprocess: ImagePreprocess, paired: bool = False, limit: int = 128) -> ImagePreprocess:
    """`preprocess` with mean and deviation of each channel over about `limit` training pictures, which is logged.

    A channel that never changes gets a deviation of 1. `paired`: maps lie beside the pictures (see `modalities.vision.paired`).
    """
    plain = replace(preprocess, mean=(0.0,) * preprocess.channels, std=(1.0,) * preprocess.channels)
    plain = PairedPreprocess(plain, ("rgb",), semseg_stride=1) if paired else plain
    policy = {"on_error": data.on_error, "max_errors": data.max_errors, "exclude": data.exclude}
    source = UnlabelledImages(data.path, augment=PretrainAugment.none(), **policy).build(plain)
    count, total, squares = 0, 0.0, 0.0
    chosen = range(0, len(source), max(len(source) // limit, 1))
    for index in chosen:
        pixels = source[index]["image"].flatten(1).double()
        count, total, squares = count + pixels.shape[1], total + pixels.sum(1), squares + pixels.square().sum(1)
    means = total / count
    deviations = (squares / count - means.square()).clamp(min=0).sqrt()
    flat = deviations < 1e-6
    mean, std = (tuple(float(f"{value:.4g}") for value in values.tolist()) for values in (means, deviations.masked_fill(flat, 1)))
    log.info(
        "Mean and deviation of %d channels, measured on %d of %d images and stored with the model: %s and %s%s", preprocess.channels, len(chosen), len(source),
        " ".join(f"{value:g}" for value in mean), " ".join(f"{value:g}" for value in std),
        f" ({int(flat.sum())} channel(s) never change)" if flat.any() else "",
    )  # fmt: skip
    return replace(preprocess, mean=mean, std=std)


def augmented(source: ImageSource, augment: Callable[[Any], Tensor] | None) -> ImageSource:
    return source if augment is None else Augmented(source, augment)


def preprocess_for(data: ImageSet, input_size: tuple[int, int], channels: int, paired: bool = False) -> ImagePreprocess:
    """The preprocessing of a new model: ImageNet's statistics for RGB, 0.5 for grey, those of the data itself for other channels and for a built-in set."""
    preprocess = ImagePreprocess.default(input_size, channels)
    if channels not in USUAL and data.path not in ("", *BUILT_IN):
        return measured(data, preprocess, paired)
    if data.path in BUILT_IN:
        mean, std = pixel_statistics(UnlabelledImages(data.path, data.scenes, augment=PretrainAugment.none()).build(preprocess))
        preprocess = replace(preprocess, mean=mean, std=std)
    return preprocess
