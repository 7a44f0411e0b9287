"""Checkpoint layouts of other libraries and of the official codes <-> ours, one module per system.

A module offers `recognise(keys, config) -> layout or None` and `describe(meta, config, layout, where, preprocessing) -> Description`.
"""

from types import ModuleType

from modalities.time_series.interop import ce_ssl, chronos2, chronos_bolt, flowstate, from_transformers, gpht, sspt, time_moe, timelygpt, ttm

MODULES: tuple[ModuleType, ...] = (flowstate, ce_ssl, chronos2, chronos_bolt, from_transformers, gpht, sspt, time_moe, timelygpt, ttm)
"""Asked in this order whether a checkpoint is theirs."""
