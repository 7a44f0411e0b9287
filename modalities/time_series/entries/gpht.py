"""GPHT and its sizes."""

from typing import Any

from modalities.registry import ModelEntry, SystemEntry

PAPER = "Liu, Yang, Cheng, Luo, Li: Generative Pretrained Hierarchical Transformer for Time Series Forecasting, 2024, arXiv 2402.16516"
CITATION = """@inproceedings{liu2024gpht,
  title     = {Generative Pretrained Hierarchical Transformer for Time Series Forecasting},
  author    = {Liu, Zhiding and Yang, Jiqian and Cheng, Mingyue and Luo, Yucong and Li, Zhi},
  booktitle = {Proceedings of the ACM SIGKDD Conference on Knowledge Discovery and Data Mining},
  year      = {2024}
}"""

SYSTEMS = {
    "time_series/gpht": SystemEntry(
        target="modalities.time_series.models.gpht:GPHT",
        title="hierarchical transformer that forecasts the next token of a series",
        what="A causal transformer that was trained to say the next token (a run of points) of every token of a series. It does so in stages, from coarse to fine: "
        "each stage reads the maxima over a few points and says a part of the next token, and the following stage sees what is left. Channels are taken one by one. "
        "Longer forecasts come by feeding the forecast back.",
        paper=PAPER,
        citation=CITATION,
        limits="It forecasts points, without an estimate of how sure it is. Errors grow with every token that is fed back. It knows nothing of channels that influence each other, of "
        "covariates or of the calendar. In training the window is normed with its own statistics, future tokens included, as in the official code.",
        pipeline_tag="time-series-forecasting",
        tags=("gpht", "transformer", "time-series"),
        snippet="batch = model.preprocess(series)  # an array (T,) or (C, T), a table, or a file\n"
        "print(model.forecast(batch, horizon=96).point)  # (1, C, 96)",
        exports={"official": "modalities.time_series.exporting:official_export"},
    )
}

RECIPES = {f"time_series/gpht-{size}": f"modalities.time_series.recipes.decoders:gpht_{size}" for size in ("base", "tiny")}


def _gpht(size: str, parameters: int, summary: str, **fields: Any) -> ModelEntry:
    return ModelEntry(f"time_series/gpht-{size}", "time_series/gpht", summary, parameters, fields)


MODELS = [
    _gpht("base", 37_977_280, "GPHT of the paper: 336 points in tokens of 48, 4 stages of 3 layers, width 512"),
    _gpht("tiny", 70_560, "GPHT of our own size for tests and laptops: 96 points in tokens of 16, 2 stages", context_length=96, token_length=16,
          pooling=(4, 1), embed_dim=64, hidden_dim=128, num_heads=4, stage_layers=1, dropout=0.0),
]  # fmt: skip
