"""Time-MoE and its sizes."""

from typing import Any

from modalities.registry import ModelEntry, SystemEntry

CITATION = """@inproceedings{shi2025timemoe,
  title     = {{Time-MoE}: Billion-Scale Time Series Foundation Models with Mixture of Experts},
  author    = {Shi, Xiaoming and Wang, Shiyu and Nie, Yuqi and Li, Dianqi and Ye, Zhou and Wen, Qingsong and Jin, Ming},
  booktitle = {International Conference on Learning Representations},
  year      = {2025}
}"""

SYSTEMS = {
    "time_series/time-moe": SystemEntry(
        target="modalities.time_series.models.time_moe:TimeMoE",
        title="Time-MoE forecaster",
        what="A decoder-only transformer that reads a series point by point, each channel by itself. In every layer a router sends each point to two of "
        "eight experts, so that only a part of the weights works on it. Heads of several lengths forecast the next points; longer horizons are rolled out.",
        paper="Shi, Wang, Nie, Li, Ye, Wen, Jin: Time-MoE: Billion-Scale Time Series Foundation Models with Mixture of Experts, ICLR 2025, arXiv 2409.16040",
        citation=CITATION,
        limits="It forecasts points without any measure of their uncertainty, one channel at a time and without covariates. One token per point makes long "
        "contexts slow. Missing values inside a series are filled with the last one observed.",
        pipeline_tag="time-series-forecasting",
        tags=("forecasting", "mixture-of-experts", "time-moe", "time-series"),
        picture="Forecast behind the history, and the truth where it is known",
        snippet='forecast = model.forecast({{"series": series}}, horizon=96)  # series: (B, C, T), NaN where missing\nforecast.point  # (B, C, 96)',
        weights_licence="apache-2.0",
        exports={"official": "modalities.time_series.exporting:official_export"},
    ),
}


def _model(size: str, parameters: int, summary: str, released: bool = True, **fields: Any) -> ModelEntry:
    where = (f'`zoo.from_pretrained("Maple728/TimeMoE-{size.upper()}")` loads the authors\' weights from the Hub.',)
    return ModelEntry(f"time_series/time-moe-{size}", "time_series/time-moe", summary, parameters, fields, None, where if released else ())


MODELS = [
    ModelEntry(
        "time_series/time-moe-micro", "time_series/time-moe", "Time-MoE of our own size for tests and laptops: 2 layers of 4 experts, 320 points", 188_416,
        dict(context_length=320, embed_dim=64, mlp_dim=128, depth=2, num_heads=4, experts=4),
    ),
    _model("50m", 113_352_192, "Time-MoE base, 50 M of 113 M parameters active: 12 layers of 8 experts, 4,096 points"),
    _model("200m", 453_196_800, "Time-MoE large, 200 M of 453 M parameters active: 12 layers of 8 experts, 4,096 points", embed_dim=768, mlp_dim=3072),
    _model("ultra", 2_416_545_792, "Time-MoE ultra, 1.1 of 2.4 billion parameters active: 36 layers of 8 experts, 4,096 points; not released", False, embed_dim=1024, mlp_dim=4096, depth=36, num_heads=16),
]  # fmt: skip

RECIPES = {f"time_series/time-moe-{size}": f"modalities.time_series.recipes.foundation:time_moe_{size}" for size in ("micro", "50m", "200m", "ultra")}
