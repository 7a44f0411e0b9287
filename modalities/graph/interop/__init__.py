"""Checkpoint layouts of other libraries and of the official codes <-> ours, one module per system.

A module offers `recognise(keys, config) -> layout or None` and `describe(meta, config, layout, where, preprocessing) -> Description`.
"""

from modalities.graph.interop import graphmae, preroutgnn, pretrain_gnns

MODULES = (graphmae, pretrain_gnns, preroutgnn)
"""Asked in this order whether a checkpoint is theirs."""
