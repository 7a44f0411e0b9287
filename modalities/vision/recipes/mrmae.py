"""Recipes of MR-MAE (Gao et al. 2023, arXiv 2303.05475): MAE's, with a frozen teacher for the visible tokens."""

from modalities.vision.recipes.mae import MAERecipe, mae, mae_tiny_digits
from trainer.config import replace

CLIP = "timm:vit_base_patch16_clip_224.openai"
"""The paper's teacher, CLIP ViT-B/16; timm downloads its weights once."""


def mrmae_base() -> MAERecipe:
    """The paper's 400 epochs of ViT-B/16 with CLIP's features; the batch is the smallest that it names. Plain encoder, without convolution stages."""
    return mimicking(mae("base"), "vision/mrmae-base", CLIP, {"train.batch_size": 1024, "train.epochs": 400})


def mrmae_tiny_digits() -> MAERecipe:
    """The digits' recipe in half of the steps. The teacher is the encoder that comes with the project, trained by MAE on the same digits."""
    return mimicking(mae_tiny_digits(), "vision/mrmae-tiny-digits", "vision/mae-tiny-digits", {"train.steps": 1200})


def mimicking(recipe: MAERecipe, name: str, teacher: str, changes: dict[str, object]) -> MAERecipe:
    """A recipe of MAE with a teacher, under another name."""
    return replace(recipe, {"recipe": name, "objective.mimic.teacher": teacher, **changes})
