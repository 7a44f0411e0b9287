"""Frozen image encoders that a student learns from: any of timm's, or any vision transformer that the zoo can load."""

from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common import pretrained
from modalities.common.model import Model
from modalities.common.vit import ViTEncoder
from modalities.vision.preprocess import ImagePreprocess
from trainer.errors import CheckpointError, ConfigError, ModelError, UnknownNameError, did_you_mean

TIMM = "timm:"
"""What names of timm's models begin with: timm:vit_base_patch16_clip_224.openai, timm:local-dir:FOLDER, timm:hf-hub:NAMESPACE/NAME."""


class Teacher(nn.Module):
    """A network and what its input must look like: `size` (height, width), `channels`, `mean` and `std` of pixels in 0..1."""

    def __init__(self, network: nn.Module, preprocess: ImagePreprocess) -> None:
        super().__init__()
        self.network, self.preprocess = network, preprocess

    def adapted(self, image: Tensor, student: ImagePreprocess) -> Tensor:
        """Images normalised for a student (B, C, H, W), as this network takes them: its mean and deviation, its size, its channels.

        Exact, without clipping, where sizes agree. ModelError for coloured images and a grey teacher.
        """
        own = self.preprocess
        if student.channels != own.channels and student.channels != 1:
            raise ModelError(f"The teacher takes {own.channels} channel(s) and the student {student.channels}. Choose a teacher for colour.")
        if (student.mean, student.std, student.channels) != (own.mean, own.std, own.channels):
            pixels = image * _column(student.std, image) + _column(student.mean, image)
            image = (pixels - _column(own.mean, image)) / _column(own.std, image)  # a grey picture becomes as many channels as `own` has
        if image.shape[2:] != own.size:
            image = F.interpolate(image, size=own.size, mode="bicubic", align_corners=False, antialias=True)
        return image


class Classifier(Teacher):
    """A teacher that names classes. `names` are theirs, empty when unknown."""

    def __init__(self, network: nn.Module, preprocess: ImagePreprocess, names: tuple[str, ...] = ()) -> None:
        super().__init__(network, preprocess)
        self.names = names
        with torch.no_grad():
            self.classes = self.logits(torch.zeros(1, preprocess.channels, *preprocess.size), preprocess).shape[1]
            """How many."""

    def logits(self, image: Tensor, student: ImagePreprocess) -> Tensor:
        """What it says of a student's images, (B, K)."""
        image = self.adapted(image, student)
        return self.network({self.network.input_key: image} if isinstance(self.network, Model) else image)


class Encoder(Teacher):
    """A teacher whose last features lie on a grid."""

    def __init__(self, network: nn.Module, preprocess: ImagePreprocess) -> None:
        super().__init__(network, preprocess)
        with torch.no_grad():
            features, token = self.network_features(torch.zeros(1, preprocess.channels, *preprocess.size))
        self.width = features.shape[1]
        """Channels of its features."""
        self.has_class_token = token is not None

    def network_features(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features (B, C, h, w) of adapted images and, of a transformer that has one, the class token (B, C), all after the final norm."""
        raise NotImplementedError(f"{type(self).__name__} must define network_features(image)")

    def features(self, image: Tensor, student: ImagePreprocess, grid: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """What it says of a student's images on the student's grid, (B, h * w, C) in raster order (bicubic where its own grid differs), and of the class token."""
        found, token = self.network_features(self.adapted(image, student))
        if found.shape[2:] != grid:
            found = F.interpolate(found.float(), size=grid, mode="bicubic", align_corners=False)
        return found.flatten(2).transpose(1, 2), token


class ZooEncoder(Encoder):
    """A vision transformer of the zoo."""

    def network_features(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        tokens, model = self.network.tokens({self.network.input_key: image}), self.network
        patches = tokens[:, model.prefix :].transpose(1, 2).unflatten(2, model.config.grid)
        return patches, tokens[:, 0] if model.prefix else None


class TimmEncoder(Encoder):
    """Any network of timm that gives its intermediate features (transformers and convnets)."""

    def network_features(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        prefixed = {"return_prefix_tokens": True} if getattr(self.network, "num_prefix_tokens", 0) else {}
        last = self.network.forward_intermediates(image, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True, **prefixed)[-1]
        features, prefix = last if prefixed else (last, None)
        return features, prefix[:, 0] if prefix is not None and getattr(self.network, "cls_token", None) is not None else None


def open_encoder(name: str) -> Encoder:
    """The encoder that `name` stands for: `timm:NAME`, or what `zoo.from_pretrained` takes (a name, a run, a folder, a Hub id).

    Raises UnknownNameError or CheckpointError when there is no such network or no weights of it, ModelError when it gives no features on a grid.
    """
    if name.startswith(TIMM):
        network = open_timm(name, num_classes=0)
        if not hasattr(network, "forward_intermediates"):
            raise ModelError(f"{name} is a {type(network).__name__}, of which timm gives no features on a grid. Choose a transformer or a convnet.")
        return TimmEncoder(network, timm_preprocess(network))
    network = pretrained.load(name)
    if not isinstance(network, ViTEncoder) or not isinstance(network.preprocess, ImagePreprocess):
        raise ModelError(f"{name} is a {type(network).__name__} and no encoder of images with its preprocessing, which a teacher must be.")
    return ZooEncoder(network, network.preprocess)


def open_classifier(name: str) -> Classifier:
    """The classifier that `name` stands for: `timm:NAME` with its head, or a classifier of the zoo.

    Raises UnknownNameError or CheckpointError as `open_encoder` does, ModelError when it names no classes.
    """
    if name.startswith(TIMM):
        network = open_timm(name)
        if not network.num_classes:
            raise ModelError(f"{name} has no head, so it names no classes. Choose weights of a classifier.")
        return Classifier(network, timm_preprocess(network))
    network = pretrained.load(name)
    config = network.config
    if not getattr(config, "num_classes", 0) or config.multi_label or not isinstance(network.preprocess, ImagePreprocess):
        raise ModelError(f"{name} is a {type(network).__name__} and no classifier of images, one class each, with its preprocessing, which a teacher must be.")
    return Classifier(network, network.preprocess, config.class_names)


def open_timm(name: str, **options: Any) -> nn.Module:
    """timm's network `timm:NAME` with its weights; `options` go to `timm.create_model`. UnknownNameError, or CheckpointError without weights."""
    own = name.removeprefix(TIMM)
    architecture = own.partition(".")[0]
    if ":" not in own and not timm.is_model(architecture):
        raise UnknownNameError(f"timm has no network {own!r}.{did_you_mean(architecture, timm.list_models())}")
    try:
        return timm.create_model(own, pretrained=True, **options)
    except (RuntimeError, OSError, ValueError) as error:
        raise CheckpointError(
            f"timm cannot open {own} with its weights: {str(error).splitlines()[0] if str(error) else type(error).__name__}. It downloads them from the Hub once; "
            f"without a connection give a folder, as in {TIMM}local-dir:FOLDER."
        ) from error


def timm_preprocess(network: nn.Module) -> ImagePreprocess:
    """The preprocessing that timm stores with a network. ConfigError when it is for more channels than pictures may have."""
    found = resolve_model_data_config(network)
    channels, *size = found["input_size"]
    mean, std = (tuple(values) if len(values) == channels else tuple(values[:1]) * channels for values in (found["mean"], found["std"]))
    if found["interpolation"] not in ("bicubic", "bilinear", "nearest"):
        raise ConfigError(f"timm says that this network's images are resized by {found['interpolation']!r}; known are bicubic, bilinear and nearest.")
    return ImagePreprocess(tuple(size), channels, mean, std, found["interpolation"], found["crop_pct"])


def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
    """(C, 1, 1), as the images are."""
    return torch.tensor(values, device=like.device, dtype=like.dtype).view(-1, 1, 1)
