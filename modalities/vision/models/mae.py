"""MAE: masked auto-encoders are scalable vision learners (He et al. 2021, arXiv 2111.06377).

Computes what facebookresearch/mae@efb2a80 `models_mae.py:MaskedAutoencoderViT` computes; weights of the
official and of transformers' layout convert exactly (`modalities.vision.interop.mae`).
"""

from dataclasses import dataclass

from modalities.common.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from modalities.vision.preprocess import ImagePreprocess


@dataclass(frozen=True)
class MAEConfig(MaskedAutoencoderConfig):
    """MAE for images (height, width). The defaults are the paper's base model."""


class MAE(MaskedAutoencoder):
    """Input `image` (B, C, H, W) float: RGB in 0..1, normalised by the ImageNet mean and deviation (the paper's
    models) or as `preprocess` says. `embed` gives the mean patch token (B, D), `tokens` class token and patches."""

    system = "vision/mae"
    config_class = MAEConfig
    input_key = "image"

    def default_preprocess(self) -> ImagePreprocess | None:
        """ImageNet's statistics for RGB, -1..1 for grey; other channels have no usual ones."""
        return ImagePreprocess.usual(self.config.input_size, self.config.in_chans)
