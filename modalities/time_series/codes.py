"""Sequences of codes with the times at which they came, as of diagnoses: what a batch of them holds, and generated ones.

Keys of a batch: `code` (B, L) int64, 0 for padding at the end, and `time` (B, L) float32, not falling; behind the end of a sequence its last time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from modalities.common.preprocess import Preprocess
from trainer.errors import ConfigError, DataError, shorten
from trainer.generated import Generated
from trainer.objective import Batch

LICENCE = "Apache-2.0"


@dataclass(frozen=True)
class CodesPreprocess(Preprocess):
    """Sequences of codes and times -> batch. One sequence is a mapping of `code` and `time`, or a pair of both; several are a list of such."""

    type: ClassVar[str] = "codes"

    longest: int | None = None
    """Of a longer sequence the newest codes that are kept. Null: all."""

    def __post_init__(self) -> None:
        if self.longest is not None and self.longest < 1:
            raise ConfigError(f"preprocess.longest must be at least 1 (or null), found {self.longest}.")

    def adapted(self, input_shape: tuple[int, ...]) -> "CodesPreprocess":
        """The same: it does not depend on the model."""
        return self

    def require_shape(self, input_shape: tuple[int, ...], where: str) -> None:
        """It fits every model of codes."""

    def __call__(self, raw: Any) -> Batch:
        """{"code" (B, L) int64, "time" (B, L) float32}. DataError for what is empty, of two lengths, no whole number, or not in the order of time."""
        several = raw if isinstance(raw, list) and raw and isinstance(raw[0], (Mapping, tuple)) else [raw]
        pairs = [self._one(one, "the sequence" if len(several) == 1 else f"sequence {i}") for i, one in enumerate(several)]
        longest = max(len(codes) for codes, _ in pairs)
        code = np.stack([np.pad(codes, (0, longest - len(codes))) for codes, _ in pairs])
        time = np.stack([np.pad(times, (0, longest - len(times)), mode="edge") for _, times in pairs])
        return {"code": torch.from_numpy(code), "time": torch.from_numpy(time)}

    def _one(self, raw: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(raw, Mapping):
            raw = (raw.get("code"), raw.get("time"))
        if not isinstance(raw, Sequence) or isinstance(raw, str) or len(raw) != 2:
            raise DataError(f"{where} must be a mapping of code and time or a pair of both, found {shorten(raw)}.")
        try:
            codes, times = np.asarray(raw[0]), np.asarray(raw[1]).astype(np.float32)
        except (TypeError, ValueError) as error:
            raise DataError(f"The times of {where} must be numbers, found {shorten(raw[1])}.") from error
        if codes.ndim != 1 or not len(codes) or codes.dtype.kind not in "iu" or times.shape != codes.shape:
            raise DataError(f"{where} needs whole numbers as codes and a time for each, found {codes.dtype} of shape {codes.shape} and times of shape {times.shape}.")
        if not np.isfinite(times).all() or (np.diff(times) < 0).any():
            raise DataError(f"The times of {where} must be finite and must not fall. Sort its codes by time.")
        return codes.astype(np.int64)[-(self.longest or 0) :], times[-(self.longest or 0) :]


@dataclass(frozen=True)
class VisitsConfig:
    """Generated sequences: each person has a few conditions, each of which brings its own codes in turn, at its own pace."""

    codes: int = 24
    """Codes that there are, numbered from 1."""
    length: int = 32
    """Codes of a sequence."""
    samples: int = 4000
    """Sequences."""
    seed: int = 0
    """Decides the sequences."""

    def __post_init__(self) -> None:
        if self.codes < 6 or self.length < 2 or self.samples < 1 or self.seed < 0:
            raise ConfigError(f"Generated visits need at least 6 codes, a length of 2, a sample and a seed of 0; found {self.codes}, {self.length}, {self.samples} and {self.seed}.")

    def build(self, held_out: bool = False) -> Generated:
        """The source of the sequences, or of others that are held out."""
        return Generated(self._make, self.samples if not held_out else max(self.samples // 10, 1), 2 * self.seed + held_out, "visits", {"source": "generated", "licence": LICENCE})

    def _make(self, index: int) -> dict[str, Tensor]:
        """Two conditions out of `codes` / 6; a condition goes through its six codes again and again. What comes next follows from the last code of each, and when from its pace."""
        conditions = torch.randperm(self.codes // 6)[:2]
        pace, phase = 1 + 9 * torch.rand(len(conditions), 1), torch.randint(6, (len(conditions), 1))
        turns = torch.arange(self.length)
        times = (turns + 0.3 * torch.rand(len(conditions), self.length)) * pace
        codes = 6 * conditions[:, None] + (turns + phase) % 6 + 1
        order = times.flatten().argsort()[: self.length]
        return {"code": codes.flatten()[order], "time": times.flatten()[order]}
