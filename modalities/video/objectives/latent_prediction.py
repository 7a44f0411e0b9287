"""Stage 2 of InternVideo-Next: predict what a frozen encoder of stage 1 says of hidden blocks (Wang et al. 2026, arXiv 2512.01342; engine_for_stage2.py).

Student and target begin with the same weights; the target never changes (a momentum of 1) and sees the whole clip. Two masks hide parts of each
clip from the student; from the rest a predictor says the target's token in every hidden place. No pixels, no other teacher.
"""

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from modalities.common.masking import gather_tokens
from modalities.video.models.internvideo_next import InternVideoNext
from modalities.video.models.predictor import Head, Predictor, PredictorConfig, alignment
from modalities.video.objectives.block_masks import BlockMaskConfig, context, keys_of
from trainer.errors import ConfigError
from trainer.objective import Batch, Losses, Objective


@dataclass(frozen=True)
class LatentPredictionConfig:
    """What is hidden, and what predicts it. The defaults are the authors'."""

    masks: tuple[BlockMaskConfig, ...] = (BlockMaskConfig(8, 0.15), BlockMaskConfig(2, 0.7))
    """The masks of every clip; their losses are added."""
    context_per_frame: int | None = 50
    """At most so many patches per frame of a clip, on average, are seen by the student (400 in 8 frames). Null: all that are not hidden."""
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    """The layers that predict."""

    def __post_init__(self) -> None:
        if not self.masks:
            raise ConfigError("Latent prediction needs at least one mask in objective.masks, found none.")
        if self.context_per_frame is not None and self.context_per_frame < 1:
            raise ConfigError(f"objective.context_per_frame must be at least 1, or null for no limit, found {self.context_per_frame}.")

    def build(self, model: InternVideoNext) -> "LatentPrediction":
        """The objective around an encoder of stage 1; the target is a copy of it as it is now."""
        return LatentPrediction(model, self)


class LatentPrediction(Objective):
    """Loss = sum over the masks of the mean over hidden patches of 2 - 2 cos(prediction, target's token)."""

    def __init__(self, model: InternVideoNext, config: LatentPredictionConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.target = copy.deepcopy(model).requires_grad_(False).eval()
        model.clip_projector.requires_grad_(False)  # no loss of this stage sees it: it stays as stage 1 left it
        self.predictor = Predictor(model.config, config.predictor)
        self.head = Head(config.predictor.width, model.config.embed_dim)
        _, rows, columns = model.config.grid
        for number, mask in enumerate(config.masks):
            mask.hidden(torch.zeros(1, dtype=torch.int64), rows, columns, number)  # a mask that cannot be is refused here

    def forward(self, batch: Batch) -> Losses:
        video = self.model.input(batch)
        frames, rows, columns = grid = self.model.grid(video)
        with torch.no_grad():
            wanted = self.target.encode(video)[0][:, self.target.prefix :]
        limit = None if self.config.context_per_frame is None else self.config.context_per_frame * frames
        keys, losses = keys_of(batch, video), []
        for number, mask in enumerate(self.config.masks):
            seen, hidden = context(mask.hidden(keys, rows, columns, number), frames, limit)
            losses.append(self.loss(video, seen, hidden, wanted, grid))
        return Losses(torch.stack(losses).sum(), {f"mask_{number}": loss.detach() for number, loss in enumerate(losses)})

    def loss(self, video: Tensor, seen: Tensor, hidden: Tensor, wanted: Tensor, grid: tuple[int, ...]) -> Tensor:
        """The loss of one mask: places `seen` (B, K) and `hidden` (B, L-K) of clips, and the target's tokens `wanted` (B, L, D)."""
        tokens, _ = self.model.encode(video, seen)
        found = gather_tokens(self.predictor(tokens, seen, grid), hidden)
        return alignment(self.head(found), gather_tokens(wanted, hidden))

    def train(self, mode: bool = True) -> "LatentPrediction":
        """Training mode; the target stays in evaluation mode."""
        super().train(mode)
        self.target.eval()
        return self

    def export(self) -> nn.Module:
        return self.model
