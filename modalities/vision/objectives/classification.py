"""Supervised fine-tuning of image classifiers by the recipe of MAE: see `modalities.common.classification`."""

from modalities.common.classification import Classification, ClassificationConfig

__all__ = ["Classification", "ClassificationConfig"]
