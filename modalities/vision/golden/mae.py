"""Recomputes golden files of MAE and of its fine-tuned classifier."""

import math
from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from modalities.common.golden import Golden, gradients_of, model_and_objective, pick
from modalities.common.masked_autoencoder import Reconstruction
from modalities.common.masking import mask_from_noise
from modalities.common.patches import unpatchify
from modalities.common.positions import resize_positions, sincos_table
from modalities.common.reconstruction import MaskedReconstruction
from modalities.vision.interop import mae as interop
from modalities.vision.models.mae import MAE
from modalities.vision.objectives.mae import MAEObjectiveConfig
from trainer.config import from_dict
from trainer.objective import Batch

DEFAULTS = {
    ("vision/mae", "official"): {"num_heads": 16, "decoder_num_heads": 16, "norm_eps": 1e-5, "norm_pix_loss": False},
    ("vision/mae", "transformers"): {"num_attention_heads": 12, "decoder_num_attention_heads": 16, "norm_pix_loss": False},
    ("vision/mae_vit", "official"): {"num_heads": 12},
}
"""What the classes behind the files take when their config does not say it and no shape shows it."""


class _Given(MaskedReconstruction):
    """The objective for the share of a file, which may hide nothing or all, as the official code does it."""

    def __init__(self, model: MAE, config: MAEObjectiveConfig, ratio: float) -> None:
        super().__init__(model, config)
        self.ratio = ratio

    def check(self, model: MAE, config: MAEObjectiveConfig) -> None:
        """Nothing is refused: the share of the file counts, not that of the config."""

    def see(self, batch: Batch, noise: Tensor, everywhere: bool = True) -> Reconstruction:
        masking = mask_from_noise(noise, int(self.model.patch_embed.length * (1 - self.ratio)))
        latent = self.model.encode(self.model.input(batch), masking)
        return Reconstruction(latent, self.model.decode(latent, masking, everywhere), masking)

    def predict(self, batch: Batch, noise: Tensor | None) -> Reconstruction:
        return self.see(batch, noise, everywhere=False)


def _mae(golden: Golden) -> dict[str, Tensor]:
    model, fields = model_and_objective(golden, interop, DEFAULTS)
    ratio = fields.pop("mask_ratio", MAEObjectiveConfig.mask_ratio)
    objective = _Given(model, from_dict(MAEObjectiveConfig, fields, str(golden.path)), ratio)
    batch, config, noise = {"image": golden.input("image")}, model.config, golden.input("noise")
    out = objective.see(batch, noise)
    target = objective.target(batch)
    loss = objective(batch, noise).loss if out.masking.mask.any() else out.prediction.sum() * math.nan  # a mean over nothing
    shown = golden.expected.get("output.unpatchified", out.prediction).shape[0]  # the files hold the first sample only
    computed = {
        "output.latent": out.latent,
        "output.pred": out.prediction,
        "output.mask": out.masking.mask,
        "output.ids_restore": out.masking.ids_restore,
        "output.target": target,
        "output.loss": loss,
        "output.unpatchified": unpatchify(out.prediction[:shown], config.patch_size, config.grid, config.in_chans),
        "output.sincos_encoder": sincos_table(config.embed_dim, config.grid, config.position_layout)[0],
        "output.sincos_decoder": sincos_table(config.decoder_embed_dim, config.grid, config.position_layout)[0],
    }
    # transformers has three spellings of the same weights; the file uses one
    spellings = interop.TRANSFORMERS if golden.layout in interop.TRANSFORMERS else (golden.layout,)
    gradients = gradients_of(loss, model)
    spelled = {name: g for layout in spellings for name, g in interop.to_layout(gradients, layout).items()}
    return pick(computed, golden.expected) | golden.gradients(spelled)


def _classifier(golden: Golden) -> dict[str, Tensor]:
    model, _ = model_and_objective(golden, interop, DEFAULTS)
    batch = {"image": golden.input("image")}
    features = model.embed(batch)
    computed = {"output.features": features, "output.logits": model.head(features)}
    gradients: dict[str, Tensor] = {}
    if "label" in golden.inputs:
        computed["output.loss"] = F.cross_entropy(computed["output.logits"], golden.input("label").long())
        gradients = gradients_of(computed["output.loss"], model)
    if "pos_embed_pretrained" in golden.inputs:
        table = golden.input("pos_embed_pretrained")
        side = math.isqrt(table.shape[1] - model.prefix)
        computed["output.pos_embed_interpolated"] = resize_positions(table, (side, side), model.config.grid, model.prefix)
    return pick(computed, golden.expected) | golden.gradients(gradients) | golden.layer_decay(model)


RUNNERS: dict[str, Callable[[Golden], dict[str, Tensor]]] = {"vision/mae": _mae, "vision/mae_vit": _classifier}
