"""Time series. The names that this modality offers; nothing is imported until one of them is asked for."""

from modalities.registry import ModelEntry, SystemEntry
from modalities.time_series.entries import gpht

SYSTEMS: dict[str, SystemEntry] = {**gpht.SYSTEMS}
RECIPES: dict[str, str] = {**gpht.RECIPES}
MODELS: list[ModelEntry] = []
