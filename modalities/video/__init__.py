"""Videos. The names that this modality offers; nothing is imported until one of them is asked for."""

from modalities.video.entries import internvideo_next, videomae

SYSTEMS = {**videomae.SYSTEMS, **internvideo_next.SYSTEMS}
RECIPES = {**videomae.RECIPES, **internvideo_next.RECIPES}
MODELS = [*videomae.MODELS, *internvideo_next.MODELS]
