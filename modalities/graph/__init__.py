"""Graphs. The names that this modality offers; nothing is imported until one of them is asked for."""

from modalities.graph.entries import encoders, graphmae, preroutgnn, pretrain_gnns

SYSTEMS = {**graphmae.SYSTEMS, **pretrain_gnns.SYSTEMS, **preroutgnn.SYSTEMS}
RECIPES = {**graphmae.RECIPES, **pretrain_gnns.RECIPES, **encoders.RECIPES, **preroutgnn.RECIPES}
MODELS = [*graphmae.MODELS, *pretrain_gnns.MODELS, *encoders.MODELS, *preroutgnn.MODELS]
