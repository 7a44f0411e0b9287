"""Checkpoint layouts of other libraries and of the official codes <-> ours, one module per system.

A module offers `recognise(keys, config) -> layout or None` and `describe(meta, config, layout, where, preprocessing) -> Description`.
"""

from types import ModuleType

from modalities.time_series.interop import chronos_bolt, gpht, time_moe, ttm

MODULES: tuple[ModuleType, ...] = (chronos_bolt, gpht, time_moe, ttm)
"""Asked in this order whether a checkpoint is theirs."""
