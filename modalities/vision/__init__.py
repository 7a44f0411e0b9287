"""Images. The names that this modality offers; nothing is imported until one of them is asked for."""

from modalities.vision.entries import mae, mim, multimae, poa, segmenters, spark, ssld

SYSTEMS = {**mae.SYSTEMS, **spark.SYSTEMS, **poa.SYSTEMS, **ssld.SYSTEMS, **multimae.SYSTEMS, **segmenters.SYSTEMS}
RECIPES = {**mae.RECIPES, **mim.RECIPES, **spark.RECIPES, **poa.RECIPES, **ssld.RECIPES, **multimae.RECIPES}
MODELS = [*mae.MODELS, *mim.MODELS, *spark.MODELS, *poa.MODELS, *ssld.MODELS, *multimae.MODELS]
