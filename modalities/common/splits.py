"""How a labelled set is divided into a training and a test part, and cut down to few labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modalities.common.folders import labelled_subset, split, train_and_test
from modalities.common.sources import L
from trainer.errors import ConfigError


@dataclass(frozen=True)
class Splits:
    """Fields of the config of a labelled set. It stands before the set's own config among the bases of a dataclass, which it extends."""

    test_path: str | None = None
    """Folder, shards or table with the test samples. Null: `val`, `valid`, `validation` or `test` beside `train`, else a split."""
    test_fraction: float = 0.2
    """Part of each class that is kept for testing when there is no test folder."""
    split_seed: int = 0
    """Decides that split."""
    per_class: int | None = None
    """Labelled samples per class to train on. Null: all."""
    subset_seed: int = 0
    """Decides which ones."""

    def __post_init__(self) -> None:
        super().__post_init__()  # of the set's config
        if not 0 < self.test_fraction < 1:
            raise ConfigError(f"data.test_fraction must be between 0 and 1, found {self.test_fraction}.")
        if self.per_class is not None and self.per_class < 1:
            raise ConfigError(f"data.per_class must be at least 1 (or null for all), found {self.per_class}.")

    def divided(self, path: str, built_in: Sequence[str], what: str, open_part: Callable[[str, Sequence[str] | None], L]) -> tuple[L, L]:
        """(training set, test set) of files at `path`; `open_part(path, classes)` opens one, classes numbered as given or by itself."""
        train_path, test_path = train_and_test(path, built_in, what)
        test_path = self.test_path or test_path
        train = open_part(train_path, None)
        if test_path is None:
            return split(train, self.test_fraction, self.split_seed)
        return train, open_part(test_path, train.classes)

    def few(self, train: L) -> L:
        """`per_class` samples of each class, or all."""
        return train if self.per_class is None else labelled_subset(train, self.per_class, self.subset_seed)
