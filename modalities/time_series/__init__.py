"""Time series. The names that this modality offers; nothing is imported until one of them is asked for."""

from modalities.registry import ModelEntry, SystemEntry
from modalities.time_series.entries import ce_ssl, chronos2, chronos_bolt, flowstate, from_transformers, gpd, gpht, sspt, synthetic, time_moe, timelygpt, ttm

SYSTEMS: dict[str, SystemEntry] = {**flowstate.SYSTEMS, **chronos2.SYSTEMS, **chronos_bolt.SYSTEMS, **time_moe.SYSTEMS, **ttm.SYSTEMS, **gpht.SYSTEMS, **timelygpt.SYSTEMS, **sspt.SYSTEMS, **ce_ssl.SYSTEMS, **gpd.SYSTEMS, **from_transformers.SYSTEMS}
RECIPES: dict[str, str] = {**flowstate.RECIPES, **chronos2.RECIPES, **chronos_bolt.RECIPES, **time_moe.RECIPES, **ttm.RECIPES, **synthetic.RECIPES, **gpht.RECIPES, **timelygpt.RECIPES, **sspt.RECIPES, **ce_ssl.RECIPES, **gpd.RECIPES, **from_transformers.RECIPES}
MODELS: list[ModelEntry] = [*flowstate.MODELS, *chronos2.MODELS, *chronos_bolt.MODELS, *time_moe.MODELS, *ttm.MODELS, *synthetic.MODELS, *gpht.MODELS, *timelygpt.MODELS, *sspt.MODELS, *ce_ssl.MODELS, *gpd.MODELS, *from_transformers.MODELS]
