"""Fine-tuning of forecasting models on a table of one's own."""

from modalities.common.run import ModelRecipe
from trainer.errors import ModelError


def default_recipe(data: str, model: str) -> ModelRecipe:
    """The recipe with which a model is fine-tuned on the series at `data`. ModelError for a model that has none."""
    raise ModelError(f"{model} cannot be fine-tuned here: no system of this modality has a fine-tuning recipe.")
