"""GPD, experimental, and its sizes."""

from modalities.registry import ModelEntry, SystemEntry

SYSTEMS = {
    "time_series/gpd": SystemEntry(
        target="modalities.time_series.models.gpd:GPD",
        title="experimental: diffusion model of windows that forecasts by guided sampling",
        what="EXPERIMENTAL: a reconstruction from the paper's description; no official code exists, so nothing could be compared with it. A stack of MLP blocks with skips learns, without any condition, the "
        "noise in windows of series. A forecast draws windows whose first part agrees with the history, and gives their quantiles.",
        paper="Generative Pre-Trained Diffusion Paradigm for Zero-Shot Time Series Forecasting, 2024, arXiv 2406.02212",
        citation="@article{gpd2024,\n  title   = {Generative Pre-Trained Diffusion Paradigm for Zero-Shot Time Series Forecasting},\n  journal = {arXiv:2406.02212},\n  year    = {2024}\n}",
        limits="Sizes, noise schedule, scaling and sampling are our own choice, and no figure of the paper may be expected of it. A forecast takes hundreds of passes through the network. Channels are "
        "taken one by one.",
        pipeline_tag="time-series-forecasting",
        tags=("gpd", "diffusion", "experimental", "time-series"),
        snippet="batch = model.preprocess(series)  # an array (T,) or (C, T), a table, or a file\nprint(model.forecast(batch, horizon=24).quantiles)  # (1, 9, C, 24)",
    )
}

RECIPES = {"time_series/gpd-tiny": "modalities.time_series.recipes.decoders:gpd_tiny"}

MODELS = [
    ModelEntry("time_series/gpd-base", "time_series/gpd", "GPD, experimental: windows of 384 points, 8 blocks of width 1024", 52_495_744),
    ModelEntry("time_series/gpd-tiny", "time_series/gpd", "GPD of our own size, experimental: windows of 96 points, 4 blocks of width 128", 471_520,
               {"window": 96, "horizon": 24, "width": 128, "depth": 4}),
]  # fmt: skip
