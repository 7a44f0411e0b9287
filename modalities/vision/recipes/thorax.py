"""Pre-training for chest X-rays (Xiao et al., WACV 2023, arXiv 2210.12843): MAE with more hidden and milder crops.

Numbers of lambert-x/medical_mae@953a460. Its images, ChestX-ray14 and CheXpert, are normalised by ImageNet's statistics here, as the
repository does it for CheXpert and MIMIC-CXR; for ChestX-ray14 it uses 0.5056 and 0.252. The fine-tuning is the preset "thorax" of
`modalities.vision.finetune`.
"""

from modalities.vision.recipes.mae import MAERecipe, mae
from trainer.config import replace


def mae_small_thorax() -> MAERecipe:
    """ViT-S/16, decoder 512 x 2."""
    return _thorax("small")


def mae_base_thorax() -> MAERecipe:
    """ViT-B/16, decoder 512 x 8."""
    return _thorax("base")


def _thorax(size: str) -> MAERecipe:
    changes = {"objective.mask_ratio": 0.9, "objective.norm_pix_loss": False, "data.augment.crop_scale": (0.5, 1.0), "train.batch_size": 2048}
    return replace(mae(size), {"recipe": f"vision/mae-{size}-thorax", **changes})
