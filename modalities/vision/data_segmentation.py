"""Which pictures with segmentations a run uses: the config of a set of pairs, and how it is divided."""

from dataclasses import dataclass, field, replace

import torch

from modalities.common.folders import train_and_test
from modalities.vision import digits
from modalities.vision.augment import PretrainAugment
from modalities.vision.data import BUILT_IN, ImageSet, augmented, built_in
from modalities.vision.preprocess_paired import PairedPreprocess
from modalities.vision.sources import ImageSource
from trainer.errors import ConfigError, DataError


@dataclass(frozen=True)
class SegmentationPairs(ImageSet):
    """Pictures (with other inputs, where a model reads them) and the class of every pixel: see `modalities.vision.paired` for the forms.

    `path` may hold `train` and `val` (or `test`), each with `rgb` and `semseg`; "digits-cluttered" is built in.
    """

    class_names: tuple[str, ...] = ()
    """What the classes 0, 1, ... are called. Empty for a built-in set, which names its own."""
    test_path: str | None = None
    """Folder, shards or table to test on. Null: `val`, `valid`, `validation` or `test` beside `train`, else a split."""
    test_fraction: float = 0.2
    """Part that is kept for testing when there is nothing else to test on."""
    split_seed: int = 0
    """Decides that split."""
    samples: int | None = None
    """Labelled pictures to train on. Null: all."""
    subset_seed: int = 0
    """Decides which ones."""
    augment: PretrainAugment = field(default_factory=lambda: PretrainAugment(crop_scale=(0.25, 1.0)))
    """Random changes in training, the same for the picture and its labels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.test_fraction < 1:
            raise ConfigError(f"data.test_fraction must be between 0 and 1, found {self.test_fraction}.")
        if self.samples is not None and self.samples < 1:
            raise ConfigError(f"data.samples must be at least 1 (or null for all), found {self.samples}.")

    def classes(self) -> tuple[str, ...]:
        """Names of the classes. ConfigError when they are not known."""
        self._require_path()
        known = digits.LAYERS if self.path == "digits-cluttered" else self.class_names
        if len(known) < 2:
            raise ConfigError(
                f"Say what the labels 0, 1, ... of {self.path} are called, at least two: --data.class_names background road car ... (found {len(known)} names)."
            )
        if self.class_names not in ((), known):
            raise ConfigError(f"data.class_names are {', '.join(self.class_names)}, but those of {self.path!r} are {', '.join(known)}. Leave them out.")
        return known

    def build(self, preprocess: PairedPreprocess) -> tuple[ImageSource, ImageSource]:
        """(training set, test set); the first augmented and, with `samples`, cut down. The second is held out from the first."""
        train, test = self.build_plain(preprocess)
        train = self._tolerant(augmented(train, self.augment.build(preprocess)))
        train.held_out = test
        return train, test

    def build_plain(self, preprocess: PairedPreprocess) -> tuple[ImageSource, ImageSource]:
        """The same two sets without augmentation."""
        self._require_path()
        if self.path in BUILT_IN:
            train: ImageSource = built_in(self.path, "train", preprocess, self.scenes, 1)
            test: ImageSource = built_in(self.path, "test", preprocess, self.scenes, self.scenes.test_views)
            for part in (train, test):
                part.classes, part.labels = (), None
        else:
            train_path, test_path = train_and_test(self.path, BUILT_IN)
            test_path = self.test_path or test_path
            train = self._open(train_path, preprocess, labelled=False)
            if test_path is None:
                train, test = _split(train, self.test_fraction, self.split_seed)
            else:
                test = self._open(test_path, preprocess, labelled=False)
        if self.samples is not None:
            if self.samples > len(train):
                raise DataError(f"{self.samples} labelled pictures were asked for, and {train.name} has {len(train)} to train on. Ask for fewer or add some.")
            train = train.take(sorted(_order(len(train), self.subset_seed)[: self.samples]))
        return train, self._tolerant(test)


def _split(source: ImageSource, fraction: float, seed: int) -> tuple[ImageSource, ImageSource]:
    """(train, test), each with at least one sample."""
    if len(source) < 2:
        raise DataError(f"{source.name} has {len(source)} sample(s); a split needs at least 2. Give data.test_path.")
    count = min(max(round(len(source) * fraction), 1), len(source) - 1)
    order = _order(len(source), seed)
    return source.take(sorted(order[count:])), source.take(sorted(order[:count]))


def _order(length: int, seed: int) -> list[int]:
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed)).tolist()


def training_preprocess(preprocess: PairedPreprocess, classes: int) -> PairedPreprocess:
    """The preprocessing of inputs, and beside them of the labels of so many classes."""
    return replace(preprocess, domains=(*preprocess.domains, "segmentation"), semseg_classes=classes, semseg_names=())
