"""Generated ECG records for demos and tests: sums of waves per beat, with findings in rhythm and shape. They are no substitute for real ones.

Keys of a batch: `series` (B, 12, T), each lead with mean 0 and deviation 1, `label` (B, K) float32 of the FINDINGS, and `unlabelled` (B, 12, T) of other records.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.errors import ConfigError
from trainer.generated import Generated

FINDINGS = ("fast", "slow", "irregular", "wide")
"""Rate above 100, rate below 60, beats at uneven times, a broad QRS complex."""
LEADS = 12
WAVES = torch.tensor([[-0.18, 0.025, 0.15], [-0.03, 0.010, -0.15], [0.0, 0.012, 1.0], [0.03, 0.010, -0.25], [0.26, 0.050, 0.30]])
"""P, Q, R, S and T: seconds from the beat, width in seconds, height."""


@dataclass(frozen=True)
class ECGConfig:
    """Which records."""

    length: int = 1024
    """Points of a record."""
    rate: float = 100.0
    """Points per second."""
    noise: float = 0.05
    """Deviation of the noise."""
    samples: int = 2000
    """Records of the train part."""
    test_samples: int = 500
    """Records of the test part."""
    seed: int = 0
    """Decides the records."""

    def __post_init__(self) -> None:
        if self.length < 64 or self.rate <= 0 or self.noise < 0 or min(self.samples, self.test_samples) < 1 or self.seed < 0:
            raise ConfigError(f"Generated ECG needs a length of at least 64, a rate above 0, noise of at least 0 and samples of at least 1, found {self}.")

    def build(self, test: bool = False) -> Generated:
        """The source of the train part, or of the test part."""
        about = {"source": "generated", "licence": "Apache-2.0", "findings": ", ".join(FINDINGS)}
        return Generated(self._make, self.test_samples if test else self.samples, 2 * self.seed + test, "generated ECG", about)

    def _make(self, _: int) -> dict[str, Tensor]:
        record, label = self.record()
        return {"series": record, "label": label, "unlabelled": self.record()[0]}

    def record(self) -> tuple[Tensor, Tensor]:
        """A record (12, T) and its findings (K,), from torch's random numbers."""
        pace, irregular, wide = int(torch.randint(3, ())), bool(torch.rand(()) < 0.4), bool(torch.rand(()) < 0.4)
        low, high = ((62, 98), (104, 150), (40, 57))[pace]
        gap = 60 / (low + (high - low) * float(torch.rand(())))
        seconds = self.length / self.rate
        count = int(seconds / gap) + 3
        uneven = (0.5 if irregular else 0.03) * (torch.rand(count) - 0.5)
        beats = gap * (torch.arange(count) - 1 + uneven + float(torch.rand(())))
        waves = WAVES.clone()
        waves[1:4, 1] *= 2.5 if wide else 1.0
        waves[1:4, 0] *= 2.0 if wide else 1.0
        time = torch.arange(self.length) / self.rate
        away = time - beats[:, None, None] - (waves[:, 0] * min(1.0, gap**0.5))[:, None]  # (beats, waves, T)
        shapes = (-0.5 * (away / waves[:, 1][:, None]) ** 2).exp().sum(0) * waves[:, 2][:, None]  # (waves, T)
        leads = 1 + 0.6 * torch.randn(LEADS, len(waves))
        record = leads @ shapes + self.noise * torch.randn(LEADS, self.length)
        record = (record - record.mean(1, keepdim=True)) / record.std(1, keepdim=True)
        return record, torch.tensor([pace == 1, pace == 2, irregular, wide]).float()
