"""Time series. The names that this modality offers; nothing is imported until one of them is asked for."""

from modalities.registry import ModelEntry, SystemEntry
from modalities.time_series.entries import chronos_bolt, gpht, time_moe, ttm

SYSTEMS: dict[str, SystemEntry] = {**chronos_bolt.SYSTEMS, **gpht.SYSTEMS, **time_moe.SYSTEMS, **ttm.SYSTEMS}
RECIPES: dict[str, str] = {**chronos_bolt.RECIPES, **gpht.RECIPES, **time_moe.RECIPES, **ttm.RECIPES}
MODELS: list[ModelEntry] = [*chronos_bolt.MODELS, *time_moe.MODELS, *ttm.MODELS]
