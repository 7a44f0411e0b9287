"""FlowState and its sizes."""

from typing import Any

from modalities.registry import ModelEntry, SystemEntry

CITATION = """@article{graf2025flowstate,
  title   = {{FlowState}: Sampling Rate Invariant Time Series Forecasting},
  author  = {Graf, Lars and Ortner, Thomas and Wo{\\'z}niak, Stanis{\\l}aw and Pantazi, Angeliki},
  journal = {arXiv:2508.05287},
  year    = {2025}
}"""

SYSTEMS = {
    "time_series/flowstate": SystemEntry(
        target="modalities.time_series.models.flowstate:FlowState",
        title="FlowState forecaster",
        what="A state-space encoder (S5) with a decoder of basis functions, each channel by itself. Both know how long a step is, so that one small network "
        "serves series of all sampling intervals: give the interval as `frequency`. It forecasts nine quantiles.",
        paper="Graf, Ortner, Wozniak, Pantazi: FlowState: Sampling Rate Invariant Time Series Forecasting, 2025, arXiv 2508.05287",
        citation=CITATION,
        limits="It sees one channel at a time and no covariates, and its forecasts are only as good as the season that the sampling interval implies: of daily series "
        "set the config's `days` to 7 where the days of the week count. The authors' training code is not released; the loss here is written from the paper.",
        pipeline_tag="time-series-forecasting",
        tags=("forecasting", "state-space-model", "flowstate", "time-series"),
        picture="Forecast with its quantile bands behind the history, and the truth where it is known",
        snippet='batch = model.preprocess({{"series": series, "frequency": "15min"}})  # (C, T), NaN where missing\n'
        "forecast = model.forecast(batch, horizon=96)\n"
        "forecast.point  # (1, C, 96); forecast.quantiles: (1, 9, C, 96)",
        weights_licence="apache-2.0",
        exports={"official": "modalities.time_series.exporting:official_export"},
    ),
}


def _model(name: str, parameters: int, summary: str, where: str, **fields: Any) -> ModelEntry:
    return ModelEntry(f"time_series/flowstate-{name}", "time_series/flowstate", summary, parameters, fields, None, (where,))


MODELS = [
    ModelEntry(
        "time_series/flowstate-micro", "time_series/flowstate", "FlowState of our own size for tests and laptops: 2 state-space layers, 512 steps of context at one step per hour", 60_768,
        dict(context_length=512, embed_dim=64, depth=2, state_dim=64, hippo_blocks=4, basis_dim=32),
    ),
    _model("r1", 9_069_312, "FlowState r1: 6 state-space layers, 2,048 steps of context at one step per hour",
           '`zoo.from_pretrained("ibm-granite/granite-timeseries-flowstate-r1")` loads the authors\' weights from the Hub.'),
    _model("r1.1", 18_524_928, "FlowState r1.1: 6 state-space layers with feed-forward layers and gates, 4,096 steps of context at one step per hour",
           '`zoo.from_pretrained("ibm-granite/granite-timeseries-flowstate-r1@r1.1")` loads the authors\' weights from the Hub.',
           context_length=4096, mlp="transformer", out_gating=True),
]  # fmt: skip

RECIPES = {f"time_series/flowstate-{size}": f"modalities.time_series.recipes.foundation:flowstate_{size.replace('.', '_')}" for size in ("micro", "r1", "r1.1")}
