"""Images. The names that this modality offers; nothing is imported until one of them is asked for."""

from modalities.vision.entries import mae, mim

SYSTEMS = {**mae.SYSTEMS}
RECIPES = {**mae.RECIPES, **mim.RECIPES}
MODELS = [*mae.MODELS, *mim.MODELS]
