"""Time series. The names that this modality offers; nothing is imported until one of them is asked for."""

from modalities.registry import ModelEntry, SystemEntry

SYSTEMS: dict[str, SystemEntry] = {}
RECIPES: dict[str, str] = {}
MODELS: list[ModelEntry] = []
