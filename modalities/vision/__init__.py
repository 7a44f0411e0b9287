"""Images. The names that this modality offers; nothing is imported until one of them is asked for."""

from modalities.vision.entries import mae, mim, ssld

SYSTEMS = {**mae.SYSTEMS, **ssld.SYSTEMS}
RECIPES = {**mae.RECIPES, **mim.RECIPES, **ssld.RECIPES}
MODELS = [*mae.MODELS, *mim.MODELS, *ssld.MODELS]
