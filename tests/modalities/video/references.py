"""Small VideoMAE models of transformers, golden files made of them, and videos to read."""

import json

import numpy as np
import torch
from safetensors.torch import save_file

SMALL = dict(
    image_size=16, patch_size=8, num_channels=3, num_frames=4, tubelet_size=2, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48,
    decoder_num_attention_heads=2, decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_intermediate_size=32, use_mean_pooling=False,
)  # fmt: skip


def randomise(model):
    """Every parameter random, biases and norms too: nothing is 0 or 1 by its start."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def transformers_videomae(classifier=False, **changes):
    from transformers import VideoMAEConfig, VideoMAEForPreTraining, VideoMAEForVideoClassification

    config = VideoMAEConfig(**{**SMALL, **changes})
    return randomise((VideoMAEForVideoClassification if classifier else VideoMAEForPreTraining)(config))


def write_golden(path, model, state, layout, config, drop=(), hidden=None):
    """A golden file of a model of transformers, whose state is given in some layout, with the outputs of transformers. `hidden`: places, else half of them."""
    c, generator = model.config, torch.Generator().manual_seed(1)
    size = (c.image_size, c.image_size) if isinstance(c.image_size, int) else tuple(c.image_size)
    video = torch.randn(2, c.num_frames, c.num_channels, *size, generator=generator)
    tensors = {f"state.{name}": tensor for name, tensor in state.items()}
    tensors["input.video"] = video.transpose(1, 2) if layout == "official" else video
    with torch.no_grad():
        if hasattr(model, "decoder"):
            slots, places = c.num_frames // c.tubelet_size, (size[0] // c.patch_size) * (size[1] // c.patch_size)
            mask = (torch.rand(2, places, generator=generator).argsort(1).argsort(1) < (hidden or max(places // 2, 1))).repeat(1, slots)
            out = model(video, bool_masked_pos=mask)
            tensors |= {"input.mask": mask.float(), "output.pred": out.logits, "output.loss": out.loss}
            tensors["output.latent"] = model.videomae(video, bool_masked_pos=mask).last_hidden_state
            name = "video/videomae"
        else:
            out = model(video)
            tensors |= {"output.logits": out.logits, "output.last_hidden_state": model.videomae(video).last_hidden_state}
            name = "video/videomae_vit"
    config = {key: value for key, value in config.items() if key not in drop}
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, path, {"model": name, "layout": layout, "config": json.dumps(config)})
    return path


def moving(frames=20, height=24, width=32):
    """A white square that moves over a dark ground: (T, H, W, 3) uint8. The brightness of the ground says the number of the frame."""
    video = np.zeros((frames, height, width, 3), np.uint8)
    for i in range(frames):
        video[i] = 8 * (i % 31)
        video[i, 4:12, i % (width - 8) : i % (width - 8) + 8] = 255
    return video


def write_video(path, frames, rate=10, codec=None, times=None, audio=False, gop=5):
    """Encode frames (T, H, W, 3) by the ending of the path; `times` in frames of the rate, for a variable frame rate."""
    import av

    codec = codec or {".webm": "libvpx", ".avi": "mpeg4"}.get(path.suffix, "libx264")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = *frames[0].shape[:2], "yuv420p", gop
        stream.bit_rate = 4_000_000
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts = i if times is None else times[i]
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path
