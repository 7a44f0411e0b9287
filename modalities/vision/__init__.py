"""Images. The names that this modality offers; nothing is imported until one of them is asked for."""

from modalities.vision.entries import mae, spark

SYSTEMS = {**mae.SYSTEMS, **spark.SYSTEMS}
RECIPES = {**mae.RECIPES, **spark.RECIPES}
MODELS = [*mae.MODELS, *spark.MODELS]
