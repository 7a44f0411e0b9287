"""Recomputes golden files of VideoMAE and of its fine-tuned classifier."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from modalities.common.golden import Golden, gradients_of, model_and_objective, pick
from modalities.common.masked_autoencoder import Reconstruction
from modalities.common.masking import mask_from_flags
from modalities.common.model import Model
from modalities.common.positions import sincos_table
from modalities.video.interop import videomae as interop
from modalities.video.models.videomae import VideoMAE
from modalities.video.objectives.videomae import VideoMAEObjectiveConfig
from trainer.config import from_dict

DEFAULTS = {
    ("video/videomae", "official"): {"encoder_num_heads": 12, "decoder_num_heads": 8, "norm_eps": 1e-5},
    ("video/videomae", "transformers"): {"num_attention_heads": 12, "decoder_num_attention_heads": 6},
    ("video/videomae_vit", "official"): {"num_heads": 12, "norm_eps": 1e-5, "use_mean_pooling": True},
    ("video/videomae_vit", "transformers"): {"num_attention_heads": 12},
}
"""What the classes behind the files take when their config does not say it and no shape shows it."""


def _video(golden: Golden) -> dict[str, Tensor]:
    """The input as a batch; transformers puts the frames before the channels."""
    video = golden.input("video")
    return {"video": video if golden.layout == "official" else video.transpose(1, 2)}


def _in_layout(golden: Golden, tensors: dict[str, Tensor], model: Model) -> dict[str, Tensor]:
    """Tensors by parameter names under those of the file, in either spelling of transformers."""
    spellings = interop.LAYOUTS[1:] if golden.layout in interop.LAYOUTS[1:] else (golden.layout,)
    return {name: t for layout in spellings for name, t in interop.to_layout(tensors, layout, isinstance(model, VideoMAE)).items()}


def _videomae(golden: Golden) -> dict[str, Tensor]:
    model, fields = model_and_objective(golden, interop, DEFAULTS)
    objective = from_dict(VideoMAEObjectiveConfig, fields, str(golden.path)).build(model)
    batch, config = _video(golden), model.config
    masking = mask_from_flags(golden.input("mask").bool())
    latent = model.encode(batch["video"], masking)
    prediction = model.decode(latent, masking, everywhere=False)
    loss = objective.error(Reconstruction(latent, prediction, masking), batch)
    computed = {
        "output.latent": latent,
        "output.pred": prediction,
        "output.target": objective.target(batch, masking.ids_hidden),
        "output.loss": loss,
        "output.pos_embed_encoder": sincos_table(config.embed_dim, config.grid, config.position_layout, prefix=0),
        "output.pos_embed_decoder": sincos_table(config.decoder_embed_dim, config.grid, config.position_layout, prefix=0),
    }
    return pick(computed, golden.expected) | golden.gradients(_in_layout(golden, gradients_of(loss, model), model))


def _classifier(golden: Golden) -> dict[str, Tensor]:
    model, _ = model_and_objective(golden, interop, DEFAULTS)
    tokens = model.tokens(_video(golden))
    features = model.pooled(tokens)
    computed = {"output.last_hidden_state": tokens, "output.features": features, "output.logits": model.head(features)}
    gradients: dict[str, Tensor] = {}
    if "label" in golden.inputs:
        computed["output.loss"] = F.cross_entropy(computed["output.logits"], golden.input("label").long())
        gradients = _in_layout(golden, gradients_of(computed["output.loss"], model), model)
    rates = {name.removeprefix("layer_decay."): rate for name, rate in golden.layer_decay(model).items()}
    named = {f"layer_decay.{interop.names_in(name, golden.layout, False)[0]}": rate for name, rate in rates.items()}
    return pick(computed, golden.expected) | golden.gradients(gradients) | named


RUNNERS: dict[str, Callable[[Golden], dict[str, Tensor]]] = {"video/videomae": _videomae, "video/videomae_vit": _classifier}
