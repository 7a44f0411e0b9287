"""Stage 1 of InternVideo-Next: pixels by conditional diffusion, meaning from a frozen image teacher (Wang et al. 2026, arXiv 2512.01342; engine_for_stage1.py).

A quarter of each frame's patches, chosen where the teacher looks, goes through the encoder. A predictor says something of every hidden patch, from which
a small diffusion model draws its pixels; so the predictor need not fix what cannot be known. The tokens of the last blocks are aligned with the
teacher's, and the pooled feature with the teacher's mean over the frames.

The released code pairs every decoder with one and the same stored layer (an index left over from a loop); here, as intended, the i-th decoder reads the
i-th layer. Ours: the exact meaning of "where the teacher looks" (see `image_teacher`), one draw of noise per step from the process's generator, and
teachers of any size, whose tokens are resized to the student's grid.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from modalities.common.diffusion import ConditionalDiffusion
from modalities.common.masking import gather_tokens, keep_count
from modalities.common.patches import patchify, unpatchify
from modalities.video.models.image_teacher import ImageTeacher, Seen, open_teacher
from modalities.video.models.internvideo_next import InternVideoNext, resized_table, space_time_table
from modalities.video.models.predictor import Head, Predictor, PredictorConfig, alignment
from modalities.video.objectives.block_masks import keys_of
from modalities.video.preprocess import VideoPreprocess
from trainer.errors import ConfigError
from trainer.frozen import Frozen
from trainer.objective import Batch, Losses, Objective
from trainer.randomness import draws_on_device


@dataclass(frozen=True)
class SemanticDiffusionConfig:
    """What is hidden, what predicts it, and which teacher gives meaning. The defaults are the authors' but for the predictor's layers."""

    teacher: str = "timm:vit_giantopt_patch16_siglip_256.v2_webli"
    """A frozen encoder of images: timm:NAME, or a name, run, folder or Hub id that the zoo loads (paper: SigLIP2 of 1 billion parameters)."""
    mask_ratio: float = 0.75
    """Share of the patches of each frame that is hidden."""
    aligned_layers: int = 6
    """So many of the encoder's last blocks are aligned with layers of the teacher."""
    teacher_interval: float = 1.67
    """From one of these layers of the teacher to the one before it, counted from the last."""
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    """The layers that predict."""
    diffusion_width: int = 1536
    """Width of the diffusion model."""
    diffusion_depth: int = 6
    """Residual layers of the diffusion model."""
    middle_weight: float = 1.0
    """Of the alignment of tokens."""
    final_weight: float = 1.0
    """Of the alignment of the pooled feature."""
    diffusion_weight: float = 1.0
    """Of the diffusion loss."""

    def __post_init__(self) -> None:
        if not 0 < self.mask_ratio < 1:
            raise ConfigError(f"objective.mask_ratio is the share of hidden patches, above 0 and below 1, found {self.mask_ratio}.")
        if min(self.aligned_layers, self.diffusion_width, self.diffusion_depth) < 1 or not self.teacher_interval > 0:
            raise ConfigError("objective.aligned_layers, diffusion_width and diffusion_depth must be at least 1 and teacher_interval above 0.")
        if min(self.middle_weight, self.final_weight, self.diffusion_weight) < 0:
            raise ConfigError("objective.middle_weight, final_weight and diffusion_weight may not be negative.")

    def build(self, model: InternVideoNext) -> "SemanticDiffusion":
        """The objective around an encoder whose preprocessing is known; the teacher is opened."""
        return SemanticDiffusion(model, self, open_teacher(self.teacher))


class SemanticDiffusion(Objective):
    """Loss = alignment of tokens (mean over the layers) + alignment of the pooled feature + diffusion loss of the hidden patches' pixels."""

    def __init__(self, model: InternVideoNext, config: SemanticDiffusionConfig, teacher: ImageTeacher) -> None:
        super().__init__()
        if not isinstance(model.preprocess, VideoPreprocess):
            raise ConfigError("Stage 1 shows the student's clips to a teacher and needs to know how they are normalised; give the model its preprocessing first.")
        own, c = model.config, config
        depth = len(teacher.network.blocks)
        self.teacher_layers = [depth - 1 - int(i * c.teacher_interval) for i in reversed(range(c.aligned_layers))]
        self.student_layers = list(range(own.depth - c.aligned_layers, own.depth))
        if min(self.teacher_layers + self.student_layers) < 0:
            raise ConfigError(
                f"objective.aligned_layers={c.aligned_layers} every {c.teacher_interval:g} layers do not fit a student of {own.depth} blocks and a teacher of "
                f"{depth} ({teacher.name}). Lower one of them."
            )
        places = own.grid[1] * own.grid[2]
        if keep_count(places, c.mask_ratio) == places:
            raise ConfigError(f"objective.mask_ratio={c.mask_ratio} hides none of the {places} patches of a frame. Raise it to at least {1 / places:.4g}.")
        self.model, self.config, self.teacher = model, config, Frozen(teacher)
        self.predictor = Predictor(own, c.predictor)
        values = own.in_chans * own.patch_size[0] * own.patch_size[1] * own.patch_size[2]
        self.diffusion = ConditionalDiffusion(values, c.predictor.width, c.diffusion_width, c.diffusion_depth)
        self.middle_pos_embed = nn.Parameter(space_time_table(own.embed_dim, own.grid, own.class_tokens))
        self.middle = nn.ModuleList(Head(own.embed_dim, teacher.width) for _ in range(c.aligned_layers))
        self.final = Head(own.pool_dim, teacher.pooled_width)

    def forward(self, batch: Batch) -> Losses:
        video = self.model.input(batch)
        grid = self.model.grid(video)
        with torch.no_grad():
            seen = self.teacher.on(video.device)(video, self.model.preprocess, grid, self.teacher_layers)
        visible, hidden = self.places(seen.attention, keys_of(batch, video))
        tokens, layers = self.model.encode(video, visible, self.student_layers)
        parts = {
            "middle": self.alignment_of_tokens(layers, seen, visible, grid),
            "final": alignment(self.final(self.model.clip_projector(tokens)), seen.pooled),
            "diffusion": self.diffusion_of_pixels(video, tokens, visible, hidden, grid),
        }
        weights = {"middle": self.config.middle_weight, "final": self.config.final_weight, "diffusion": self.config.diffusion_weight}
        return Losses(sum(weights[name] * part for name, part in parts.items()), {name: part.detach() for name, part in parts.items()})

    def places(self, attention: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """(visible (B, K), hidden (B, L-K)) patches in raster order, equally many in each frame.

        Visible ones are drawn without replacement, each time with a probability proportional to the attention (B, F, N) of what is left.
        """
        frames, places = attention.shape[1:]
        keep = keep_count(places, self.config.mask_ratio)
        uniform = draws_on_device(keys, frames * places).view_as(attention).clamp(1e-7, 1 - 1e-7)
        # the first of exponential clocks whose rates are the weights: Efraimidis and Spirakis 2006
        order = torch.argsort(-uniform.log() / attention, dim=2, stable=True)
        offset = places * torch.arange(frames, device=order.device)[:, None]
        visible, hidden = (order[:, :, part].sort(dim=2)[0] + offset for part in (slice(keep), slice(keep, None)))
        return visible.flatten(1), hidden.flatten(1)

    def alignment_of_tokens(self, layers: list[Tensor], seen: Seen, visible: Tensor, grid: tuple[int, ...]) -> Tensor:
        """2 - 2 cos between the visible tokens (B, P+K, D) of the student's layers, decoded, and the teacher's; the mean over everything."""
        prefix = self.model.prefix
        table = resized_table(self.middle_pos_embed, self.model.config.grid, grid, prefix)[:, prefix:].expand(len(visible), -1, -1)
        places = gather_tokens(table, visible)
        pairs = zip(self.middle, layers, seen.layers, strict=True)
        return torch.stack([alignment(head(x[:, prefix:] + places), gather_tokens(wanted, visible)) for head, x, wanted in pairs]).mean()

    def diffusion_of_pixels(self, video: Tensor, tokens: Tensor, visible: Tensor, hidden: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The mean loss of the pixels of hidden patches, given what the predictor says of them."""
        said = gather_tokens(self.predictor(tokens, visible, grid), hidden).flatten(0, 1).float()
        with torch.autocast(video.device.type, enabled=False):
            return self.diffusion.loss(gather_tokens(self.pixels(video), hidden).flatten(0, 1).float(), said).mean()

    def pixels(self, video: Tensor) -> Tensor:
        """The patches of the normalised clip, (B, L, V), each with the channel first, then frame, row, column."""
        channels = self.model.config.in_chans
        return patchify(video, self.model.config.patch_size).unflatten(2, (-1, channels)).transpose(2, 3).flatten(2)

    @torch.no_grad()
    def reconstruct(self, batch: Batch, noise: Tensor | None = None) -> dict[str, Tensor]:
        """Clips to look at, (B, C, T, H, W) with pixels in 0..1: `original`, `masked` (hidden patches 0) and `reconstruction`, whose hidden patches are
        drawn from the diffusion model in 50 steps. `noise` (B,) int64 replaces the sample keys that decide what is hidden.
        """
        video, preprocess, config = self.model.input(batch), self.model.preprocess, self.model.config
        grid = self.model.grid(video)
        seen = self.teacher.on(video.device)(video, preprocess, grid, self.teacher_layers)
        visible, hidden = self.places(seen.attention, keys_of(batch, video) if noise is None else noise)
        said = gather_tokens(self.predictor(self.model.encode(video, visible)[0], visible, grid), hidden)
        drawn = self.diffusion.sample(said.flatten(0, 1).float()).unflatten(0, hidden.shape)
        places = hidden[:, :, None].expand_as(drawn)
        patches = self.pixels(video)
        filled = unpatchify(self._channel_last(patches.scatter(1, places, drawn)), config.patch_size, grid, config.in_chans)
        seen_ones = unpatchify(torch.ones_like(patches).scatter(1, places, 0.0), config.patch_size, grid, config.in_chans)
        original = preprocess.pixels(video)
        return {"original": original, "masked": original * seen_ones, "reconstruction": preprocess.pixels(filled)}

    def _channel_last(self, pixels: Tensor) -> Tensor:
        """The reverse of the order of `pixels`, that of `patchify`."""
        return pixels.unflatten(2, (self.model.config.in_chans, -1)).transpose(2, 3).flatten(2)

    def no_weight_decay(self) -> set[str]:
        return {"middle_pos_embed"}

    def export(self) -> nn.Module:
        return self.model
