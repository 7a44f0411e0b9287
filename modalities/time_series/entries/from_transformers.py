"""Forecasters of transformers: TimesFM, PatchTST and PatchTSMixer, with that library's code."""

from modalities.registry import ModelEntry, SystemEntry

SNIPPET = "batch = model.preprocess(series)  # an array (T,) or (C, T), a table, or a file\nprint(model.forecast(batch, horizon=96).point)  # (1, C, 96)"
PATCH = "modalities.time_series.models.from_transformers:PatchForecaster"

SYSTEMS = {
    "time_series/timesfm": SystemEntry(
        target="modalities.time_series.models.from_transformers:TimesFM",
        title="decoder-only forecaster with quantiles, by the code of transformers",
        what="A causal transformer over patches of 32 points that forecasts 128 steps at once, the mean and nine quantiles, channel by channel. It was trained by its authors on many real and generated "
        "series, so that it forecasts a new series without training. The network is that of transformers; the zoo adds its contract: gaps, channels, any horizon.",
        paper="Das, Kong, Sen, Zhou: A decoder-only foundation model for time-series forecasting, 2023, arXiv 2310.10688",
        citation="@article{das2023timesfm,\n  title   = {A decoder-only foundation model for time-series forecasting},\n  author  = {Das, Abhimanyu and Kong, Weihao and Sen, Rajat and Zhou, Yichen},\n"
        "  journal = {arXiv:2310.10688},\n  year    = {2023}\n}",
        limits="It sees one channel at a time and no covariates. Gaps are filled by straight lines before it reads a series. Its parts: `pip install 'modality-zoo[transformers]'`.",
        pipeline_tag="time-series-forecasting",
        tags=("timesfm", "time-series"),
        snippet=SNIPPET,
        exports={"transformers": "modalities.time_series.exporting:transformers_export"},
    ),
    "time_series/patch-forecaster": SystemEntry(
        target=PATCH,
        title="PatchTST or PatchTSMixer with a head for forecasts, by the code of transformers",
        what="Patches of a series are the tokens of a transformer (PatchTST) or of an MLP-mixer (PatchTSMixer), which is trained on the user's own series for one context and horizon. The network is "
        "that of transformers; the zoo adds its contract: gaps, shorter contexts, longer horizons.",
        paper="Nie et al.: A Time Series is Worth 64 Words, 2022, arXiv 2211.14730; Ekambaram et al.: TSMixer, 2023, arXiv 2306.09364",
        citation="@article{nie2022patchtst,\n  title   = {A Time Series is Worth 64 Words: Long-term Forecasting with Transformers},\n  author  = {Nie, Yuqi and Nguyen, Nam H. and Sinthong, Phanwadee and Kalagnanam, Jayant},\n"
        "  journal = {arXiv:2211.14730},\n  year    = {2022}\n}",
        limits="It is no foundation model: it forecasts the series that it was trained on, and as many channels as it was made for. Its parts: `pip install 'modality-zoo[transformers]'`.",
        pipeline_tag="time-series-forecasting",
        tags=("patchtst", "patchtsmixer", "time-series"),
        snippet=SNIPPET,
        exports={"transformers": "modalities.time_series.exporting:transformers_export"},
    ),
}

RECIPES: dict[str, str] = {}
HUB = "`zoo.from_pretrained(\"{}\")` loads the authors' weights from the Hub."
TIMESFM_2 = {"context_length": 2048}

MODELS = [
    ModelEntry("time_series/timesfm-2.0-500m", "time_series/timesfm", "TimesFM 2.0: 2,048 points of context, 128 steps of 9 quantiles at once", 498_828_960, {"arguments": TIMESFM_2}, None,
               (HUB.format("google/timesfm-2.0-500m-pytorch"),)),
    ModelEntry("time_series/timesfm-2.5-200m", "time_series/timesfm", "TimesFM 2.5: 16,384 points of context, 128 steps of 9 quantiles at once", 231_289_280, {"model_type": "timesfm2_5"}, None,
               (HUB.format("google/timesfm-2.5-200m-transformers"),)),
    ModelEntry("time_series/patchtst-tiny", "time_series/patch-forecaster", "PatchTST of our own size: 96 points of one channel, 24 steps", 18_552,
               {"arguments": {"context_length": 96, "prediction_length": 24, "patch_length": 8, "patch_stride": 8, "d_model": 32, "ffn_dim": 64, "num_hidden_layers": 2}}),
    ModelEntry("time_series/patchtsmixer-tiny", "time_series/patch-forecaster", "PatchTSMixer of our own size: 96 points of one channel, 24 steps", 21_816,
               {"model_type": "patchtsmixer", "arguments": {"context_length": 96, "prediction_length": 24, "patch_length": 8, "patch_stride": 8, "d_model": 32, "num_layers": 2}}),
]  # fmt: skip
