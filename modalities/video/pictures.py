"""How people look at videos: strips of frames as PNG files, attention laid over them, and animated GIFs."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from modalities.common.reconstruction import MaskedReconstruction
from modalities.common.sheets import GAP, GREY, INK, PAPER, TEXT, cell, font, new_sheet, resized, save_sheet, shortened, spread
from trainer.errors import DataError
from trainer.evaluation import evaluating
from trainer.files import explain

FRAMES = 8
"""Frames of a clip that a strip shows."""
PERIOD = 150
"""Milliseconds that a frame of an animation is shown."""


def strip_sheet(rows: Mapping[str, Tensor], path: Path | str, title: str = "", labels: Sequence[str] | None = None) -> Path:
    """Draw clips frame by frame: for each clip one line for each of `rows`, as in original | masked | reconstruction. Returns the path of the PNG.

    `rows`: name -> clips (B, C, T, H, W) in 0..1, C = 1 or 3. `labels`: a line above each clip. At most FRAMES frames are drawn, spread evenly. NaN is mid-grey.
    """
    pixels = {label: _frames(clips, FRAMES) for label, clips in rows.items()}  # (B, T, H, W, 3)
    clips, frames = next(iter(pixels.values())).shape[:2]
    if labels is not None and len(labels) != clips:
        raise DataError(f"A sheet needs one label per clip, found {len(labels)} for {clips} clips.")
    height, width = cell(next(iter(pixels.values()))[0])
    left = 2 * GAP + max(math.ceil(font(TEXT).getlength(label)) for label in rows) if any(rows) else GAP
    above = TEXT + GAP // 2 if labels is not None else 0
    block = above + len(rows) * (height + GAP // 2) + GAP
    sheet, draw, top = new_sheet(title, left + frames * (width + GAP // 2), clips * block)
    for clip in range(clips):
        y = top + clip * block
        if labels is not None:
            draw.text((left, y), shortened(str(labels[clip]), sheet.width - left - GAP), INK, font(TEXT))
        for line, (label, values) in enumerate(pixels.items()):
            at = y + above + line * (height + GAP // 2)
            draw.text((left - GAP, at + height // 2), label, INK, font(TEXT), anchor="rm")
            for column, frame in enumerate(values[clip]):
                sheet.paste(resized(frame, height, width), (left + column * (width + GAP // 2), at))
    return save_sheet(sheet, path)


def clip_sheet(clips: Tensor, labels: Sequence[str] | None, path: Path | str, title: str = "") -> Path:
    """Draw clips (B, C, T, H, W) in 0..1, each as a line of frames with its label above it. Returns the path of the PNG."""
    return strip_sheet({"": clips}, path, title, labels)


def attended(clips: Tensor, maps: Tensor) -> Tensor:
    """Clips (B, C, T, H, W) in 0..1 with the mean of their attention maps (B, heads, t, h, w) laid over them in colours, (B, 3, T, H, W).

    The colours run from the least (dark) to the largest value (bright) of a clip.
    """
    if maps.ndim != 5 or len(maps) != len(clips):
        raise DataError(f"Attention must be (B, heads, times, rows, columns) for {len(clips)} clips, found {tuple(maps.shape)}.")
    mean = F.interpolate(maps.float().mean(dim=1, keepdim=True), size=clips.shape[2:]).cpu()[:, 0]  # (B, T, H, W)
    low, high = mean.amin(dim=(1, 2, 3), keepdim=True), mean.amax(dim=(1, 2, 3), keepdim=True)
    colours = matplotlib.colormaps["inferno"](((mean - low) / (high - low).clamp(min=1e-12)).numpy())[..., :3]
    return 0.5 * clips.float().cpu() + 0.5 * torch.from_numpy(colours).float().permute(0, 4, 1, 2, 3)


def animation(rows: Mapping[str, Tensor], path: Path | str) -> Path:
    """Write clips side by side as an animated GIF: a line for each of `rows`, a column for each clip. Returns the path."""
    pixels = [_frames(clips, None) for clips in rows.values()]
    clips, frames = pixels[0].shape[:2]
    height, width = cell(pixels[0][0])
    images = []
    for time in range(frames):
        image = Image.new("RGB", (GAP + clips * (width + GAP), GAP + len(pixels) * (height + GAP)), PAPER)
        for line, values in enumerate(pixels):
            for clip in range(clips):
                image.paste(resized(values[clip, time], height, width), (GAP + clip * (width + GAP), GAP + line * (height + GAP)))
        images.append(image)
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        images[0].save(path, save_all=True, append_images=images[1:], duration=PERIOD, loop=0)
    except OSError as error:
        raise explain(error, path) from error
    return path


def draw_reconstructions(objective: MaskedReconstruction, videos: Tensor, noise: Tensor | None, path: Path, title: str) -> None:
    """Draw original | masked | reconstructed of normalised clips (B, C, T, H, W): a PNG, and an animated GIF beside it."""
    device = objective.model.device
    with evaluating(objective):
        shown = objective.reconstruct({"video": videos.to(device)}, None if noise is None else noise.to(device))
    rows = {label: clips.float().cpu() for label, clips in shown.items()}
    strip_sheet(rows, path, title)
    animation(rows, Path(path).with_suffix(".gif"))


def _frames(clips: Tensor, most: int | None) -> np.ndarray:
    """(B, C, T, H, W) -> uint8 (B, at most `most` frames, H, W, 3); NaN becomes mid-grey."""
    if clips.ndim != 5 or clips.shape[1] not in (1, 3) or 0 in clips.shape:
        raise DataError(f"Clips must be (B, C, T, H, W) with 1 or 3 channels and at least one sample, found {tuple(clips.shape)}.")
    chosen = clips[:, :, spread(clips.shape[2], most or clips.shape[2])].detach().float().cpu().clamp(0, 1)
    values = (chosen * 255).round().nan_to_num(GREY).byte()
    return values.expand(-1, 3, -1, -1, -1).permute(0, 2, 3, 4, 1).numpy()
