"""A frozen image encoder that looks at a clip frame by frame: tokens of several layers, where it attends, one feature per frame.

Any vision transformer of timm or of the zoo whose blocks have timm's attention. Letters: B batch, F frames that it sees, N places of the student's
grid in a frame, C width of the teacher.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2.functional import rgb_to_grayscale

from modalities.common import pretrained
from modalities.common.vit import ViTEncoder
from modalities.video.preprocess import VideoPreprocess
from trainer.errors import CheckpointError, ConfigError, ModelError, UnknownNameError, did_you_mean

TIMM = "timm:"
"""What names of timm's models begin with."""


@dataclass(frozen=True)
class Seen:
    """What a teacher says of clips, on the student's grid."""

    layers: list[Tensor]
    """(B, F * N, C) patch tokens after each of the blocks that were asked for."""
    attention: Tensor
    """(B, F, N) how much it looks at each place of a frame; above 0, sums to 1 over a frame."""
    pooled: Tensor
    """(B, C') its feature of an image, the mean over the frames."""


class ImageTeacher(nn.Module):
    """A network and what its images must look like."""

    def __init__(self, network: nn.Module, size: Sequence[int], mean: Sequence[float], std: Sequence[float], prefix: int, name: str) -> None:
        """`size` (height, width), `mean` and `std` per channel of pixels in 0..1; `prefix` tokens come before its patches."""
        super().__init__()
        self.network, self.size, self.prefix, self.name = network, tuple(size), prefix, name
        blocks = getattr(network, "blocks", None)
        if not blocks or not all(hasattr(getattr(blocks[-1], "attn", None), part) for part in ("qkv", "num_heads", "q_norm", "k_norm")):
            raise ModelError(f"{name} is a {type(network).__name__} whose blocks have no attention like timm's. Choose a plain vision transformer.")
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.grid = tuple(network.config.grid if isinstance(network, ViTEncoder) else network.patch_embed.grid_size)
        with torch.no_grad():
            layer, pooled = self._look(torch.zeros(1, len(mean), *self.size), [0])[::2]
        self.width, self.pooled_width = layer[0].shape[2], pooled.shape[1]
        """Widths of its tokens and of its feature of an image."""

    def forward(self, video: Tensor, student: VideoPreprocess, grid: tuple[int, ...], layers: Sequence[int]) -> Seen:
        """What it says of clips (B, C, T, H, W), normalised by `student`, of which one frame is shown for each step of the student's `grid` in time.

        Its tokens and attention are resized (bicubic, linear) where its own grid is another than the student's.
        """
        frames = grid[0]
        clips = video[:, :, :: video.shape[2] // frames].transpose(1, 2).flatten(0, 1)  # (B * F, C, H, W)
        tokens, attention, pooled = self._look(self.adapted(clips, student), layers)
        tokens = [self._on_grid(x.transpose(1, 2), grid[1:], "bicubic").transpose(1, 2) for x in tokens]
        attention = self._on_grid(attention[:, None], grid[1:], "bilinear")[:, 0]
        attention = attention.unflatten(0, (-1, frames)).clamp(min=1e-8)
        return Seen(
            [x.unflatten(0, (-1, frames)).flatten(1, 2) for x in tokens],
            attention / attention.sum(-1, keepdim=True),
            pooled.unflatten(0, (-1, frames)).mean(1),
        )

    def adapted(self, images: Tensor, student: VideoPreprocess) -> Tensor:
        """Images normalised for a student, (n, C, H, W), as this network takes them: its channels, mean and deviation, and its size (bicubic)."""
        pixels = images.float() * _column(student.std, images) + _column(student.mean, images)
        if len(self.mean) != pixels.shape[1]:
            pixels = rgb_to_grayscale(pixels) if len(self.mean) == 1 else pixels.expand(-1, len(self.mean), -1, -1)
        if tuple(pixels.shape[2:]) != self.size:
            pixels = F.interpolate(pixels, size=self.size, mode="bicubic", antialias=True)
        return (pixels - self.mean) / self.std

    def _on_grid(self, x: Tensor, grid: tuple[int, ...], mode: str) -> Tensor:
        """(n, C, places of its own grid) on another grid."""
        return x if self.grid == grid else F.interpolate(x.float().unflatten(2, self.grid), size=grid, mode=mode).flatten(2)

    def _look(self, images: Tensor, layers: Sequence[int]) -> tuple[list[Tensor], Tensor, Tensor]:
        """Patch tokens after each of `layers`, attention (n, patches), feature (n, C') of adapted images."""
        network, zoo = self.network, isinstance(self.network, ViTEncoder)
        last = network.blocks[-1].attn
        with _watched([network.blocks[i] for i in layers], last) as (outputs, inputs):
            tokens = network.tokens({network.input_key: images}) if zoo else network.forward_features(images)
        pooled = network.pooled(tokens) if zoo else network.forward_head(tokens, pre_logits=True)
        pool = getattr(network, "attn_pool", None)
        attention = _attention_of_pool(pool, tokens) if pool is not None else _attention(last, inputs[0], self.prefix)
        return [outputs[i][:, self.prefix :] for i in range(len(layers))], attention[:, self.prefix :], pooled


def open_teacher(name: str) -> ImageTeacher:
    """The teacher that `name` stands for: `timm:NAME`, or what `zoo.from_pretrained` takes (a name, a run, a folder, a Hub id).

    Raises UnknownNameError or CheckpointError when there is no such network or no weights of it, ModelError when it is no plain vision transformer.
    """
    if not name:
        raise ConfigError("Stage 1 learns from a frozen image encoder: name one in objective.teacher (timm:NAME, or a name, folder or Hub id that the zoo loads).")
    if name.startswith(TIMM):
        own = name.removeprefix(TIMM)
        architecture = own.partition(".")[0]
        if ":" not in own and not timm.is_model(architecture):
            raise UnknownNameError(f"timm has no network {own!r}.{did_you_mean(architecture, timm.list_models())}")
        try:
            network = timm.create_model(own, pretrained=True, num_classes=0)
        except (RuntimeError, OSError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(f"timm cannot open {own} with its weights: {reason}. Without a connection give a folder, as in {TIMM}local-dir:FOLDER.") from error
        return timm_teacher(network, name)
    network = pretrained.load(name)
    preprocess: Any = network.preprocess
    if not isinstance(network, ViTEncoder) or preprocess is None or len(network.config.input_size) != 2:
        raise ModelError(f"{name} is a {type(network).__name__} and no vision transformer for images with its preprocessing, which a teacher must be.")
    return ImageTeacher(network, preprocess.size, preprocess.mean, preprocess.std, network.prefix, name)


def timm_teacher(network: nn.Module, name: str) -> ImageTeacher:
    """A vision transformer of timm as a teacher, with the preprocessing that timm stores."""
    found = resolve_model_data_config(network)
    if not hasattr(network, "patch_embed") or not hasattr(network, "num_prefix_tokens"):
        raise ModelError(f"{name} is a {type(network).__name__}, no vision transformer of patches. Choose a plain one.")
    return ImageTeacher(network, network.patch_embed.img_size, found["mean"], found["std"], network.num_prefix_tokens, name)


@contextmanager
def _watched(blocks: Sequence[nn.Module], attention: nn.Module) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Collects what blocks give, in their order here, and what an attention is given, as they are called."""
    outputs: list[Tensor] = [torch.empty(0)] * len(blocks)
    inputs: list[Tensor] = []

    def keep(place: int) -> Any:
        return lambda module, arguments, result: outputs.__setitem__(place, result)

    handles = [block.register_forward_hook(keep(place)) for place, block in enumerate(blocks)]
    handles.append(attention.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0])))
    try:
        yield outputs, inputs
    finally:
        for handle in handles:
            handle.remove()


def _attention(layer: nn.Module, x: Tensor, prefix: int) -> Tensor:
    """Attention (n, N) of a block to each token, the mean over the heads: that of the class token, or of all tokens where there is none."""
    qkv = layer.qkv(x).unflatten(2, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q, k = layer.q_norm(qkv[0]), layer.k_norm(qkv[1])
    asking = q[:, :, :1] if prefix else q
    return (asking @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1).mean((1, 2))


def _attention_of_pool(pool: nn.Module, tokens: Tensor) -> Tensor:
    """Attention (n, N) of timm's attention pooling to each token, the mean over heads and queries."""
    tokens = tokens if pool.pos_embed is None else tokens + pool.pos_embed[None]
    q = pool.q(pool.latent.expand(len(tokens), -1, -1)).unflatten(2, (pool.num_heads, -1)).transpose(1, 2)
    k = pool.kv(tokens).unflatten(2, (2, pool.num_heads, -1))[:, :, 0].transpose(1, 2)
    return (pool.q_norm(q) @ pool.k_norm(k).transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1).mean((1, 2))


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """(C, 1, 1), as the images are."""
    return torch.tensor(values, device=like.device, dtype=torch.float32).view(-1, 1, 1)
