"""Chronos-Bolt and its sizes."""

from typing import Any

from modalities.registry import ModelEntry, SystemEntry

CITATION = """@article{ansari2024chronos,
  title   = {Chronos: Learning the Language of Time Series},
  author  = {Ansari, Abdul Fatir and Stella, Lorenzo and Turkmen, Caner and Zhang, Xiyuan and Mercado, Pedro and Shen, Huibin and others},
  journal = {Transactions on Machine Learning Research},
  year    = {2024}
}"""

SYSTEMS = {
    "time_series/chronos-bolt": SystemEntry(
        target="modalities.time_series.models.chronos_bolt:ChronosBolt",
        title="Chronos-Bolt forecaster",
        what="An encoder-decoder transformer (T5) that reads a series in patches, each channel by itself, and forecasts nine quantiles of the next steps at "
        "once. It was trained on many public and generated series, so that it forecasts a new series without training.",
        paper="Ansari et al.: Chronos: Learning the Language of Time Series, 2024, arXiv 2403.07815; Chronos-Bolt was released in November 2024 with chronos-forecasting",
        citation=CITATION,
        limits="It sees one channel at a time and no covariates. Beyond the steps that it forecasts at once, forecasts come by roll-out and grow less certain than "
        "their quantiles say. Quantiles are not sorted by the model and may cross.",
        pipeline_tag="time-series-forecasting",
        tags=("forecasting", "chronos", "chronos-bolt", "time-series"),
        picture="Forecast with its quantile bands behind the history, and the truth where it is known",
        snippet='forecast = model.forecast({{"series": series}}, horizon=24)  # series: (B, C, T), NaN where missing\n'
        "forecast.point  # (B, C, 24); forecast.quantiles: (B, 9, C, 24)",
        weights_licence="apache-2.0",
        exports={"official": "modalities.time_series.exporting:official_export"},
    ),
}


def _model(size: str, parameters: int, **fields: Any) -> ModelEntry:
    """A published size."""
    return ModelEntry(
        f"time_series/chronos-bolt-{size}", "time_series/chronos-bolt", f"Chronos-Bolt {size}: 2,048 steps of context, 64 steps of 9 quantiles at once", parameters, fields, None,
        (f'`zoo.from_pretrained("amazon/chronos-bolt-{size}")` loads the authors\' weights from the Hub.',),
    )  # fmt: skip


MODELS = [
    ModelEntry(
        "time_series/chronos-bolt-micro", "time_series/chronos-bolt", "Chronos-Bolt of our own size for tests and laptops: 512 steps of context, 48 steps of 9 quantiles at once", 271_712,
        dict(context_length=512, prediction_length=48, embed_dim=64, depth=2, decoder_depth=2, head_dim=16, mlp_dim=128, init_factor=1.0),
    ),
    _model("tiny", 8_652_672),
    _model("mini", 21_236_096, embed_dim=384, mlp_dim=1536, num_heads=8),
    _model("small", 47_718_016, embed_dim=512, mlp_dim=2048, num_heads=8, depth=6, decoder_depth=6),
    _model("base", 205_292_928, embed_dim=768, mlp_dim=3072, num_heads=12, depth=12, decoder_depth=12),
]  # fmt: skip

RECIPES = {f"time_series/chronos-bolt-{size}": f"modalities.time_series.recipes.foundation:chronos_bolt_{size}" for size in ("micro", "tiny", "mini", "small", "base")}
