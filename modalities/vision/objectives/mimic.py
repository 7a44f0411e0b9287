"""MR-MAE: the visible tokens mimic a frozen teacher while the hidden ones are reconstructed (Gao et al. 2023, arXiv 2303.05475).

The two losses lie on different tokens, so they do not compete. No training code was released: where the paper is silent
(the kind of distance, the norm of the target), the choices are ours and options.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities.common.masked_autoencoder import MaskedAutoencoder, Reconstruction
from modalities.common.masking import gather_tokens
from modalities.common.terms import Term, require_term
from modalities.common.vit import init_linear
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.teachers import open_encoder
from trainer.errors import ConfigError
from trainer.frozen import Frozen
from trainer.objective import Batch


@dataclass(frozen=True)
class MimicConfig:
    """Which teacher the encoder's visible tokens mimic, and how."""

    teacher: str = ""
    """A frozen encoder of images: timm:NAME (timm:vit_base_patch16_clip_224.openai), or a name, run, folder or Hub id that the zoo loads. Empty: no mimicry."""
    loss: Literal["mse", "cosine", "smooth_l1"] = "mse"
    """Distance of a token to the teacher's: squared error, 1 - cosine, or Huber's with a bend at 1; the mean over tokens and channels."""
    target_norm: Literal["none", "layernorm"] = "layernorm"
    """layernorm: every token of the teacher gets mean 0 and deviation 1 over its channels first."""
    class_token: bool = False
    """Let the class token mimic the teacher's, too."""
    weight: float = 1.0
    """Of this loss, beside the reconstruction's."""

    def __post_init__(self) -> None:
        require_term(self, "mimic", "teacher")


class Mimic(Term):
    """Distance of a linear map of the encoder's visible tokens to the teacher's tokens of the whole image at the same places.

    The teacher sees the batch's images in its own size and normalisation; its grid is resized (bicubic) to the student's. The
    linear map is trained and thrown away.
    """

    def __init__(self, config: MimicConfig, model: MaskedAutoencoder) -> None:
        super().__init__(config.weight)
        if not isinstance(model.preprocess, ImagePreprocess):
            raise ConfigError("mimic.teacher needs to know how the student's images are normalised; give the model its preprocessing first.")
        teacher = open_encoder(config.teacher)
        if config.class_token and not (teacher.has_class_token and model.config.class_token):
            raise ConfigError(f"mimic.class_token needs a class token on both sides; {'the student' if teacher.has_class_token else config.teacher} has none.")
        self.config, self.preprocess = config, model.preprocess
        self.teacher = Frozen(teacher)
        self.head = init_linear(nn.Linear(model.config.embed_dim, teacher.width))

    def forward(self, model: MaskedAutoencoder, batch: Batch, out: Reconstruction) -> Tensor:
        image = model.input(batch)
        target = self.target(image, model.config.grid, out.masking.ids_keep)  # (B, [1+]K, C)
        said = self.head(out.latent[:, model.prefix - int(self.config.class_token) :]).float()
        if self.config.loss == "cosine":
            return 1 - F.cosine_similarity(said, target, dim=-1).mean()
        return (F.mse_loss if self.config.loss == "mse" else F.smooth_l1_loss)(said, target)

    @torch.no_grad()
    def target(self, image: Tensor, grid: tuple[int, ...], ids_keep: Tensor) -> Tensor:
        """What the teacher says at the visible places `ids_keep` (B, K) of a grid, (B, K, C) float32, the class token first when it counts."""
        tokens, first = self.teacher.on(image.device).features(image, self.preprocess, grid)
        target = gather_tokens(tokens, ids_keep)
        if self.config.class_token:
            target = torch.cat([first[:, None].to(target.dtype), target], dim=1)
        target = target.float()
        return F.layer_norm(target, target.shape[-1:]) if self.config.target_norm == "layernorm" else target
