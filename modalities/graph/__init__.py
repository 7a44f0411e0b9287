"""Graphs. The names that this modality offers; nothing is imported until one of them is asked for."""

from modalities.graph.entries import graphmae

SYSTEMS = {**graphmae.SYSTEMS}
RECIPES = {**graphmae.RECIPES}
MODELS = [*graphmae.MODELS]
