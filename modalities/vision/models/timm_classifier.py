"""Any classifier of timm as a model of the zoo: convnets and transformers under their names in timm, with timm's own code.

Its tensors have timm's names behind `network.`; `zoo export NAME --to timm` writes it for timm itself.
"""

from dataclasses import dataclass
from typing import ClassVar

import timm
import torch
from torch import Tensor

from modalities.common.classifier import check_names
from modalities.vision.models.image_model import ImageModel
from trainer.errors import ConfigError, did_you_mean
from trainer.objective import Batch


@dataclass(frozen=True)
class TimmClassifierConfig:
    """Which network, for which input and how many classes."""

    architecture: str = "resnet50d"
    """A name of timm's (`timm.list_models()`), without a tag for weights."""
    input_size: tuple[int, int] = (224, 224)
    """Height and width of the input, in pixels."""
    in_chans: int = 3
    """Input channels."""
    num_classes: int = 1000
    """Outputs of the head."""
    class_names: tuple[str, ...] = ()
    """What the outputs stand for, in order; empty when unknown."""
    multi_label: ClassVar[bool] = False
    """One class is right."""

    def __post_init__(self) -> None:
        if not timm.is_model(self.architecture):
            raise ConfigError(f"timm has no network {self.architecture!r}.{did_you_mean(self.architecture, timm.list_models())}")
        if min(*self.input_size, self.in_chans, self.num_classes) < 1:
            raise ConfigError(f"input_size, in_chans and num_classes must be at least 1, found {self.input_size}, {self.in_chans} and {self.num_classes}.")
        check_names(self.class_names, self.num_classes)


class TimmClassifier(ImageModel):
    """Input `image` (B, C, H, W) float, normalised as `preprocess` says; `forward` gives logits (B, num_classes).

    `tokens` are the last features (B, N, D), of a convnet the places of its map in raster order; `embed` is what the head sees, (B, D).
    """

    system = "vision/ssld"
    config_class = TimmClassifierConfig

    def __init__(self, config: TimmClassifierConfig) -> None:
        super().__init__(config)
        self.network = timm.create_model(config.architecture, **self.arguments())

    def arguments(self) -> dict[str, object]:
        """What timm is told of the network beside its name."""
        c = self.config
        with torch.device("meta"):  # only transformers have a size of their own
            fixed = hasattr(timm.create_model(c.architecture), "set_input_size")
        return {"in_chans": c.in_chans, "num_classes": c.num_classes, **({"img_size": list(c.input_size)} if fixed else {})}

    def tokens(self, batch: Batch) -> Tensor:
        return self._as_tokens(self.network.forward_features(self.input(batch)))

    def embed(self, batch: Batch) -> Tensor:
        return self.network.forward_head(self.network.forward_features(self.input(batch)), pre_logits=True)

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        found = self.network.forward_features(self.input(batch))
        head = self.network.forward_head
        return {"features": head(found, pre_logits=True), "tokens": self._as_tokens(found), "logits": head(found)}

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, num_classes)."""
        return self.network(self.input(batch))

    def _as_tokens(self, found: Tensor) -> Tensor:
        """timm's last features, (B, C, H, W), (B, H, W, C) or (B, N, C), as (B, N, C)."""
        if found.ndim == 4:
            return found.flatten(1, 2) if getattr(self.network, "output_fmt", "NCHW") == "NHWC" else found.flatten(2).transpose(1, 2)
        return found
