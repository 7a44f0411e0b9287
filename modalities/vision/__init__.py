"""Images. The names that this modality offers; nothing is imported until one of them is asked for."""

from modalities.vision.entries import mae

SYSTEMS = {**mae.SYSTEMS}
RECIPES = {**mae.RECIPES}
MODELS = [*mae.MODELS]
