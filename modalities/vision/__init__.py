"""Images. The names that this modality offers; nothing is imported until one of them is asked for."""

from modalities.vision.entries import mae, poa, spark

SYSTEMS = {**mae.SYSTEMS, **spark.SYSTEMS, **poa.SYSTEMS}
RECIPES = {**mae.RECIPES, **spark.RECIPES, **poa.RECIPES}
MODELS = [*mae.MODELS, *spark.MODELS, *poa.MODELS]
