"""The ViT classifier with which MAE is fine-tuned or probed (He et al. 2021, section 4 and appendix A).

Computes what facebookresearch/mae@efb2a80 `models_vit.py:VisionTransformer` computes, which is timm's
`VisionTransformer` with `global_pool` "avg" or "token".
"""

from dataclasses import dataclass

from modalities.common import vit_classifier
from modalities.vision.preprocess import ImagePreprocess
from trainer.errors import ConfigError


@dataclass(frozen=True)
class ViTClassifierConfig(vit_classifier.ViTClassifierConfig):
    """A ViT encoder for images (height, width), the way to pool its tokens, and a linear head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool == "token" and not self.class_token:
            raise ConfigError("pool='token' needs class_token=True. Use pool='avg' for an encoder without class token.")


class ViTClassifier(vit_classifier.ViTClassifier):
    """Input `image` (B, C, H, W) float, normalised as `preprocess` says; `forward` gives logits (B, num_classes)."""

    system = "vision/mae-vit"
    config_class = ViTClassifierConfig
    input_key = "image"

    def default_preprocess(self) -> ImagePreprocess | None:
        """ImageNet's statistics for RGB, -1..1 for grey; other channels have no usual ones."""
        return ImagePreprocess.usual(self.config.input_size, self.config.in_chans)
