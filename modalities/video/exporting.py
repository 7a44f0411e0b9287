"""Video transformers for transformers: VideoMAE with its decoder, or the classifier, as files that its own classes load."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modalities.common.exporting import Export, Run, in_transformers, transformers_files, transformers_library
from modalities.common.model import Model
from modalities.video.interop.videomae import EPS_OF_TRANSFORMERS, Fields, to_transformers
from modalities.video.models.videomae import VideoMAE
from modalities.video.preprocess import VideoPreprocess
from trainer.errors import ModelError

RATIO = 0.5
"""Share of the places that is hidden when the prediction is compared."""


def transformers_export(model: Model, objective: Fields) -> Export:
    """For transformers' Auto classes: VideoMAEForPreTraining or VideoMAEForVideoClassification. ModelError for what they cannot hold."""
    transformers_library()
    if not isinstance(model, VideoMAE) and not model.config.num_classes:
        raise ModelError("transformers' VideoMAE has no norm after the mean of the tokens without a head, so it cannot hold a classifier without classes. Export the whole VideoMAE.")
    state, config = to_transformers(model, objective)
    architecture = config["architectures"][0]
    name = "AutoModelForPreTraining" if isinstance(model, VideoMAE) else "AutoModelForVideoClassification"
    preprocess = model.preprocess if isinstance(model.preprocess, VideoPreprocess) and model.preprocess.channels == 3 else None

    def load(folder: Path) -> Run:
        return _run(in_transformers(folder, name, architecture), model)

    def expected(x: Tensor) -> dict[str, Tensor]:
        return model.outputs({"video": x}) | {"prediction": model({"video": x}, _noise(model, len(x)), RATIO, everywhere=False).prediction}

    eps = model.config.last_norm_eps
    return Export(
        "transformers",
        transformers_files(state, config, None if preprocess is None else _processor(preprocess)),
        load,
        f'from transformers import {name}\n\nmodel = {name}.from_pretrained("PLACE")  # pixel_values: (B, T, C, H, W), frames before channels',
        (),
        (
            *((f"norms before an output add {EPS_OF_TRANSFORMERS:g} to the variance instead of {eps:g}",) if eps != EPS_OF_TRANSFORMERS else ()),
            *(() if preprocess is not None else ("the preprocessing of this model is not part of it: transformers has no video processor for such videos",)),
        ),
        expected if isinstance(model, VideoMAE) else None,
    )


def _run(theirs: nn.Module, model: Model) -> Run:
    """What transformers' classes give for our input (B, C, T, H, W)."""

    def run(x: Tensor) -> dict[str, Tensor]:
        video = x.transpose(1, 2)
        tokens = theirs.videomae(video).last_hidden_state
        if isinstance(model, VideoMAE):
            hidden = model.mask(_noise(model, len(x)), RATIO).mask.bool()
            return {"features": tokens.mean(dim=1), "tokens": tokens, "prediction": _prediction(theirs, video, hidden)}
        features = tokens[:, 0] if theirs.fc_norm is None else theirs.fc_norm(tokens.mean(dim=1))
        return {"features": features, "tokens": tokens, "logits": theirs(video).logits}

    return run


def _prediction(theirs: nn.Module, video: Tensor, hidden: Tensor) -> Tensor:
    """The decoder's output; with another number of channels than three and pixels that are not normalised, its class refuses to compute a loss."""
    config = theirs.config
    normalised, config.norm_pix_loss = config.norm_pix_loss, True
    try:
        return theirs(video, bool_masked_pos=hidden).logits
    finally:
        config.norm_pix_loss = normalised


def _noise(model: VideoMAE, samples: int) -> Tensor:
    """The same masking noise for both sides."""
    return torch.rand(samples, model.noise_length, generator=torch.Generator().manual_seed(0))


def _processor(preprocess: VideoPreprocess) -> dict[str, Any]:
    """preprocessor_config.json of transformers' image processor for VideoMAE: shorter side, centre, statistics. Choosing frames is left to its user."""
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": min(preprocess.size)},
        "resample": {"nearest": 0, "bilinear": 2, "bicubic": 3}[preprocess.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": preprocess.size[0], "width": preprocess.size[1]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
