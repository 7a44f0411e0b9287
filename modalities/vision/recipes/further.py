"""Recipes of further pre-training with self-distillation (Lee et al., ICLR 2023, arXiv 2210.02871); `zoo further` runs both stages of one."""

from modalities.vision.recipes.mae import MAERecipe, mae, mae_tiny_digits
from trainer.config import replace


def mae_base_further() -> MAERecipe:
    """The paper's ViT-B/16 from MAE's ImageNet weights: 20,000 steps of 64 images in each stage."""
    return _further(mae("base"), "facebook/vit-mae-base", {"train.batch_size": 64, "train.epochs": None, "train.steps": 20_000})


def mae_tiny_digits_further() -> MAERecipe:
    """The same in small, from the encoder that comes with the project, for pictures of 20 x 20 grey pixels."""
    return _further(mae_tiny_digits(), "vision/mae-tiny-digits", {"train.batch_size": 64, "train.steps": 1000, "train.optim.lr": 1e-3})


def _further(recipe: MAERecipe, start: str, changes: dict[str, object]) -> MAERecipe:
    return replace(recipe, {"recipe": f"{recipe.recipe}-further", "init_from": start, **changes})
