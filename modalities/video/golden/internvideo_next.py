"""Recomputes golden files of the InternVideo-Next encoder."""

from collections.abc import Callable

from torch import Tensor

from modalities.common.golden import Golden, pick
from modalities.common.interop import converted
from modalities.video.interop import internvideo_next as interop
from modalities.video.models.internvideo_next import InternVideoNext, InternVideoNextConfig, space_time_table
from trainer.config import from_dict

DEFAULTS = {"num_heads": 16, "attn_pool_num_heads": 16, "img_size": 224, "num_frames": 16, "cls_token_num": 4}
"""What the class behind the files takes when their config does not say it and no shape shows it."""


def _encoder(golden: Golden) -> dict[str, Tensor]:
    where = str(golden.path)
    described = interop.describe(golden.state, {**DEFAULTS, **golden.config}, golden.layout, where)
    _, fields, _, state = converted(golden.state, described, where)
    model = InternVideoNext.from_state(from_dict(InternVideoNextConfig, fields, where), state, where)
    video, config = golden.input("video"), model.config
    tokens = model.encode(video)[0]
    frames = model.grid(video)[0]
    computed = {
        "output.patch_embed": model.patch_embed(video).unflatten(1, (frames, -1)),
        "output.tokens": tokens[:, model.prefix :],
        "output.projected": model.clip_projector(tokens),
        "output.sincos": space_time_table(config.embed_dim, config.grid, config.class_tokens)[0],
    }
    return pick(computed, golden.expected)


RUNNERS: dict[str, Callable[[Golden], dict[str, Tensor]]] = {"video/internvideo_next": _encoder}
