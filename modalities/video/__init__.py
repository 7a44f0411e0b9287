"""Videos. The names that this modality offers; nothing is imported until one of them is asked for."""

from modalities.video.entries import videomae

SYSTEMS = {**videomae.SYSTEMS}
RECIPES = {**videomae.RECIPES}
MODELS = [*videomae.MODELS]
