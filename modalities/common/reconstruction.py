"""The objective of masked auto-encoding: mean squared error on the hidden patches (He et al. 2021, section 3.3)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from modalities.common.masked_autoencoder import MaskedAutoencoder, Reconstruction
from modalities.common.masking import gather_tokens
from modalities.common.patches import patchify, unpatchify
from trainer.errors import ConfigError
from trainer.objective import Batch, Losses, Objective


@dataclass(frozen=True)
class MaskedReconstructionConfig:
    """What is hidden and what is predicted."""

    mask_ratio: float = 0.75
    """Share of the patches hidden from the encoder. Paper: 0.75 (figure 5)."""
    norm_pix_loss: bool = True
    """Predict each patch normalised by its own mean and standard deviation (better features, paper table 1d).
    Switch it off for pictures with their true contrast."""
    norm_pix_eps: float = 1e-6
    """Added to a patch's variance before the root."""

    def __post_init__(self) -> None:
        if not 0 <= self.mask_ratio < 1:
            raise ConfigError(f"mask_ratio is the share of hidden patches and must be at least 0 and below 1, found {self.mask_ratio}.")


class MaskedReconstruction(Objective):
    """Loss = sum over hidden patches of their mean squared error / number of hidden patches in the batch."""

    fill: ClassVar[float] = 0.0
    """What hidden patches hold in the pictures of `reconstruct`."""

    def __init__(self, model: MaskedAutoencoder, config: MaskedReconstructionConfig) -> None:
        super().__init__()
        self.check(model, config)
        self.model = model
        self.config = config

    def check(self, model: MaskedAutoencoder, config: MaskedReconstructionConfig) -> None:
        """Raise ConfigError when the config asks for what this model cannot do."""
        length = model.patch_embed.length
        if model.visible_count(config.mask_ratio) == length:
            raise ConfigError(
                f"mask_ratio={config.mask_ratio} hides none of the {length} patches, so there is nothing to predict. "
                f"Raise it to at least {1 / model.noise_length:.4g}, or use smaller patches."
            )
        if config.norm_pix_loss and model.patch_values < 2:
            raise ConfigError("norm_pix_loss needs patches of at least 2 values, found 1. Switch it off or use larger patches.")

    def target(self, batch: Batch, ids: Tensor | None = None) -> Tensor:
        """What the prediction is compared with, (B, L, V): the patches, normalised one by one if the config says so; or only those of `ids` (B, M)."""
        patches = self._patches(batch) if ids is None else gather_tokens(self._patches(batch), ids)
        if not self.config.norm_pix_loss:
            return patches
        mean, deviation = self._statistics(patches)
        return (patches - mean) / deviation

    def predict(self, batch: Batch, noise: Tensor | None) -> Reconstruction:
        """A forward pass with what `error` needs of it: the predictions of the hidden patches."""
        return self.model(batch, noise, self.config.mask_ratio, everywhere=False)

    def error(self, out: Reconstruction, batch: Batch) -> Tensor:
        """The scalar loss of a forward pass. Every sample hides as many patches, so it is the mean over all their values."""
        return F.mse_loss(out.prediction.float(), self.target(batch, out.masking.ids_hidden).float())

    def forward(self, batch: Batch, noise: Tensor | None = None) -> Losses:
        return Losses(self.error(self.predict(batch, noise), batch))

    def export(self) -> MaskedAutoencoder:
        return self.model

    @torch.no_grad()
    def reconstruct(self, batch: Batch, noise: Tensor | None = None) -> dict[str, Tensor]:
        """Inputs to look at, each shaped as the input: `original`, `masked` (hidden patches `fill`) and `reconstruction`.

        The reconstruction shows visible patches as they are. With norm_pix_loss, predicted patches get the
        true mean and deviation of the patch, which the model does not know: it is a picture, not a prediction.
        """
        out = self.model(batch, noise, self.config.mask_ratio)
        patches, hidden = self._patches(batch), out.masking.mask[:, :, None]  # (B, L, V), (B, L, 1)
        predicted = out.prediction.float()
        if self.config.norm_pix_loss:
            mean, deviation = self._statistics(patches)
            predicted = predicted * deviation + mean
        shown = {"original": patches, "masked": patches * (1 - hidden) + self.fill * hidden, "reconstruction": torch.lerp(patches, predicted, hidden)}
        config = self.model.config
        return {name: unpatchify(p, config.patch_size, config.grid, config.in_chans) for name, p in shown.items()}

    def _patches(self, batch: Batch) -> Tensor:
        return patchify(self.model.input(batch), self.model.config.patch_size).float()

    def _statistics(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each patch over all its values, (B, L, 1). The variance is the unbiased one (N - 1), as in the official code."""
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        return mean, (variance + self.config.norm_pix_eps).sqrt()
