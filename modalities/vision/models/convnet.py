"""Convolutional backbones: timm's ResNet (He et al. 2015, arXiv 1512.03385) and ConvNeXt (Liu et al. 2022, arXiv 2201.03545).

`ConvNet` is a backbone alone, what SparK leaves behind; `ConvNetClassifier` has a head. Parameter names are timm's, behind `backbone.`.
Letters: B batch, C channels, D width of the last stage, h x w its map.
"""

import re
from dataclasses import dataclass
from typing import Literal

from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.classifier import Classifier, HeadFields
from modalities.common.loading import Adaptation, Change, Rule
from modalities.common.model import Model
from modalities.common.patches import adapt_patch_embedding
from modalities.vision.models.image_model import ImageModel
from modalities.vision.models.masked_convnet import MaskedBasicBlock, MaskedBottleneck, MaskedConvNeXt, MaskedResNet, Visible
from trainer.errors import ConfigError
from trainer.objective import Batch

STRIDE = 32
"""Pixels along a side of the image for one place of the last map."""
STAGES = 4
NORM_EPS = 1e-6
"""Epsilon of ConvNeXt's norms, timm's and the official one."""


@dataclass(frozen=True)
class ConvNetConfig:
    """Architecture of a backbone. The defaults are ResNet-50 at 224 pixels."""

    input_size: int | tuple[int, int] = (224, 224)
    """Height and width of the images, multiples of 32. One number stands for both."""
    in_chans: int = 3
    """Input channels."""
    block: Literal["basic", "bottleneck", "convnext"] = "bottleneck"
    """basic: ResNet-18 and -34. bottleneck: ResNet-50 and above. convnext: ConvNeXt."""
    depths: tuple[int, ...] = (3, 4, 6, 3)
    """Blocks of each of the four stages."""
    widths: tuple[int, ...] = (64, 128, 256, 512)
    """Channels of each stage, for bottlenecks inside of the blocks (their outputs have four times as many)."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last block; it grows linearly from 0 at the first."""

    def __post_init__(self) -> None:
        size = (self.input_size,) * 2 if isinstance(self.input_size, int) else tuple(self.input_size)
        object.__setattr__(self, "input_size", size)
        if min(size) < STRIDE or any(side % STRIDE for side in size):
            raise ConfigError(f"input_size must be multiples of {STRIDE} pixels, the stride of the last stage, found {size}.")
        for name in ("depths", "widths"):
            value = tuple(getattr(self, name))
            object.__setattr__(self, name, value)
            if len(value) != STAGES or min(value) < 1:
                raise ConfigError(f"{name} must be {STAGES} numbers of at least 1, one for each stage, found {value}.")
        if self.in_chans < 1:
            raise ConfigError(f"in_chans must be at least 1, found {self.in_chans}.")
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"drop_path is a rate from 0 up to but not 1, found {self.drop_path}.")
        if self.block != "convnext" and sum(self.depths) == 1 or self.widths[0] > 2**16:
            raise ConfigError(f"depths and widths describe no network that can be built, found {self.depths} and {self.widths}.")

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the maps that the stages give."""
        factor = MaskedBottleneck.expansion if self.block == "bottleneck" else 1
        return tuple(factor * width for width in self.widths)

    @property
    def embed_dim(self) -> int:
        """Width of the features."""
        return self.channels[-1]

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the last map."""
        return self.input_size[0] // STRIDE, self.input_size[1] // STRIDE

    @property
    def patch_size(self) -> tuple[int, int]:
        """Pixels for one place of the last map, along each axis."""
        return STRIDE, STRIDE

    @property
    def stem(self) -> str:
        """Name of the convolution that reads the image, in timm."""
        return "stem.0" if self.block == "convnext" else "conv1"


class ConvNet(ImageModel):
    """Input `image` (B, C, H, W) float: RGB in 0..1, normalised by the ImageNet mean and deviation, or as `preprocess` says.

    `maps` gives the pyramid, `tokens` the places of the last map (B, h*w, D) in raster order, `embed` their mean (B, D); the mean of a
    ConvNeXt is normed as timm does it before a head, here without weights.
    """

    system = "vision/convnet"
    config_class = ConvNetConfig
    parts = {"backbone.": "encoder"}

    def __init__(self, config: ConvNetConfig) -> None:
        super().__init__(config)
        shared = {"in_chans": config.in_chans, "drop_path_rate": config.drop_path, "depths": config.depths}
        if config.block == "convnext":
            self.backbone = MaskedConvNeXt(dims=config.widths, **shared)
        else:
            block = MaskedBottleneck if config.block == "bottleneck" else MaskedBasicBlock
            layers = list(shared.pop("depths"))
            self.backbone = MaskedResNet(block, layers, num_classes=0, channels=config.widths, **shared)

    def maps(self, batch: Batch, visible: Visible | None = None) -> list[Tensor]:
        """The maps of the four stages (B, C_i, H/2^(i+2), W/2^(i+2)), the finest first; with `visible`, those of the visible places alone."""
        return self.backbone.maps(self.input(batch), visible)

    def tokens(self, batch: Batch) -> Tensor:
        return self.maps(batch)[-1].flatten(2).transpose(1, 2)

    def embed(self, batch: Batch) -> Tensor:
        return self.pooled(self.tokens(batch))

    def pooled(self, tokens: Tensor) -> Tensor:
        """(B, h*w, D) -> (B, D): the mean of the places."""
        mean = tokens.mean(dim=1)
        return F.layer_norm(mean, mean.shape[1:], eps=NORM_EPS) if self.config.block == "convnext" else mean

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        tokens = self.tokens(batch)
        return {"features": self.pooled(tokens), "tokens": tokens}

    def layer_ids(self) -> dict[str, int]:
        """Depth of each parameter for layer decay by timm's own groups: the stem, each block, and after them what is not the backbone's."""
        inside = group_parameters(self.backbone, self.backbone.group_matcher(coarse=False), reverse=True)
        found = {f"backbone.{name}": depth for name, depth in inside.items()}
        return {name: found.get(name, max(found.values()) + 1) for name, _ in self.named_parameters()}

    @classmethod
    def change_from(cls, source: type[Model], old: ConvNetConfig, new: ConvNetConfig, new_head: bool = False) -> Change:
        """Other channels adapt the first convolution; of a SparK model only the backbone stays."""
        adapted = {}
        if old.in_chans != new.in_chans:
            how = f"{old.in_chans} channels to {new.in_chans}"
            adapted[f"backbone.{new.stem}.weight"] = Adaptation(how, lambda weight: adapt_patch_embedding(weight, new.in_chans, weight.shape[2:]))
        only_there = tuple(part for part in source.parts if part not in ConvNetClassifier.parts)  # a decoder, a projection
        return Change(adapted, unused=() if source is cls else tuple(Rule(rf"{re.escape(part)}.*", "only pre-training needs it") for part in only_there))


@dataclass(frozen=True)
class ConvNetClassifierConfig(ConvNetConfig, HeadFields):
    """A backbone and a linear head on the mean of its last map."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_head()


class ConvNetClassifier(Classifier, ConvNet):
    """Input as `ConvNet`; `forward` gives logits (B, num_classes). The norm of a ConvNeXt's mean has weights here, as in timm."""

    system = "vision/convnet-classifier"
    config_class = ConvNetClassifierConfig
    encoder_config = ConvNetConfig
    parts = {"backbone.": "encoder", "norm.": "norm of the mean", "head.": "classification head"}

    def __init__(self, config: ConvNetClassifierConfig) -> None:
        super().__init__(config)
        if config.block == "convnext":
            self.norm = self._new_norm()
        self.head = self.new_head()
        self.freeze()

    def _new_norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.config.embed_dim, eps=NORM_EPS)

    def pooled(self, tokens: Tensor) -> Tensor:
        """(B, h*w, D) -> what the head sees, (B, D): the mean, of a ConvNeXt normed."""
        return self.norm(tokens.mean(dim=1)) if self.config.block == "convnext" else tokens.mean(dim=1)

    @classmethod
    def change_from(cls, source: type[Model], old: ConvNetConfig, new: ConvNetClassifierConfig, new_head: bool = False) -> Change:
        """The backbone's changes; the norm of a ConvNeXt's mean and the head are new on a backbone alone."""
        change = super().change_from(source, old, new, new_head)
        if new.block == "convnext" and not isinstance(old, ConvNetClassifierConfig):
            change = Change(change.adapted, (*change.new, Rule(r"norm\..*", "the norm of the mean")), change.unused)
        return cls.head_change(change, old, new, new_head)

    def init_new(self, names: set[str]) -> None:
        """The head and the norm before it start as in a new model."""
        if any(name.startswith("norm.") for name in names):
            self.norm = self._new_norm()
        super().init_new(names)
