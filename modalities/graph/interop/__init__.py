"""Checkpoint layouts of other libraries and of the official codes <-> ours, one module per system.

A module offers `recognise(keys, config) -> layout or None` and `describe(meta, config, layout, where, preprocessing) -> Description`.
"""

from modalities.graph.interop import graphmae, pretrain_gnns

MODULES = (graphmae, pretrain_gnns)
"""Asked in this order whether a checkpoint is theirs."""
