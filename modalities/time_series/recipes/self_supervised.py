"""Recipes that train the backbone of TTM without forecasting, on generated series; fine-tuning then trains its decoder and heads."""

from dataclasses import dataclass, field
from pathlib import Path

from modalities import registry
from modalities.common.evaluation import HeldOut, ReportedEvaluator
from modalities.common.run import Draw
from modalities.time_series.objectives.contrastive import ContrastiveSeries, ContrastiveSeriesConfig
from modalities.time_series.objectives.masked import MaskedSeries, MaskedSeriesConfig
from modalities.time_series.pictures import draw_masked
from modalities.time_series.recipes.base import PICTURES, tiny
from modalities.time_series.recipes.ttm import TTMRecipe
from modalities.time_series.synthetic.windows import SyntheticWindows

TASK = "feature-extraction"
"""The Hub's name of it."""
FAST = tiny(256, 300, 2e-3, beta=0.99)
"""A few minutes on one core: our own choice."""


@dataclass(frozen=True)
class MaskedTTMRecipe(TTMRecipe):
    """Pre-train the backbone of TTM by masked reconstruction of the histories of generated series (Nie et al. 2023, arXiv 2211.14730)."""

    objective: MaskedSeriesConfig = field(default_factory=MaskedSeriesConfig)
    """What is hidden."""

    def evaluators(self, source: SyntheticWindows, objective: MaskedSeries) -> list[ReportedEvaluator]:
        """The loss on held-out windows."""
        return [HeldOut(source.held_out, TASK, "mean squared error of hidden patches")]

    def draw(self, objective: MaskedSeries, source: SyntheticWindows) -> Draw:
        """Draws what is said of hidden patches of a few held-out windows."""
        batch = source.held_out.fetch(range(min(PICTURES, len(source.held_out))))

        def draw(objective: MaskedSeries, path: Path, title: str) -> None:
            draw_masked(objective, batch, path, title)

        return draw


def ttm_tiny_masked() -> MaskedTTMRecipe:
    """The backbone of the small TTM, trained to fill hidden patches of generated series. It does not forecast before it is fine-tuned."""
    return MaskedTTMRecipe(recipe="time_series/ttm-tiny-masked", model=registry.config_of("time_series/ttm-tiny"), train=FAST)


@dataclass(frozen=True)
class ContrastiveTTMRecipe(TTMRecipe):
    """Pre-train the backbone of TTM so that two views of a generated series have near embeddings (NT-Xent of SimCLR, views of TS2Vec)."""

    objective: ContrastiveSeriesConfig = field(default_factory=ContrastiveSeriesConfig)
    """What views are, and how they are compared."""

    def evaluators(self, source: SyntheticWindows, objective: ContrastiveSeries) -> list[ReportedEvaluator]:
        """The loss on held-out windows, and how often the partner is the nearest view."""
        return [HeldOut(source.held_out, TASK, "NT-Xent loss among the views of at most 256 series", ["accuracy"])]

    def draw(self, objective: ContrastiveSeries, source: SyntheticWindows) -> None:
        """Embeddings have no picture here, and nothing is forecast yet."""
        return None


def ttm_tiny_contrastive() -> ContrastiveTTMRecipe:
    """The backbone of the small TTM, trained to know a generated series again by another piece of it. It does not forecast before it is fine-tuned."""
    return ContrastiveTTMRecipe(recipe="time_series/ttm-tiny-contrastive", model=registry.config_of("time_series/ttm-tiny"), train=FAST)
