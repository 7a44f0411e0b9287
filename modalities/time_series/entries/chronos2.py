"""Chronos-2 and its sizes."""

from typing import Any

from modalities.registry import ModelEntry, SystemEntry

CITATION = """@article{ansari2025chronos2,
  title   = {{Chronos-2}: From Univariate to Universal Forecasting},
  author  = {Ansari, Abdul Fatir and Shchur, Oleksandr and K{\\"u}ken, Jaris and Auer, Andreas and Han, Boran and others},
  journal = {arXiv:2510.15821},
  year    = {2025}
}"""

SYSTEMS = {
    "time_series/chronos-2": SystemEntry(
        target="modalities.time_series.models.chronos2:Chronos2",
        title="Chronos-2 forecaster",
        what="A transformer that reads series in patches and lets the channels and covariates of a sample see each other at every place in time. It forecasts 21 "
        "quantiles of single series, of several at once, and of series with covariates that are known for the past or for the future, too.",
        paper="Ansari et al.: Chronos-2: From Univariate to Universal Forecasting, 2025, arXiv 2510.15821",
        citation=CITATION,
        limits="Covariates must be numbers: categories have to be encoded before. Beyond the steps that it forecasts at once, forecasts come by roll-out and grow "
        "less certain than their quantiles say. Quantiles are not sorted by the model and may cross.",
        pipeline_tag="time-series-forecasting",
        tags=("forecasting", "chronos", "chronos-2", "covariates", "time-series"),
        picture="Forecast with its quantile bands behind the history, and the truth where it is known",
        snippet='batch = {{"series": series, "future_covariates": known}}  # (B, C, T), NaN where missing; (B, F, T + 24)\n'
        "forecast = model.forecast(batch, horizon=24)\n"
        "forecast.point  # (B, C, 24); forecast.quantiles: (B, Q, C, 24)",
        weights_licence="apache-2.0",
        exports={"official": "modalities.time_series.exporting:official_export"},
    ),
}


def _model(name: str, parameters: int, summary: str, **fields: Any) -> ModelEntry:
    where = (f'`zoo.from_pretrained("amazon/{name}")` loads the authors\' weights from the Hub.',)
    return ModelEntry(f"time_series/{name}", "time_series/chronos-2", summary, parameters, fields, None, where)


MODELS = [
    _model("chronos-2", 119_477_664, "Chronos-2: 8,192 steps of context, 1,024 steps of 21 quantiles at once, several channels and covariates"),
    _model("chronos-2-small", 28_262_560, "Chronos-2 small: 8,192 steps of context, 1,024 steps of 21 quantiles at once", embed_dim=512, depth=6, num_heads=8, mlp_dim=2048),
    ModelEntry(
        "time_series/chronos-2-micro", "time_series/chronos-2", "Chronos-2 of our own size for tests and laptops: 512 steps of context, 64 steps of 9 quantiles at once", 152_800,
        dict(
            context_length=512, max_output_patches=4, quantiles=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), embed_dim=64, depth=2, num_heads=4, head_dim=16,
            mlp_dim=128, init_factor=1.0,
        ),
    ),
]  # fmt: skip

RECIPES = {f"time_series/{name}": f"modalities.time_series.recipes.foundation:{name.replace('-', '_')}" for name in ("chronos-2", "chronos-2-small", "chronos-2-micro")}
