"""Pre-training by masked reconstruction of tubelets (Tong et al. 2022, arXiv 2203.12602, section 3; official engine_for_pretraining.py)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from modalities.common.patches import patchify
from modalities.common.reconstruction import MaskedReconstruction, MaskedReconstructionConfig
from modalities.video.models.videomae import VideoMAE
from modalities.video.preprocess import VideoPreprocess
from trainer.objective import Batch


@dataclass(frozen=True)
class VideoMAEObjectiveConfig(MaskedReconstructionConfig):
    """The paper's objective: hide 90 % of the tubes, predict the normalised pixels of their tubelets."""

    mask_ratio: float = 0.9
    """Share of the places of a frame that are hidden in all frames. Paper: 0.9 (0.75 for UCF101)."""
    norm_pix_loss: bool = True
    """Predict each tubelet normalised by its own mean and standard deviation, each colour channel by itself."""
    norm_pix_eps: float = 1e-6
    """Added to a tubelet's standard deviation."""

    def build(self, model: VideoMAE) -> "TubeletReconstruction":
        """The objective around a model."""
        return TubeletReconstruction(model, self)


class TubeletReconstruction(MaskedReconstruction):
    """Loss = mean squared error over the values of all hidden tubelets. Targets are pixels in 0..1, or normalised ones."""

    fill = 0.5

    def _patches(self, batch: Batch) -> Tensor:
        """(B, L, V) pixels in 0..1: the normalisation of the input is undone."""
        video = self.model.input(batch).float()
        preprocess = self.model.preprocess or self.model.default_preprocess()
        if isinstance(preprocess, VideoPreprocess):
            video = preprocess.pixels(video)
        return patchify(video, self.model.config.patch_size)

    def _statistics(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each tubelet and channel, (B, L, V). The variance is the unbiased one; epsilon is added to its root."""
        values = math.prod(self.model.config.patch_size)
        variance, mean = torch.var_mean(patches.unflatten(2, (values, -1)), dim=2)  # (B, L, C)
        return mean.repeat(1, 1, values), (variance.sqrt() + self.config.norm_pix_eps).repeat(1, 1, values)
