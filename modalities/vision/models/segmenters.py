"""Semantic segmentation on the encoders of this modality: a class for every pixel, from a vision transformer, from several inputs, or from a convolutional network."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modalities.common.classifier import HeadFields
from modalities.common.loading import Change, Rule
from modalities.common.model import Model
from modalities.common.vit import ViTConfig, ViTEncoder
from modalities.vision.models.convnet import ConvNet, ConvNetConfig
from modalities.vision.models.multi_input import MultiInputConfig, MultiInputEncoder
from modalities.vision.models.segmentation_heads import SegmentationFields, as_map, enlarged, fields_for, head_rules, pyramid_head, run_levels, token_head
from modalities.vision.preprocess import ImagePreprocess
from trainer import config as settings
from trainer.objective import Batch


@dataclass(frozen=True)
class ViTSegmenterConfig(SegmentationFields, ViTConfig):
    """A ViT encoder and a head for pixels."""


@dataclass(frozen=True)
class MultiSegmenterConfig(SegmentationFields, MultiInputConfig):
    """An encoder of several inputs and a head for pixels."""


@dataclass(frozen=True)
class ConvNetSegmenterConfig(SegmentationFields, ConvNetConfig):
    """A convolutional backbone and a head for pixels."""


class Segmenter(Model):
    """What segmenters share: `forward` gives logits (B, num_classes, H, W). The subclass puts its `new_head()` at `head`."""

    base_config: type
    """Config class of the encoder alone."""

    def new_head(self) -> nn.Module:
        """A head with its first values."""
        raise NotImplementedError(f"{type(self).__name__} must define new_head()")

    def outputs(self, batch: Batch) -> dict[str, Tensor]:
        return super().outputs(batch) | {"logits": self(batch)}

    @classmethod
    def from_encoder(cls, encoder: Model, num_classes: int, **changes: Any) -> "Segmenter":
        """A segmenter on the weights of an encoder, with a fresh head (see `built_on`); `changes` are further config fields (head, head_dim, input_size, ...)."""
        return cls.built_on(encoder, cls.for_task("segmentation", encoder.config, num_classes, changes))

    @classmethod
    def for_task(cls, task: str, config: Any, num_outputs: int | None, changes: dict[str, Any]) -> SegmentationFields:
        """A segmenter on an encoder. Without `num_outputs` it keeps the head that it has; with it the head is new."""
        return settings.replace(cls.config_class(**fields_for(cls.config_class, cls.base_config, config, num_outputs, task)), changes)

    def init_new(self, names: set[str]) -> None:
        """The head starts as in a new model; what else is new (an input), as the encoder says."""
        if any(name.startswith("head.") for name in names):
            self.head = self.new_head()
        if not all(name.startswith("head.") for name in names):
            super().init_new(names)


class ViTSegmenter(Segmenter, ViTEncoder):
    """Input `image` (B, C, H, W) float, normalised as `preprocess` says. The encoder has no last norm; the head has its own.

    The position table trains here, unlike in pre-training.
    """

    system = "vision/mae-segmenter"
    config_class = ViTSegmenterConfig
    base_config = ViTConfig
    input_key = "image"
    parts = {"head.": "segmentation head", "": "encoder"}

    def __init__(self, config: ViTSegmenterConfig) -> None:
        super().__init__(config)
        self.norm = nn.Identity()
        self.pos_embed.requires_grad_(True)
        self.head = self.new_head()

    def new_head(self) -> nn.Module:
        return token_head(self.config, self.config.embed_dim)

    def default_preprocess(self) -> ImagePreprocess | None:
        """ImageNet's statistics for RGB, -1..1 for grey; other channels have no usual ones."""
        return ImagePreprocess.usual(self.config.input_size, self.config.in_chans)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, num_classes, H, W)."""
        x = self.prepend_class_token(self.embed_patches(self.input(batch)))
        found = run_levels(self.blocks, x, self.config.levels(self.config.depth))
        return enlarged(self.head([as_map(tokens[:, self.prefix :], self.config.grid) for tokens in found]), self.config.input_size)

    def no_weight_decay(self) -> set[str]:
        return {"cls_token", "pos_embed"}

    @classmethod
    def change_from(cls, source: type[Model], old: ViTConfig, new: ViTSegmenterConfig, new_head: bool = False) -> Change:
        """The encoder's changes; a decoder, a classifier's head and the last norms stay behind."""
        change = super().change_from(source, old, new, new_head)
        fresh, unused = head_rules(old, new, new_head)
        if not isinstance(old, SegmentationFields):
            classifier, pooled = hasattr(old, "pool"), getattr(old, "pool", "") == "avg"
            rules = [Rule(r"fc_norm\..*" if pooled else r"norm\..*", "the segmentation head has norms of its own")]
            if classifier and old.num_classes:
                rules.append(Rule(r"head\..*", "for another task"))
            elif not classifier:
                rules.append(Rule(r"decoder_.*|mask_token", "only pre-training needs it"))
            unused = (*unused, *rules)
        return Change(change.adapted, (*change.new, *fresh), (*change.unused, *unused))


class ConvNetSegmenter(Segmenter, ConvNet):
    """Input as `ConvNet`. The head reads the pyramid of the four stages."""

    system = "vision/convnet-segmenter"
    config_class = ConvNetSegmenterConfig
    base_config = ConvNetConfig
    parts = {"backbone.": "encoder", "head.": "segmentation head"}

    def __init__(self, config: ConvNetSegmenterConfig) -> None:
        super().__init__(config)
        self.head = self.new_head()

    def new_head(self) -> nn.Module:
        return pyramid_head(self.config, self.config.channels)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, num_classes, H, W)."""
        return enlarged(self.head(self.maps(batch)), self.config.input_size)

    @classmethod
    def change_from(cls, source: type[Model], old: ConvNetConfig, new: ConvNetSegmenterConfig, new_head: bool = False) -> Change:
        """The backbone's changes; a decoder and a classifier's head stay behind."""
        change = super().change_from(source, old, new, new_head)
        fresh, unused = head_rules(old, new, new_head)
        if isinstance(old, HeadFields):
            left = [Rule(r"head\..*", "for another task")] if old.num_classes else []
            left += [Rule(r"norm\..*", "the segmentation head has norms of its own")] if old.block == "convnext" else []
            unused = (*unused, *left)
        return Change(change.adapted, (*change.new, *fresh), (*change.unused, *unused))


class MultiSegmenter(Segmenter, MultiInputEncoder):
    """Reads `image`, `depth`, `semseg` as far as they are among its inputs; the head sees their tokens at each place side by side."""

    system = "vision/multivit-segmenter"
    config_class = MultiSegmenterConfig
    base_config = MultiInputConfig
    parts = {"input_adapters.": "inputs", "head.": "segmentation head", "": "encoder"}

    def __init__(self, config: MultiSegmenterConfig) -> None:
        super().__init__(config)
        self.head = self.new_head()

    def new_head(self) -> nn.Module:
        return token_head(self.config, len(self.config.in_domains) * self.config.embed_dim)

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, num_classes, H, W)."""
        inputs = self.inputs(batch)
        domain, first = next(iter(inputs.items()))
        grid = self.grid_in(domain, first)
        x = self.embed_inputs(inputs)
        length = x.shape[1]
        x = torch.cat([x, self.global_tokens.expand(x.shape[0], -1, -1)], dim=1)
        found = run_levels(self.encoder, x, self.config.levels(self.config.depth))
        maps = [as_map(torch.cat(tokens[:, :length].chunk(len(inputs), dim=1), dim=2), grid) for tokens in found]  # each (B, inputs * D, h, w)
        return enlarged(self.head(maps), [n * side for n, side in zip(grid, self.config.patch_size)])

    @classmethod
    def change_from(cls, source: type[Model], old: MultiInputConfig, new: MultiSegmenterConfig, new_head: bool = False) -> Change:
        """The encoder's changes; decoders and a classifier's head stay behind. Other inputs give the head another width: it is new then."""
        change = super().change_from(source, old, new, new_head)
        fresh, unused = head_rules(old, new, new_head or old.in_domains != new.in_domains)
        if not isinstance(old, SegmentationFields):
            unused = (*unused, Rule(r"output_adapters\..*", "only another task needs it"))
        return Change(change.adapted, (*change.new, *fresh), (*change.unused, *unused))
