"""Images. The names that this modality offers; nothing is imported until one of them is asked for."""

from modalities.vision.entries import mae, poa

SYSTEMS = {**mae.SYSTEMS, **poa.SYSTEMS}
RECIPES = {**mae.RECIPES, **poa.RECIPES}
MODELS = [*mae.MODELS, *poa.MODELS]
